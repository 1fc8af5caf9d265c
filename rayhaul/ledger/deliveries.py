"""Messages to webhooks as the ledger keeps them: those to be delivered, each try, and who gets no more of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRecord:
    """A message to be delivered at least once, written with the change it tells of."""

    outbox_id: str
    job_id: str
    user_id: str
    #: Where to: the job's webhook.
    url: str
    event: str
    payload: Mapping[str, Any]
    created_at: datetime
    #: Deliveries tried so far, and when the next one is due.
    attempts: int = 0
    next_attempt_at: datetime | None = None
    #: Since when nothing is sent there for this user, as of reading; None where it is.
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DisabledWebhook:
    """A URL that answered 410 to a user's message, and gets no more of them."""

    user_id: str
    #: Kept as a fingerprint only.
    url: str
    #: Host and port, for people.
    receiver: str
    #: When it answered 410.
    disabled_at: datetime
    #: When a message for it was last given up, the one that it answered included.
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DisabledReceiver:
    """What can be told of a disabled webhook: its URL is not known any more."""

    user_id: str
    receiver: str
    disabled_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRecord:
    """One try to deliver a webhook message, and what became of it."""

    #: Given by the ledger; grows with time.
    seq: int | None = None
    ts: datetime
    message_id: str
    job_id: str
    user_id: str
    event: str
    #: Host and port: the rest of a webhook's URL is often its secret.
    receiver: str
    #: From 1.
    attempt: int
    #: A word of rayhaul.policy.webhook.Result.
    result: str
    #: None where there was no answer.
    status: int | None
    duration_ms: int
    #: None where it is not tried again.
    next_attempt_at: datetime | None
    #: For people: why it was given up before its time, and what helps. None where that was not so.
    why: str | None = None
