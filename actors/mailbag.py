"""The messages in the courier's hands: which may go next, and what the ledger is still to be told.

Laws of this file:
1. Of one job one message is under way, and the next only after it was delivered or given up: their order holds.
2. One receiver gets an eighth of all deliveries at once, a strained one a single one; receivers take turns. So one that
   is slow or dead holds up nobody else.
3. What cannot go soon is put off in the ledger, not kept here: the bag never fills up with one receiver's messages.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from rayhaul.ledger.deliveries import OutboxRecord

#: A receiver's share of all deliveries at once is one of this many.
_SHARES = 8
#: Jobs waiting here for one receiver; beyond, they are put off until about then when these are through.
WAITING_MAX = 256
_PUT_OFF_S_MIN, _PUT_OFF_S_MAX = 1.0, 60.0
#: Weight of the newest delivery in a receiver's mean time.
_NEWEST = 0.2
#: Jobs known to wait for a later try. Beyond it the longest known are forgotten, and their order is no longer promised.
BEHIND_MAX = 10_000
#: A message that has not come up this long after it was due has left the ledger by another hand.
_LOST = timedelta(minutes=10)


def receiver_of(url: str) -> str:
    """Return host and port: all that logs may show, for the path of a webhook is often its secret.

    >>> receiver_of("https://me:pw@hooks.example/T00/B00/s3cr3t")
    'hooks.example'
    """
    try:
        return urlsplit(url).netloc.rpartition("@")[2].lower()
    except ValueError:
        return "(unreadable URL)"


@dataclass(slots=True)
class _Receiver:
    #: Ids of jobs with a message that may go.
    waiting: deque[str] = field(default_factory=deque)
    under_way: int = 0
    strained: bool = False
    mean_s: float = 0.0


@dataclass(frozen=True, slots=True)
class News:
    """What the ledger does not know yet."""

    #: Ids of messages that were delivered or given up.
    ended: Sequence[str]
    put_off: Sequence[OutboxRecord]


class Mailbag:
    def __init__(self, *, under_way_max: int) -> None:
        self._under_way_max = under_way_max
        self._share = max(1, under_way_max // _SHARES)
        self._under_way = 0
        #: Ids of the messages in hand, until the ledger knows what became of them.
        self._held: set[str] = set()
        #: A job's messages in order; the first is under way or next.
        self._jobs: dict[str, deque[OutboxRecord]] = {}
        #: In the order of their turns.
        self._receivers: dict[str, _Receiver] = {}
        #: The oldest message of a job, where it was put off, and until when: later ones stay behind it.
        self._behind: dict[str, tuple[str, datetime]] = {}
        self._ended: dict[str, None] = {}
        self._put_off: dict[str, OutboxRecord] = {}

    @property
    def held_count(self) -> int:
        return len(self._held)

    def remember(self, records: Iterable[OutboxRecord]) -> None:
        """Take note of messages that an earlier courier put off."""
        for record in sorted(records, key=lambda record: record.outbox_id):
            if record.next_attempt_at is not None:
                self._behind.setdefault(record.job_id, (record.outbox_id, record.next_attempt_at))

    def take(self, records: Iterable[OutboxRecord], now: datetime) -> None:
        """Take in due messages; those that are held already are passed over."""
        for record in sorted(records, key=lambda record: record.outbox_id):
            if record.outbox_id not in self._held:
                self._held.add(record.outbox_id)
                self._take(record, now)

    def _take(self, record: OutboxRecord, now: datetime) -> None:
        first_id, due = self._behind.get(record.job_id, (record.outbox_id, now))
        if first_id < record.outbox_id and now < due + _LOST:
            self._put(record, max(due, now + timedelta(seconds=_PUT_OFF_S_MIN)))
            return
        self._behind.pop(record.job_id, None)
        if record.job_id in self._jobs:
            self._jobs[record.job_id].append(record)
            return
        receiver = self._receivers.setdefault(receiver_of(record.url), _Receiver())
        if len(receiver.waiting) >= WAITING_MAX:
            drained_s = len(receiver.waiting) * receiver.mean_s / self._limit(receiver)
            self._put(record, now + timedelta(seconds=min(max(drained_s, _PUT_OFF_S_MIN), _PUT_OFF_S_MAX)))
            return
        self._jobs[record.job_id] = deque([record])
        receiver.waiting.append(record.job_id)

    def start(self) -> OutboxRecord | None:
        """Return the message that goes now; None while there is none, or too many are under way."""
        if self._under_way >= self._under_way_max:
            return None
        for name, receiver in self._receivers.items():
            if receiver.waiting and receiver.under_way < self._limit(receiver):
                # To the end of the line.
                self._receivers[name] = self._receivers.pop(name)
                receiver.under_way += 1
                self._under_way += 1
                return self._jobs[receiver.waiting.popleft()][0]
        return None

    def _limit(self, receiver: _Receiver) -> int:
        return 1 if receiver.strained else self._share

    def end(self, record: OutboxRecord) -> None:
        """Have a message that was under way forgotten: it was delivered or given up."""
        self._ended[record.outbox_id] = None
        rest = self._jobs[record.job_id]
        rest.popleft()
        if rest:
            self._receivers[receiver_of(record.url)].waiting.append(record.job_id)
        else:
            del self._jobs[record.job_id]

    def put_off(self, record: OutboxRecord, until: datetime) -> None:
        """Have a message that was under way, and the later ones of its job, tried again at a later time."""
        tried, *later = self._jobs.pop(record.job_id)
        self._put(replace(tried, attempts=tried.attempts + 1), until)
        for follower in later:
            self._put(follower, until)

    def _put(self, record: OutboxRecord, until: datetime) -> None:
        self._put_off[record.outbox_id] = replace(record, next_attempt_at=until)
        self._behind.setdefault(record.job_id, (record.outbox_id, until))
        if len(self._behind) > BEHIND_MAX:
            self._behind.pop(next(iter(self._behind)))

    def heard(self, record: OutboxRecord, *, strained: bool, took_s: float) -> None:
        """Take note of how a receiver bore a delivery, after `end` or `put_off`."""
        name = receiver_of(record.url)
        receiver = self._receivers[name]
        self._under_way -= 1
        receiver.under_way -= 1
        receiver.strained = strained
        receiver.mean_s += (took_s - receiver.mean_s) * _NEWEST
        if not receiver.waiting and not receiver.under_way:
            del self._receivers[name]

    def news(self) -> News:
        return News(ended=list(self._ended), put_off=list(self._put_off.values()))

    def settle(self, news: News) -> None:
        """Drop what the ledger knows by now."""
        for outbox_id in (*news.ended, *(record.outbox_id for record in news.put_off)):
            self._held.discard(outbox_id)
            self._ended.pop(outbox_id, None)
            self._put_off.pop(outbox_id, None)
