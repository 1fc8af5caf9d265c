"""Hedges: a part that crawls, or whose request breaks, is asked for by a second request, and its PUT goes on with that.

Laws of this file:
1. A hedge is read into memory, whole, and only then counts: its bytes passed every check that a part's bytes pass. It
   waits for no memory and for no connection, and comes from another source where there is one.
2. No upload is broken for it. A PUT that is open goes on with the hedge's bytes where the first request has got to, and
   only where the CRC-64/NVME of what that one gave is that of the hedge's own.
3. One hedge for each try of a part. When the try ends, its hedge does.
4. Bytes that both brought count once.
5. A PUT whose request has broken waits for its hedge no longer than for a source that pauses. That hedge is a second
   try of the source, and takes one from the budget of its host.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Self

from awscrt.checksums import crc64nvme

from rayhaul.errors import RayhaulError, SourceError, SourceStalled, SourceTruncated, SourceUnreachable
from rayhaul.metrics import HEDGES, Meter
from rayhaul.policy import hedging as policy
from rayhaul.policy.hedging import Way
from rayhaul.policy.retry import RetryBudget
from rayhaul.tracing import Kind, child
from tasks.budget import Claim
from tasks.hashing import hashed
from tasks.intake import Flow, Reading
from tasks.lease_control import LeaseControl
from tasks.outgoing import Overheard
from tasks.rooms import Buffered, OutOfRoom, Rooms
from tasks.source import CorruptBody

_log = logging.getLogger(__name__)

#: What ends a request in the middle. Wrong bytes spoil their upload, and who is slow was waited for long enough.
_BREAKS = (SourceTruncated, SourceUnreachable)
#: Pieces in which a hedge's bytes are given.
_PIECE_BYTES = 1024 * 1024
#: Shorter waits than this are those of our own buffers.
_WAIT_S_MIN = 0.01
#: Connections with nothing left to do look so often at the parts of the others.
_LOOK_EVERY_S = 0.5


class UploadIdle(SourceStalled):
    """The source paused for so long that the store might give up the upload that waits for it."""


class Feed(Overheard):
    """The bytes of one try of a part: those of its own request, until a hedge has brought them all."""

    def __init__(
        self,
        flow: Flow,
        *,
        reading: Reading,
        first_byte: int,
        end_byte: int,
        idle_s_max: float | None,
        grow: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """`idle_s_max`: longest pause of the source, where they go straight into an upload; None: into memory.

        `grow`: waits for room for so many bytes in all. That wait ends as well where a hedge is whole: what is waited
        for may be what the hedge has.
        """
        self._flow = flow
        self._grow = grow
        self.reading = reading
        self.first_byte = first_byte
        self.end_byte = end_byte
        self._idle_s_max = idle_s_max
        #: When a piece was last given into the upload, or that began.
        self._given_at_s = 0.0
        self._crc: Callable[[], int] | None = None
        self._watch: asyncio.Timeout | None = None
        self._rest: memoryview | None = None
        self.given_bytes = 0
        self.hedge: Buffered | None = None
        #: What reads the hedge.
        self.hedging: asyncio.Task[None] | None = None
        #: Begins to read it, within the seconds given; None where there is no connection or memory for it.
        self.ask_again: Callable[[float], asyncio.Task[None] | None] = lambda _within_s: None
        self.is_over = False

    @property
    def size_bytes(self) -> int:
        return self.end_byte - self.first_byte

    @property
    def way(self) -> Way:
        return Way(size_bytes=self.size_bytes, bytes_done=self.given_bytes, waited_s=self._flow.waited_s)

    @property
    def rate_bytes_per_s(self) -> float:
        """Of the source, so far."""
        return self.given_bytes / max(self._flow.waited_s, _WAIT_S_MIN)

    @property
    def source(self) -> int:
        """Which of the job's sources brought the end of the part: the hedge's, where the upload went on with that.

        The part counts as that source's, whole: what each of two has given of it is not told apart.
        """
        if self.hedge is not None and self.goes_on and self.given_bytes < self.size_bytes:
            return self.hedge.source
        return self.reading.source

    @property
    def is_for_memory(self) -> bool:
        return self._crc is None

    @property
    def goes_on(self) -> bool:
        """Whether the upload has gone on with the hedge's bytes."""
        return self._rest is not None

    def goes_into(self, crc64nvme: Callable[[], int]) -> None:
        self._crc = crc64nvme
        self._given_at_s = asyncio.get_running_loop().time()

    def take(self, hedge: Buffered) -> bool:
        """Leave the first request for these bytes; return whether there is any use for them."""
        if self.is_over:
            return False
        self.hedge = hedge
        if self._watch is not None:
            self._watch.reschedule(asyncio.get_running_loop().time())
        return True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Raises: UploadIdle; CorruptBody; what the first request raises. For memory it ends where a hedge is whole."""
        if self.hedge is None:
            broken: SourceError | None = None
            try:
                async with asyncio.timeout(self._idle_s_max) as self._watch:
                    piece = await anext(self._flow)
                    self.given_bytes += len(piece)
                    if self._grow is not None:
                        await self._grow(self.given_bytes)
            except TimeoutError:
                if self.hedge is None:
                    raise UploadIdle from None
            except SourceError as error:
                broken = error
            else:
                self._given_at_s = asyncio.get_running_loop().time()
                return piece
            finally:
                self._watch = None
            if broken is not None:
                await self._helped_after(broken)
        assert self.hedge is not None
        return await self._from(self.hedge)

    async def _helped_after(self, error: SourceError) -> None:
        """Return when a hedge has brought the part whose first request broke. Raises: `error`, where none does."""
        if self._crc is None or self._idle_s_max is None or not isinstance(error, _BREAKS):
            raise error
        left_s = self._given_at_s + self._idle_s_max - asyncio.get_running_loop().time()
        if self.hedging is None:
            self.hedging = self.ask_again(left_s)
        if self.hedging is None:
            raise error
        await asyncio.wait([self.hedging], timeout=left_s)
        if self.hedge is None:
            raise error

    async def _from(self, hedge: Buffered) -> bytes:
        if self._crc is None:
            # Read for memory. What was read so far is dropped: the hedge is all of it.
            raise StopAsyncIteration
        if self._rest is None:
            self._rest = await self._rest_of(hedge, self._crc())
        if not self._rest:
            raise StopAsyncIteration
        piece, self._rest = self._rest[:_PIECE_BYTES], self._rest[_PIECE_BYTES:]
        # The HTTP library and the hashes take a view as they take bytes.
        return piece  # type: ignore[return-value]

    async def _rest_of(self, hedge: Buffered, crc_given: int) -> memoryview:
        whole = memoryview(hedge.data)
        if await hashed(crc64nvme, whole[: self.given_bytes]) != crc_given:
            raise CorruptBody("Two requests for the same part brought different bytes.")
        return whole[self.given_bytes :]


class Hedges:
    """The parts of one lease that are on their way, and what a fresh request for one usually takes."""

    def __init__(
        self, rooms: Rooms, control: LeaseControl, meter: Meter, *, source_budget: Callable[[str], RetryBudget]
    ) -> None:
        """`source_budget` returns that of a URL's host."""
        self._source_budget = source_budget
        self._rooms = rooms
        self._control = control
        self._meter = meter
        self._feeds: dict[int, Feed] = {}
        self._rates_bytes_per_s: list[float] = []
        self._lanes_count = 0
        self._none_left = asyncio.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count a connection that has a part to bring, for the time of the block."""
        self._lanes_count += 1
        try:
            yield
        finally:
            self._lanes_count -= 1
            if self._lanes_count == 0:
                self._none_left.set()

    @contextmanager
    def watched(self, number: int, feed: Feed, lanes: asyncio.TaskGroup | None = None) -> Iterator[Feed]:
        """Have a try of a part hedged where it crawls, or breaks while an upload waits, for the time of the block.

        `lanes`: where it goes into an upload. A hedge that memory is to have is the caller's, unless the block fails.
        """
        self._feeds[number] = feed
        if lanes is not None:
            feed.ask_again = partial(self._asked_again, number, feed, lanes)
        is_sent = False
        try:
            yield feed
            is_sent = True
        finally:
            del self._feeds[number]
            feed.is_over = True
            if feed.hedging is not None:
                feed.hedging.cancel()
            self._settle(feed, is_sent=is_sent)

    def _settle(self, feed: Feed, *, is_sent: bool) -> None:
        """Count what both have brought once; where the try failed, what it brought itself counts for nothing by now."""
        hedge = feed.hedge
        if hedge is None:
            if is_sent:
                self._rates_bytes_per_s.append(feed.rate_bytes_per_s)
            return
        is_needed = is_sent and (feed.goes_on or feed.is_for_memory)
        self._control.progress(-feed.given_bytes if is_needed else -feed.size_bytes)
        if not (is_needed and feed.is_for_memory):
            self._rooms.free(hedge.room)

    async def stand_by(self, lanes: asyncio.TaskGroup) -> None:
        """Hedge parts that crawl, one after the other, until none is on its way."""
        while self._lanes_count > 0:
            hedging = self._begun(lanes)
            if hedging is not None:
                await asyncio.wait([hedging])
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._none_left.wait()

    def _begun(self, lanes: asyncio.TaskGroup) -> asyncio.Task[None] | None:
        """Begin to hedge the slowest part; None where none is slow, or there is no connection or memory for it."""
        alone = {number: feed for number, feed in self._feeds.items() if feed.hedging is None}
        number = policy.slowest({number: feed.way for number, feed in alone.items()}, self._rates_bytes_per_s)
        if number is None:
            return None
        feed = alone[number]
        feed.hedging = self._asked(feed, lanes)
        if feed.hedging is not None:
            _log.info("part %d crawls: it is asked for by a second request", number)
        return feed.hedging

    def _asked(self, feed: Feed, lanes: asyncio.TaskGroup, *, after_s: float = 0.0) -> asyncio.Task[None] | None:
        reading, room = feed.reading.beside(), self._rooms.room(feed.size_bytes)
        if reading is None or not room.may_step:
            self._rooms.free(room)
            return None
        return lanes.create_task(self._hedge(feed, reading, room, after_s))

    def _asked_again(
        self, number: int, feed: Feed, lanes: asyncio.TaskGroup, within_s: float
    ) -> asyncio.Task[None] | None:
        """Begin to hedge a part whose request broke; None also where its host is to be spared for longer than that."""
        after_s = self._source_budget(feed.reading.url).take(asyncio.get_running_loop().time())
        hedging = None if after_s >= within_s else self._asked(feed, lanes, after_s=after_s)
        if hedging is not None:
            _log.info("the request for part %d broke: its upload waits for a second one", number)
        return hedging

    async def _hedge(self, feed: Feed, reading: Reading, room: Claim, after_s: float) -> None:
        result = "lost"
        try:
            await asyncio.sleep(after_s)
            with child("hedge", Kind.CLIENT, {"bytes": feed.size_bytes}):
                async with reading.range(feed.first_byte, feed.end_byte) as flow:
                    data = await self._rooms.joined(flow, room, waits=False)
            room.settle()
            if feed.take(Buffered(data, room, reading.source)):
                result = "won"
            else:
                self._control.progress(-len(data))
        except (RayhaulError, OutOfRoom) as error:
            # The first request may still bring it.
            _log.info("a hedge failed: %s", getattr(error, "code", "no memory"))
            result = "failed"
        finally:
            if result != "won":
                self._rooms.free(room)
            self._meter.inc(HEDGES, result)
