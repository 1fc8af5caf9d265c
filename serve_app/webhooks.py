"""Webhooks over HTTP: what became of deliveries, which are disabled, and a message to try a receiver with."""

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from rayhaul.ids import IdFactory
from rayhaul.job import JobEvent
from rayhaul.ledger.deliveries import DeliveryRecord, OutboxRecord
from rayhaul.policy.webhook import Result
from rayhaul.wire import (
    DeliveryPage,
    DeliveryView,
    DisabledWebhooksPage,
    DisabledWebhookView,
    WebhookTestReport,
    WebhookTestRequest,
)
from serve_app.auth import Caller
from serve_app.bodies import parsed
from serve_app.openapi import json_body, problems_of
from serve_app.paging import Limit, NumberCursor
from serve_app.replica import replica_of
from serve_app.urls import check_url, counting_denials
from serve_app.views import reply
from serve_app.visit import visit_of
from tasks.egress import GuardedClient
from tasks.webhook import deliver

routes = APIRouter(tags=["webhooks"])

_new_id = IdFactory()


@routes.get("/webhooks/deliveries", response_model=DeliveryPage, responses=problems_of(401, 422, 503))
async def list_deliveries(
    request: Request,
    caller: Caller,
    *,
    job_id: Annotated[str | None, Query(alias="jobId", max_length=64, description="Of this job alone.")] = None,
    limit: Limit = 50,
    cursor: NumberCursor = None,
) -> Response:
    """List deliveries of webhook messages that were tried in the last thirty days, newest first."""
    found = await replica_of(request).ledger.deliveries(
        caller, job_id=job_id or None, before_seq=None if cursor is None else int(cursor), limit=limit + 1
    )
    page = found[:limit]
    next_cursor = str(page[-1].seq) if len(found) > limit else None
    return reply(DeliveryPage(deliveries=[_view(record) for record in page], next_cursor=next_cursor))


@routes.get("/webhooks/disabled", response_model=DisabledWebhooksPage, responses=problems_of(401, 422, 503))
async def list_disabled_webhooks(request: Request, caller: Caller, *, limit: Limit = 50) -> Response:
    """List the caller's webhooks that answered 410 and get no more messages; an operator is shown everybody's.

    `POST /webhooks/test` enables one again, asked for by the same user and once that message was delivered.
    """
    found = await replica_of(request).ledger.disabled_webhooks(caller, limit)
    return reply(
        DisabledWebhooksPage(
            webhooks=[
                DisabledWebhookView(
                    receiver=each.receiver,
                    user_id=each.user_id,
                    disabled_since=each.disabled_at,
                    last_given_up_at=each.last_at,
                )
                for each in found
            ]
        )
    )


@routes.post(
    "/webhooks/test",
    response_model=WebhookTestReport,
    responses=problems_of(400, 401, 413, 422, 503),
    openapi_extra=json_body(WebhookTestRequest),
)
async def try_webhook(request: Request, caller: Caller) -> Response:
    """Send a receiver a message of type `job.completed` about a job that never was, signed as all are, once.

    Where the URL had answered 410 and the caller's messages are not sent to it any more, they are again once this one
    was delivered.
    """
    replica = replica_of(request)
    asked = await parsed(request, WebhookTestRequest)
    with counting_denials(replica):
        check_url(replica, "url", asked.url)
    message = OutboxRecord(
        outbox_id=_new_id("msg"),
        job_id="job_test",
        user_id=caller.user_id,
        url=asked.url,
        event=JobEvent.COMPLETED,
        payload={"correlationId": visit_of(request.scope).correlation_id, "test": True},
        created_at=replica.now,
    )
    settings = replica.settings
    disabled_since = await replica.ledger.disabled_since(caller, asked.url)
    began_s = time.monotonic()
    async with GuardedClient(settings.egress, settings.source, connections_max=1, meter=replica.meter) as client:
        outcome = await deliver(client, message, settings.webhook, now_s=replica.clock())
    duration_ms = round((time.monotonic() - began_s) * 1000)
    enables = disabled_since is not None and outcome.result is Result.DELIVERED
    if enables:
        await replica.finish(replica.plane.enable_webhook(caller.user_id, asked.url))
    return reply(
        WebhookTestReport(
            message_id=message.outbox_id,
            result=outcome.result,
            status=outcome.status,
            duration_ms=duration_ms,
            signed=bool(settings.webhook.keys),
            disabled_since=disabled_since,
            enabled_again=enables,
        )
    )


def _view(record: DeliveryRecord) -> DeliveryView:
    assert record.seq is not None, "it comes from the ledger"
    return DeliveryView(
        seq=record.seq,
        ts=record.ts,
        message_id=record.message_id,
        job_id=record.job_id,
        event=record.event,
        receiver=record.receiver,
        attempt=record.attempt,
        result=record.result,
        status=record.status,
        duration_ms=record.duration_ms,
        next_attempt_at=record.next_attempt_at,
        why=record.why,
    )
