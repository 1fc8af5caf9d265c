"""From the ledger to everybody who listens: one tail a replica, however many streams.

Laws of this file:
1. A listener gets events in the ledger's order, none twice and none left out: it begins by reading the ledger from
   where its client stopped, and does so again whenever it fell too far behind for its queue.
2. Of progress only the newest counts, and only while the job's bytes move.
3. The tail runs while somebody listens, and sleeps until the ledger has news. Where it breaks, every stream ends, and
   the clients resume by id.
"""

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from rayhaul.errors import RateLimited, RayhaulError
from rayhaul.job import EventRecord, JobStatus, Progress, utc
from rayhaul.ledger.base import Ledger, Role, Viewer
from rayhaul.metrics import SSE_CONNECTIONS, Meter
from rayhaul.settings import ApiSettings
from rayhaul.wire import EventView
from serve_app.live import Live
from serve_app.views import MOVING, event_view, progress_event

log = logging.getLogger(__name__)

#: Events read from the ledger at once.
PAGE_EVENTS = 1000
#: Events that wait for one slow client before it is sent back to read the ledger; a page and more must fit.
_QUEUE_EVENTS_MAX = 4 * PAGE_EVENTS
#: Progress is sent at most so often.
_PROGRESS_S = 0.5
#: The tail looks at the ledger at least so often, should the ledger's news not come.
_NEWS_S = 1.0
#: Pause after a look that found events: of a thousand commits in a second not each costs every replica a look.
_GATHER_S = 0.02
#: Pause after a look at the ledger that failed.
_PAUSE_S = 1.0
#: Jobs whose owner the tail remembers, and unknown ones it looks up in one turn.
_HEADS_MAX = 20_000
_LOOKUPS_MAX = 50
_BUSY_RETRY_S = 10.0
#: Streams that read the ledger at once. Each page costs the replica's one thread some 30 ms: a thousand streams that
#: catch up together must leave it time for everybody else.
_READERS_MAX = 2

_EVERYTHING = Viewer("api", Role.OPERATOR)


@dataclass(frozen=True, slots=True)
class Message:
    """An event as it goes out."""

    seq: int
    #: Of the commit, Unix seconds.
    ts_s: float
    job_id: str
    user_id: str
    status: JobStatus
    frame: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    """What progress messages say of a job besides its progress."""

    user_id: str
    correlation_id: str
    status: JobStatus


def message(record: EventRecord) -> Message:
    view = event_view(record)
    return Message(
        seq=record.seq,
        ts_s=record.ts.timestamp(),
        job_id=record.job_id,
        user_id=record.user_id,
        status=record.status,
        frame=_frame(view, f"id: {record.seq}\n"),
    )


def _frame(view: EventView, id_line: str = "") -> bytes:
    """Return a server-sent event (WHATWG HTML 9.2.5). JSON has no raw line breaks, so one data line holds it."""
    return f"{id_line}event: {view.event}\ndata: {view.model_dump_json(by_alias=True)}\n\n".encode()


class Listener:
    """One stream's place in the feed."""

    def __init__(self, viewer: Viewer, job_id: str | None) -> None:
        self.viewer = viewer
        self.job_id = job_id
        #: There is something to take, or to read, or the feed is over.
        self.wake = asyncio.Event()
        #: The ledger has events that the queue has not: begin reading there.
        self.behind = True
        self.closed = False
        self._queue: deque[Message] = deque()
        self._progress: dict[str, bytes] = {}

    def begin_reading(self) -> None:
        """Queue from here on. Whatever was told before stands in the ledger already."""
        self._queue.clear()
        self.behind = False

    def take(self) -> tuple[Sequence[Message], Sequence[bytes]]:
        """Return the events and the progress that wait."""
        self.wake.clear()
        events, progress = list(self._queue), list(self._progress.values())
        self._queue.clear()
        self._progress.clear()
        return events, progress

    def offer(self, events: Sequence[Message]) -> None:
        if not events:
            return
        if self._progress:
            for event in events:
                if event.status not in MOVING:
                    self._progress.pop(event.job_id, None)
        if not self.behind:
            self._queue.extend(events)
            if len(self._queue) > _QUEUE_EVENTS_MAX:
                self._queue.clear()
                self.behind = True
        self.wake.set()

    def offer_progress(self, job_id: str, frame: bytes) -> None:
        self._progress[job_id] = frame
        self.wake.set()

    def close(self) -> None:
        self.closed = True
        self.wake.set()


class Feed:
    def __init__(
        self, *, ledger: Ledger, live: Live, meter: Meter, settings: ApiSettings, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._live = live
        self._meter = meter
        self._settings = settings
        self._clock = clock
        self._starting = asyncio.Lock()
        self._tail: _Tail | None = None
        #: Open streams by user.
        self._streams: Counter[str] = Counter()
        self._reading = asyncio.Semaphore(_READERS_MAX)

    @asynccontextmanager
    async def listen(self, viewer: Viewer, job_id: str | None = None) -> AsyncIterator[Listener]:
        """Yield a listener to the events of one job, or of all that the viewer may see.

        Raises: RateLimited where the replica, or this user on it, has as many streams as it takes; Unavailable.
        """
        if self._streams.total() >= self._settings.sse_streams_max:
            raise RateLimited("too many event streams are open", retry_after_s=_BUSY_RETRY_S)
        if self._streams[viewer.user_id] >= self._settings.sse_streams_per_user_max:
            raise RateLimited("too many event streams of this user are open", retry_after_s=_BUSY_RETRY_S)
        self._count(viewer, +1)
        try:
            listener = Listener(viewer, job_id)
            tail = await self._join(listener)
            try:
                yield listener
            finally:
                await self._leave(tail, listener)
        finally:
            self._count(viewer, -1)

    async def page(self, viewer: Viewer, after: int, job_id: str | None) -> Sequence[Message]:
        """Return the next events that stand in the ledger, at most PAGE_EVENTS. Raises: Unavailable."""
        async with self._reading:
            records = await self._ledger.events_after(viewer, after, job_id=job_id, limit=PAGE_EVENTS)
            return [message(record) for record in records]

    def close(self) -> None:
        """End every stream; the clients resume elsewhere."""
        if self._tail is not None:
            self._tail.close_all()

    async def _join(self, listener: Listener) -> "_Tail":
        async with self._starting:
            if self._tail is None or self._tail.is_over:
                seq = await self._ledger.last_seq()
                self._tail = _Tail(self._ledger, self._live, self._clock, seq)
            self._tail.add(listener)
            return self._tail

    async def _leave(self, tail: "_Tail", listener: Listener) -> None:
        tail.remove(listener)
        if tail.is_idle:
            if self._tail is tail:
                self._tail = None
            await tail.stop()

    def _count(self, viewer: Viewer, change: int) -> None:
        self._streams[viewer.user_id] += change
        # Users who have none are not kept.
        self._streams = +self._streams
        self._meter.set(SSE_CONNECTIONS, self._streams.total())


class _Tail:
    """One run of following the ledger, from `seq` on. Its task is owned by the listeners: the last one ends it."""

    def __init__(self, ledger: Ledger, live: Live, clock: Callable[[], float], seq: int) -> None:
        self._ledger = ledger
        self._live = live
        self._clock = clock
        self._seq = seq
        self._heads: dict[str, _Head] = {}
        self._of_job: dict[str, set[Listener]] = {}
        self._of_all: set[Listener] = set()
        self._task = asyncio.create_task(self._run())

    @property
    def is_over(self) -> bool:
        return self._task.done()

    @property
    def is_idle(self) -> bool:
        return not self._of_job and not self._of_all

    def add(self, listener: Listener) -> None:
        if listener.job_id is None:
            self._of_all.add(listener)
        else:
            self._of_job.setdefault(listener.job_id, set()).add(listener)

    def remove(self, listener: Listener) -> None:
        if listener.job_id is None:
            self._of_all.discard(listener)
            return
        others = self._of_job[listener.job_id]
        others.discard(listener)
        if not others:
            del self._of_job[listener.job_id]

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def close_all(self) -> None:
        for listener in [*self._of_all, *(each for some in self._of_job.values() for each in some)]:
            listener.close()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._pump())
        except ExceptionGroup:
            log.exception("the event feed broke; its streams end")
        finally:
            self.close_all()

    async def _follow(self) -> None:
        while True:
            try:
                await self._read_on()
                await self._ledger.news(self._seq, _NEWS_S)
            except RayhaulError as err:
                log.warning("no events from the ledger: %s", err.message, extra={"code": err.code})
                await asyncio.sleep(_PAUSE_S)

    async def _read_on(self) -> None:
        """Tell what the ledger has after `seq`."""
        while records := await self._ledger.events_after(_EVERYTHING, self._seq, limit=PAGE_EVENTS):
            self._tell(records)
            if len(records) < PAGE_EVENTS:
                await asyncio.sleep(_GATHER_S)
                return

    def _tell(self, records: Sequence[EventRecord]) -> None:
        """Offer a page to all whom it concerns, each of them once: hundreds may listen to everything."""
        everything: list[Message] = []
        of_user: defaultdict[str, list[Message]] = defaultdict(list)
        of_job: defaultdict[str, list[Message]] = defaultdict(list)
        for record in records:
            self._seq = record.seq
            self._remember(record.job_id, _Head(record.user_id, record.correlation_id, record.status))
            if self._of_all or record.job_id in self._of_job:
                event = message(record)
                everything.append(event)
                of_user[event.user_id].append(event)
                of_job[event.job_id].append(event)
        for job_id, events in of_job.items():
            for listener in self._of_job.get(job_id, ()):
                listener.offer(events)
        for listener in self._of_all:
            listener.offer(everything if listener.viewer.sees_all else of_user.get(listener.viewer.user_id, ()))

    def _interested(self, job_id: str, user_id: str) -> Iterator[Listener]:
        yield from self._of_job.get(job_id, ())
        for listener in self._of_all:
            if listener.viewer.sees_all or listener.viewer.user_id == user_id:
                yield listener

    async def _pump(self) -> None:
        turn, _ = self._live.changed_since(0)
        while True:
            await asyncio.sleep(_PROGRESS_S)
            await self._live.refresh()
            turn, changed = self._live.changed_since(turn)
            lookups = _LOOKUPS_MAX
            for job_id, progress in changed.items():
                if not self._of_all and job_id not in self._of_job:
                    continue
                if job_id not in self._heads:
                    if lookups == 0:
                        continue
                    lookups -= 1
                    await self._look_up(job_id)
                self._tell_progress(job_id, progress)

    async def _look_up(self, job_id: str) -> None:
        # What cannot be read now may be read in the next turn; without it this job's progress waits.
        with suppress(RayhaulError):
            job = await self._ledger.job(_EVERYTHING, job_id)
            # An event that came meanwhile knows better.
            if job_id not in self._heads:
                self._remember(job_id, _Head(job.user_id, job.correlation_id, job.status))

    def _tell_progress(self, job_id: str, progress: Progress) -> None:
        head = self._heads.get(job_id)
        if head is None or head.status not in MOVING:
            return
        frame: bytes | None = None
        for listener in self._interested(job_id, head.user_id):
            if frame is None:
                view = progress_event(
                    job_id,
                    progress,
                    user_id=head.user_id,
                    correlation_id=head.correlation_id,
                    status=head.status,
                    now=utc(self._clock()),
                )
                frame = _frame(view)
            listener.offer_progress(job_id, frame)

    def _remember(self, job_id: str, head: _Head) -> None:
        self._heads.pop(job_id, None)
        self._heads[job_id] = head
        if len(self._heads) > _HEADS_MAX:
            del self._heads[next(iter(self._heads))]
