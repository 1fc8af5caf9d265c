"""The webhooks that answered 410: what the ledger said of them last, and what it is still to be told.

A message that is in hand is on every page of due messages, so the newest page says all that there is to know here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from actors.mailbag import receiver_of
from rayhaul.ledger.deliveries import DisabledWebhook, OutboxRecord

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class DisabledNews:
    """What the ledger does not know yet."""

    #: These answered 410.
    answered: Sequence[DisabledWebhook]
    #: These were spared a message, because they had.
    spared: Sequence[DisabledWebhook]


class Disabled:
    def __init__(self) -> None:
        #: By user id and URL.
        self._known: dict[_Key, datetime] = {}
        self._answered: dict[_Key, DisabledWebhook] = {}
        self._spared: dict[_Key, DisabledWebhook] = {}

    def read(self, page: Iterable[OutboxRecord]) -> None:
        """Take the ledger's word in the place of what it said before: what was enabled meanwhile is so here as well."""
        self._known = {_key(record): record.disabled_at for record in page if record.disabled_at is not None}

    def since(self, record: OutboxRecord) -> datetime | None:
        """Return when the message's receiver answered 410; None where the message is to be sent."""
        answered = self._answered.get(_key(record))
        return self._known.get(_key(record)) if answered is None else answered.disabled_at

    def answer(self, record: OutboxRecord, now: datetime) -> None:
        """Take note that the receiver answered 410 to this message."""
        self._answered[_key(record)] = _webhook(record, now, now)

    def spare(self, record: OutboxRecord, disabled_at: datetime, now: datetime) -> None:
        """Take note that this message was given up unsent."""
        self._spared[_key(record)] = _webhook(record, disabled_at, now)

    def news(self) -> DisabledNews | None:
        if not self._answered and not self._spared:
            return None
        return DisabledNews(answered=list(self._answered.values()), spared=list(self._spared.values()))

    def settle(self, news: DisabledNews) -> None:
        """Take note that the ledger knows."""
        for webhook in news.answered:
            self._known[webhook.user_id, webhook.url] = webhook.disabled_at
            _drop(self._answered, webhook)
        for webhook in news.spared:
            _drop(self._spared, webhook)


def _drop(kept: dict[_Key, DisabledWebhook], webhook: DisabledWebhook) -> None:
    if kept.get((webhook.user_id, webhook.url)) is webhook:
        del kept[webhook.user_id, webhook.url]


def _key(record: OutboxRecord) -> _Key:
    return record.user_id, record.url


def _webhook(record: OutboxRecord, disabled_at: datetime, last_at: datetime) -> DisabledWebhook:
    return DisabledWebhook(
        user_id=record.user_id,
        url=record.url,
        receiver=receiver_of(record.url),
        disabled_at=disabled_at,
        last_at=last_at,
    )
