"""Webhooks as the Standard Webhooks specification 1.0.0 has them: body, signature, what an answer means, when again.

Laws of this file:
1. A message keeps its id and its body over all its deliveries; timestamp and signature are each delivery's own.
2. Only a 2xx is a success. A redirect is none, and never followed; 410 disables the URL, for the user whose message it
   was; all else is tried again.
3. Nothing secret is in a body: URLs lose user info, query and fragment, as everywhere else.
"""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from rayhaul.job import TRANSITIONS, JobEvent, JobStatus
from rayhaul.redaction import clean
from rayhaul.wire import timestamp

#: Waits after the first, second, … try; later ones wait as long as the last. The tenth comes some three days after the
#: first. Source: Standard Webhooks, "Deliverability and reliability".
DELAYS_S: tuple[float, ...] = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
#: Each wait is longer or shorter by up to this share, so that the tries of many do not meet again.
JITTER = 0.2

#: An event has one status behind it, wherever it came from.
_STATUS: Mapping[JobEvent, JobStatus] = {
    JobEvent.CREATED: JobStatus.QUEUED,
    **{event: status for arrows in TRANSITIONS.values() for event, status in arrows.items()},
}
#: The receiver, or what stands before it, asks for less: the rest of its messages should wait as well.
_BUSY = frozenset({429, 502, 503, 504})


class Result(StrEnum):
    """How a delivery ended: the label of the metric WEBHOOK_DELIVERIES."""

    #: Answered with 2xx.
    DELIVERED = "delivered"
    #: 410: the receiver wants no more.
    GONE = "gone"
    #: 3xx, not followed.
    REDIRECTED = "redirected"
    #: 429, 502, 503, 504: too much for it.
    BUSY = "busy"
    #: Any other status.
    REFUSED = "refused"
    #: No answer: name, connection, TLS or time.
    SILENT = "silent"
    #: Its address may not be connected to.
    DENIED = "denied"
    #: Our own mistake.
    ERROR = "error"

    @property
    def is_strain(self) -> bool:
        """Whether it says that the receiver is in no state to take more at once."""
        return self in _STRAINS


_STRAINS = frozenset({Result.BUSY, Result.SILENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one delivery."""

    result: Result
    #: None where there was no answer.
    status: int | None = None
    #: What the receiver asked us to wait, in seconds.
    retry_after_s: float | None = None
    #: For the log: why there was no answer.
    why: str = ""


def body(*, event: str, job_id: str, user_id: str, created_at: datetime, payload: Mapping[str, Any]) -> bytes:
    """Return the JSON to be sent: in `data` the event as event streams show it, but for `seq`. ASCII, no spaces."""
    told = {
        "type": f"job.{event}",
        "timestamp": timestamp(created_at),
        "data": {
            "ts": timestamp(created_at),
            "event": event,
            "jobId": job_id,
            "userId": user_id,
            "correlationId": payload.get("correlationId"),
            "status": _STATUS[JobEvent(event)],
            "payload": clean(payload),
        },
    }
    return json.dumps(told, separators=(",", ":")).encode("ascii")


def headers(*, message_id: str, now_s: float, body: bytes, keys: Sequence[bytes]) -> Mapping[str, str]:
    """Return the headers of one delivery, signed with each of `keys`; without a key there is no signature."""
    moment = str(int(now_s))
    found = {"webhook-id": message_id, "webhook-timestamp": moment}
    if keys:
        signed = b".".join((message_id.encode(), moment.encode(), body))
        found["webhook-signature"] = " ".join(_signature(key, signed) for key in keys)
    return found


def _signature(key: bytes, signed: bytes) -> str:
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def classify(status: int) -> Result:
    """Return what a status means. Source: Standard Webhooks, "Delivery success and failure".

    >>> [classify(status).value for status in (204, 302, 410, 429, 500)]
    ['delivered', 'redirected', 'gone', 'busy', 'refused']
    """
    if 200 <= status < 300:
        return Result.DELIVERED
    if 300 <= status < 400:
        return Result.REDIRECTED
    if status == 410:
        return Result.GONE
    return Result.BUSY if status in _BUSY else Result.REFUSED


def why_disabled(disabled_at: datetime) -> str:
    """Return, for people, why nothing is sent to a URL that answered 410, and what helps."""
    return (
        f"it answered 410 at {timestamp(disabled_at)}: nothing more is sent to this URL until a test of it, by "
        "`rayhaul webhooks test`, is delivered"
    )


def next_try(
    outcome: Outcome, *, attempts: int, attempts_max: int, now: datetime, rng: random.Random
) -> datetime | None:
    """Return when to try again after `attempts` tries, the last of which had this outcome; None: give up.

    A Retry-After makes the wait longer, never shorter.
    """
    assert attempts >= 1, attempts
    assert outcome.result is not Result.DELIVERED, "there is nothing to try again"
    if outcome.result is Result.GONE or attempts >= attempts_max:
        return None
    delay_s = DELAYS_S[min(attempts, len(DELAYS_S)) - 1] * rng.uniform(1 - JITTER, 1 + JITTER)
    return now + timedelta(seconds=max(delay_s, outcome.retry_after_s or 0))
