"""Agents that move no bytes: they say what real ones say, in the order real ones say it, to a model of the bucket.

Here is what an agent does between two reports, faults of its own included; what happens to its reports, and to orders
on their way, is the network's business (world.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bucket import StoredObject, object_etag, part_etag
from reference import UNSTORABLE_BYTES
from surroundings import PARTS, SLOTS, Surroundings, describe, key_of
from violations import must

from rayhaul.capacity import Capacity
from rayhaul.errors import RayhaulError, SinkBusy, SourceBusy, SourceChanged, SourceNotFound, UploadLost
from rayhaul.job import JobResult, Metadata, utc
from rayhaul.lease import (
    AbortOrder,
    Order,
    PartDone,
    ProbeOrder,
    SessionState,
    SweepOrder,
    TransferOrder,
    TrimOrder,
    UploadSession,
)
from rayhaul.report import (
    COMMITTING,
    Aborted,
    AgentReport,
    CommitAsked,
    LeaseFailed,
    LeaseProgress,
    Notice,
    PartsDone,
    Probed,
    ProbeFailed,
    ReportReply,
    SessionOpened,
    StripeDone,
    Swept,
    Transferred,
    Trimmed,
)

#: A report that was not answered for so long is given up.
REPORT_TIMEOUT_S = 15.0
_ACTS = 0.7
_UNSTORABLE = "\ud800"


@dataclass(slots=True)
class Hand:
    """An order in hand."""

    order: Order
    moved_at_s: float
    #: What was said last and is waited for; None when the next step may be taken.
    waits_for: str | None = None
    is_last_word: bool = False
    upload_id: str | None = None
    session_id: str = ""
    done: dict[int, PartDone] = field(default_factory=dict)
    opened: bool = False
    #: The scheduler has agreed to the commit.
    agreed: bool = False
    #: Of a single PUT: what it takes the place of, and whether that was looked for.
    replaces: str | None = None
    looked: bool = False
    #: Where its stripe ends, and whether others may be at work as well.
    end_part: int = PARTS + 1
    shared: bool = False
    stalled: bool = False
    doing: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.order, TransferOrder):
            self.end_part = min(self.order.end_part, PARTS + 1)
            self.shared = (self.order.first_part, self.end_part) != (1, PARTS + 1)

    @property
    def first_part(self) -> int:
        return self.order.first_part if isinstance(self.order, TransferOrder) else 1

    @property
    def open_parts(self) -> list[int]:
        """The parts of its stripe that are still to be sent."""
        return [number for number in range(self.first_part, self.end_part) if number not in self.done]

    @property
    def parts_done(self) -> int:
        return sum(self.first_part <= number < self.end_part for number in self.done)

    def trim(self, end_part: int) -> None:
        """Leave the tail to others, but for what was sent."""
        taken = [number for number in self.done if number < self.end_part]
        self.shared = True
        self.end_part = min(self.end_part, max([end_part, self.first_part, *(number + 1 for number in taken)]))


@dataclass(eq=False, slots=True)
class SimAgent:
    name: str
    incarnation: str
    around: Surroundings
    acknowledged_at_s: float
    seq: int = 0
    held: dict[str, Hand] = field(default_factory=dict)
    outbox: dict[str, Notice] = field(default_factory=dict)
    draining: bool = False
    leaving: bool = False
    lies: bool = False
    unfit_until_s: float = 0.0
    fenceless: bool = False
    frozen_until_s: float = 0.0
    cut_off_until_s: float = 0.0
    #: The report that waits for its answer was sent then.
    reported_at_s: float | None = None
    #: Calls that came in while it was frozen.
    mailbox: list[Callable[[], None]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.name}/{self.incarnation}"

    # --- what it is called for ---

    def assign(self, orders: Iterable[Order]) -> None:
        for order in orders:
            self.held.setdefault(key_of(order), Hand(order, self.around.now_s))

    def revoke(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._lose(key)

    def trim(self, orders: Iterable[TrimOrder]) -> None:
        for asked in orders:
            hand = self.held.get(asked.lease_id)
            if hand is None or not isinstance(hand.order, TransferOrder):
                continue
            if hand.doing != COMMITTING:
                hand.trim(asked.end_part)
            told = Trimmed(**self._ids(hand.order), end_part=hand.end_part, shared=hand.shared)
            self.around.note(f"{self} tells {describe(told)} end {hand.end_part}")
            self.outbox[told.notice_id] = told

    def take(self, reply: ReportReply, sent_at_s: float) -> None:
        """Take the answer to a report."""
        self.acknowledged_at_s = max(self.acknowledged_at_s, sent_at_s)
        for notice_id in reply.acknowledged:
            self.outbox.pop(notice_id, None)
        lost = [
            key
            for key, hand in self.held.items()
            if hand.waits_for in reply.acknowledged and (hand.waits_for in reply.refused or hand.is_last_word)
        ]
        for hand in self.held.values():
            if hand.waits_for in reply.acknowledged:
                hand.waits_for = None
                hand.agreed = hand.agreed or hand.doing == COMMITTING
        for key in lost:
            del self.held[key]
        self.revoke(reply.revoked)
        if reply.superseded:
            self.leaving = True
            self.held.clear()

    def lose_parts_refused(self, notices: Iterable[Notice], reply: ReportReply) -> None:
        """Stop a lease whose parts were refused: nothing waits for their answer."""
        for notice in notices:
            if isinstance(notice, PartsDone) and notice.notice_id in reply.refused:
                self._lose(notice.lease_id)

    def _lose(self, key: str) -> None:
        hand = self.held.pop(key, None)
        if hand is None or hand.waits_for is None:
            return
        unsaid = self.outbox.pop(hand.waits_for, None)
        if isinstance(unsaid, SessionOpened):
            self.around.untold.add(unsaid.session.upload_id)

    # --- a step of its own ---

    def is_fenced(self) -> bool:
        """Whether it must stop by itself: nobody has answered for too long."""
        return not self.fenceless and self.around.now_s - self.acknowledged_at_s > self.around.self_fence_s

    def work(self) -> None:
        """Take a step with some of the orders in hand."""
        if self.is_fenced():
            self.revoke([key for key, hand in self.held.items() if isinstance(hand.order, TransferOrder)])
        for key, hand in list(self.held.items()):
            if hand.waits_for is None and not hand.stalled and self.around.happens(_ACTS):
                self._advance(key, hand)

    def at_the_brink(self) -> None:
        """Wake from a stop between looking at the deadline and calling the bucket."""
        for hand in list(self.held.values()):
            if isinstance(hand.order, TransferOrder) and hand.agreed and hand.waits_for is None:
                self._advance_transfer(hand, hand.order)

    def compose(self) -> AgentReport:
        self.seq += 1
        now_s = self.around.now_s
        transfers = [(hand, hand.order) for hand in self.held.values() if isinstance(hand.order, TransferOrder)]
        return AgentReport(
            agent=self.name,
            incarnation=self.incarnation,
            seq=self.seq,
            capacity=self._capacity(len(transfers)),
            draining=self.draining,
            leaving=self.leaving,
            held=frozenset(self.held),
            progress=tuple(
                LeaseProgress(
                    lease_id=order.lease_id,
                    job_id=order.context.job_id,
                    bytes_done=hand.parts_done * self.around.part_bytes,
                    bytes_per_s=0.0 if hand.stalled else 1000.0,
                    idle_s=now_s - hand.moved_at_s,
                    doing=hand.doing,
                    parts_done=hand.parts_done,
                )
                for hand, order in transfers
            ),
            notices=tuple(self.outbox.values()),
            unfit="the disk is full, says the dice" if now_s < self.unfit_until_s else None,
        )

    def _capacity(self, used: int) -> Capacity:
        if not self.lies:
            return Capacity(slots=SLOTS, slots_used=used)
        rng = self.around.rng
        nonsense = [float("nan"), float("inf"), -1e9, 0.0]
        return Capacity(
            slots=rng.choice([SLOTS, 2 * SLOTS, 0, -SLOTS]),
            slots_used=rng.choice([used, 2 * SLOTS, -SLOTS, 10**9]),
            bytes_per_s=rng.choice(nonsense),
            bytes_per_s_max=rng.choice([None, *nonsense]),
            memory_bytes=rng.choice([-1, 10**15]),
            memory_bytes_max=rng.choice([None, 0, 1]),
        )

    def _say(self, hand: Hand, notice: Notice, *, last: bool = False) -> None:
        self.around.note(f"{self} tells {describe(notice)}")
        self.outbox[notice.notice_id] = notice
        hand.waits_for, hand.is_last_word = notice.notice_id, last
        hand.moved_at_s = self.around.now_s

    def _advance(self, key: str, hand: Hand) -> None:
        match hand.order:
            case ProbeOrder() as order:
                self._say(hand, self._probe(order), last=True)
            case AbortOrder() as order:
                self._abort(key, hand, order)
            case SweepOrder() as order:
                self._say(hand, self._swept(order), last=True)
            case TransferOrder() as order:
                if self.around.happens(self.around.odds.transfer_stalls):
                    self.around.note(f"{self} gets stuck with {order.lease_id}")
                    hand.stalled = True
                    return
                self._advance_transfer(hand, order)

    def _abort(self, key: str, hand: Hand, order: AbortOrder) -> None:
        try:
            self.around.bucket.undo(order)
        except RayhaulError:
            # Not told: the scheduler orders it again.
            del self.held[key]
            return
        told = Aborted(notice_id=self.around.new_id("n"), session_id=order.session_id, job_id=order.context.job_id)
        self._say(hand, told, last=True)

    def _swept(self, order: SweepOrder) -> Notice:
        around = self.around
        uploads = [
            UploadSession(
                session_id=around.new_id("s"),
                job_id=upload.job_id,
                bucket="b",
                key=upload.key,
                upload_id=upload_id,
                part_bytes=0,
                size_bytes=None,
                state=SessionState.ABORTING,
                created_at=utc(upload.created_at_s),
            )
            for upload_id, upload in around.bucket.uploads.items()
            if upload.created_at_s <= around.now_s - order.age_s_min
        ]
        return Swept(notice_id=around.new_id("n"), order_id=order.order_id, uploads=tuple(uploads))

    def _probe(self, order: ProbeOrder) -> Notice:
        around = self.around
        ids: dict[str, Any] = {
            "notice_id": around.new_id("n"),
            "order_id": order.order_id,
            "job_id": order.context.job_id,
        }
        if order.url in around.sources.gone:
            return ProbeFailed(**ids, failure=SourceNotFound().failure())
        if around.happens(around.odds.source_busy):
            return ProbeFailed(**ids, failure=SourceBusy(retry_after_s=2).failure())
        is_small = order.url.endswith("small")
        return Probed(
            **ids,
            metadata=Metadata(
                size_bytes=1 if is_small else PARTS * around.part_bytes,
                content_type=None,
                etag=around.sources.version(order.url),
                last_modified=None,
                rangeable=True,
                filename="f",
                final_url=order.url,
                fetch_ms=1,
            ),
        )

    # --- a transfer ---

    def _advance_transfer(self, hand: Hand, order: TransferOrder) -> None:
        try:
            self._move(hand, order)
        except RayhaulError as error:
            failed = LeaseFailed(**self._ids(order), failure=error.failure())
            self._say(hand, failed, last=True)

    def _ids(self, order: TransferOrder) -> dict[str, Any]:
        return {
            "notice_id": self.around.new_id("n"),
            "lease_id": order.lease_id,
            "epoch": order.epoch,
            "job_id": order.context.job_id,
        }

    def _move(self, hand: Hand, order: TransferOrder) -> None:
        """Take the next step of a transfer. Raises: RayhaulError where it ends."""
        around = self.around
        is_small = order.pin.size_bytes == 1 and order.session is None
        if not hand.agreed:
            if around.happens(around.odds.source_busy):
                raise SourceBusy
            if order.url in around.sources.gone:
                raise SourceNotFound
            if around.sources.version(order.url) != order.pin.etag:
                raise SourceChanged
        if not is_small and not hand.opened:
            self._open(hand, order)
        elif not is_small and hand.open_parts and not hand.agreed:
            self._send_part(hand, order)
        elif not is_small and hand.shared:
            self._say(hand, StripeDone(**self._ids(order)), last=True)
        elif not hand.agreed:
            hand.doing = COMMITTING
            self._say(hand, CommitAsked(**self._ids(order)))
        else:
            self._publish(hand, order, 1 if is_small else PARTS)

    def _open(self, hand: Hand, order: TransferOrder) -> None:
        around = self.around
        assert order.key is not None
        hand.opened = True
        if order.session is not None:
            hand.upload_id, hand.session_id = order.session.upload_id, order.session.session_id
            known = {part.number: part for part in order.parts_done if part.session_id == hand.session_id}
            try:
                stored = around.bucket.parts(hand.upload_id)
            except UploadLost:
                if hand.shared or len(known) < PARTS:
                    raise
                hand.done = known
            else:
                hand.done = {n: part for n, part in known.items() if stored.get(n) == part.etag}
            hand.moved_at_s = around.now_s
            return
        must(order.first_part == 1, "order", f"{order.lease_id} is a stripe of no upload")
        if order.epoch > 1:
            for stranger in around.bucket.uploads_of(order.key):
                around.bucket.abort(stranger)
        hand.upload_id = around.new_id("up")
        ids = self._ids(order)
        if around.happens(around.odds.poisoned):
            around.poisoned.add(ids["notice_id"])
            hand.upload_id += _UNSTORABLE
        around.bucket.create(hand.upload_id, order.key, order.context.job_id, around.now_s)
        hand.session_id = around.new_id("session")
        session = UploadSession(
            session_id=hand.session_id,
            job_id=order.context.job_id,
            bucket=order.bucket,
            key=order.key,
            upload_id=hand.upload_id,
            part_bytes=order.part_bytes,
            size_bytes=order.pin.size_bytes,
            state=SessionState.OPEN,
            created_at=utc(around.now_s),
        )
        self._say(hand, SessionOpened(**ids, session=session))

    def _send_part(self, hand: Hand, order: TransferOrder) -> None:
        """Send the next part and tell it; nothing waits for the answer."""
        around = self.around
        assert hand.upload_id is not None
        number = hand.open_parts[0]
        etag = part_etag(str(order.pin.etag), number)
        around.bucket.put_part(hand.upload_id, number, etag)
        ids, size_bytes = self._ids(order), around.part_bytes
        if around.happens(around.odds.poisoned):
            around.poisoned.add(ids["notice_id"])
            size_bytes = UNSTORABLE_BYTES
        part = PartDone(session_id=hand.session_id, number=number, size_bytes=size_bytes, etag=etag)
        hand.done[number] = part
        told = PartsDone(**ids, parts=(part,))
        around.note(f"{self} tells {describe(told)}")
        self.outbox[told.notice_id] = told
        hand.moved_at_s = around.now_s

    def _publish(self, hand: Hand, order: TransferOrder, parts_count: int) -> None:
        around = self.around
        assert order.key is not None
        made = StoredObject(
            object_etag(str(order.pin.etag), parts_count),
            order.context.job_id,
            order.lease_id,
            order.epoch,
            None if hand.upload_id is None else hand.session_id,
        )
        before = around.bucket.objects.get(order.key)
        if hand.upload_id is None:
            if not self._replaced(hand, order, made):
                return
        else:
            try:
                around.bucket.complete(hand.upload_id, order.key, hand.done, made)
            except UploadLost:
                # The answer to an earlier Complete may have been lost: then exactly our object stands there.
                if before is None or before.etag != made.etag:
                    raise
        if around.bucket.objects[order.key] is made:
            around.note(f"{self} publishes {made.etag} of {made.job_id} under {order.lease_id}")
            self._check_late(order, made)
        result = JobResult(bucket=order.bucket, key=order.key, size_bytes=1, etag=made.etag, parts_count=parts_count)
        self._say(hand, Transferred(**self._ids(order), result=result), last=True)

    def _replaced(self, hand: Hand, order: TransferOrder, made: StoredObject) -> bool:
        """Put an object in the place of what was seen there; tell whether it stands. If not, look, and try again."""
        bucket, is_own_key = self.around.bucket, order.context.job_id in order.key
        if not hand.looked and not is_own_key:
            hand.looked, hand.replaces = True, bucket.etag(order.key)
            return False
        try:
            bucket.replace(order.key, made, replaces=hand.replaces)
        except SinkBusy:
            stands = bucket.objects.get(order.key)
            hand.replaces = bucket.etag(order.key)
            return stands is not None and stands.lease_id == order.lease_id
        return True

    def _check_late(self, order: TransferOrder, made: StoredObject) -> None:
        """I3: whoever comes late finds the object that stands, and can at most put the same one in its place."""
        stands = self.around.completed.get(order.context.job_id)
        if stands is not None:
            self.around.published_late += 1
            must(stands == made.etag, "I3", f"{made.job_id} is completed with {stands}; {made.etag} takes its place")
