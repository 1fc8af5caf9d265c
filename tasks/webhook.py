"""One delivery of one webhook message through the guarded client; it says what happened and decides nothing.

Redirects are answers here, and the answer's body is never read: its connection is closed instead.
"""

import asyncio

from rayhaul import tracing
from rayhaul.errors import RayhaulError, RequestError
from rayhaul.ledger.base import TRACEPARENT
from rayhaul.ledger.deliveries import OutboxRecord
from rayhaul.policy import webhook
from rayhaul.policy.webhook import Outcome, Result
from rayhaul.settings import WebhookSettings
from tasks.egress import GuardedClient
from tasks.source import retry_after_s


async def deliver(client: GuardedClient, record: OutboxRecord, settings: WebhookSettings, *, now_s: float) -> Outcome:
    """POST the message, once. `now_s` (Unix) is what its timestamp header says."""
    # The span of this delivery where there is one; else that of the job's creation, or none.
    span = tracing.current().context
    traceparent = record.payload.get(TRACEPARENT) if span is None else span.traceparent
    body = webhook.body(
        event=record.event,
        job_id=record.job_id,
        user_id=record.user_id,
        created_at=record.created_at,
        payload={name: value for name, value in record.payload.items() if name != TRACEPARENT},
    )
    headers = {
        "Content-Type": "application/json",
        "X-Correlation-ID": str(record.payload.get("correlationId", "")),
        **({"traceparent": traceparent} if traceparent else {}),
        **webhook.headers(message_id=record.outbox_id, now_s=now_s, body=body, keys=settings.keys),
    }
    try:
        async with (
            asyncio.timeout(settings.timeout_s),
            client.open_now(record.url, extra=headers, post=body) as answer,
        ):
            return Outcome(
                result=webhook.classify(answer.status),
                status=answer.status,
                retry_after_s=retry_after_s(answer.headers),
            )
    except TimeoutError:
        return Outcome(result=Result.SILENT, why="it did not answer in time")
    except RequestError as error:
        return Outcome(result=Result.DENIED, why=error.message)
    except RayhaulError as error:
        return Outcome(result=Result.SILENT, why=error.message)
