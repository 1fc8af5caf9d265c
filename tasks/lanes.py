"""The connections of one lease that bring parts side by side, each as a range of its own.

Laws of this file:
1. A range streams straight into its part. A lease whose parts another one sends as well reads each before it sends it:
   who is slower breaks no upload. After a pause of the source that let an upload idle, each connection does the same,
   and so does one whose part is tried again: a source that fails on costs the store no more uploads, a failing store
   the source no more reads. The first cut costs none: the upload waits for a hedge (tasks/hedging.py).
2. A connection with nothing left to do asks for what crawls on another one (tasks/hedging.py). Where the parts are
   hashed in order one stands by and does nothing but that, as the next part may be the one that crawls.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from rayhaul.lease import TransferOrder
from rayhaul.policy.planning import PartPlan, byte_range
from rayhaul.tracing import Kind, child
from tasks.bucket_rules import StoredObject, StoredRange
from tasks.copying import CopyUnknown
from tasks.hedging import Feed, Hedges, UploadIdle
from tasks.intake import Flow, Intake, Reading
from tasks.lease_control import LeaseControl, Tries
from tasks.rooms import Buffered, Rooms
from tasks.stripe import Stripe
from tasks.upload import Upload

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Range:
    """What becomes a part, over all tries."""

    reading: Reading
    number: int
    first_byte: int
    end_byte: int
    tries_count: int = 0
    #: What was read before it is sent, until the store has it.
    ahead: Buffered | None = None

    @property
    def bytes_count(self) -> int:
        return self.end_byte - self.first_byte


class Lanes:
    def __init__(
        self,
        order: TransferOrder,
        *,
        intake: Intake,
        upload: Upload,
        stripe: Stripe,
        control: LeaseControl,
        tries: Tries,
        rooms: Rooms,
        hedges: Hedges,
        put_idle_s_max: float,
        copies_from: StoredObject | None,
    ) -> None:
        """`copies_from`: the object in our own store that the store can make the parts of."""
        self._order = order
        self._intake = intake
        self._upload = upload
        self._stripe = stripe
        self._control = control
        self._tries = tries
        self._rooms = rooms
        self._hedges = hedges
        self._put_idle_s_max = put_idle_s_max
        self._copies_from = copies_from
        #: Whether parts are read into memory before they are sent.
        self._reads_ahead = order.is_twin

    async def bring(self, plan: PartPlan, *, lanes_count: int) -> None:
        """Send all parts of the stripe that it has not given up."""
        async with asyncio.TaskGroup() as lanes:
            for index in range(lanes_count):
                lanes.create_task(self._lane(plan, lanes, is_first=index == 0))

    @asynccontextmanager
    async def standing_by(self) -> AsyncIterator[None]:
        """Have a part that crawls asked for a second time, for the time of the block, where the order has connections
        that nothing else is for.
        """
        async with asyncio.TaskGroup() as lanes:
            with self._hedges.at_work():
                if self._order.connections > 1:
                    lanes.create_task(self._hedges.stand_by(lanes))
                yield

    async def read(self, plan: PartPlan, number: int) -> Buffered:
        """Read a part into memory, and again where that fails. Its room is the caller's."""
        if number > 1:
            # Else all that are read at once would have begun with a source that may be the slowest.
            await self._intake.looked()
        wanted = _Range(self._intake.reading(), number, *byte_range(plan, number))
        return await self._tries.again(partial(self._read, wanted), asking=wanted.reading)

    async def _lane(self, plan: PartPlan, lanes: asyncio.TaskGroup, *, is_first: bool) -> None:
        with self._hedges.at_work():
            if not is_first:
                # Else all of them would have begun with a source that may be the slowest.
                await self._intake.looked()
            while (number := self._stripe.take()) is not None:
                wanted = _Range(self._intake.reading(), number, *byte_range(plan, number))
                try:
                    await self._tries.again(partial(self._bring, wanted, lanes), asking=wanted.reading)
                finally:
                    self._drop(wanted)
        await self._hedges.stand_by(lanes)

    async def _bring(self, wanted: _Range, lanes: asyncio.TaskGroup) -> None:
        wanted.tries_count += 1
        with child("part", attributes={"part": wanted.number, "bytes": wanted.bytes_count}):
            if await self._copied(wanted):
                return
            if self._reads_ahead or wanted.tries_count > 1:
                await self._send_ahead(wanted)
                return
            try:
                await self._stream(wanted, lanes)
            except UploadIdle:
                _log.info("the source makes an upload idle: parts are read before they are sent")
                self._reads_ahead = True
                raise

    async def _stream(self, wanted: _Range, lanes: asyncio.TaskGroup) -> None:
        async with wanted.reading.range(wanted.first_byte, wanted.end_byte) as flow:
            with self._hedges.watched(wanted.number, _feed(wanted, flow, self._put_idle_s_max), lanes) as feed:
                await self._upload.send(wanted.number, wanted.bytes_count, feed, source=lambda: feed.source)

    async def _send_ahead(self, wanted: _Range) -> None:
        if wanted.ahead is None:
            wanted.ahead = await self._read(wanted)
        part = wanted.ahead
        await self._upload.send(wanted.number, len(part.data), part.data, source=lambda: part.source)
        wanted.ahead = None
        self._rooms.free(part.room)

    async def _read(self, wanted: _Range) -> Buffered:
        room = self._rooms.room(wanted.bytes_count)
        try:
            with child("read", Kind.CLIENT, {"bytes": wanted.bytes_count}):
                async with wanted.reading.range(wanted.first_byte, wanted.end_byte) as flow:
                    grow = partial(self._rooms.grow, room)
                    with self._hedges.watched(wanted.number, _feed(wanted, flow, None, grow)) as feed:
                        data = await self._rooms.joined(feed, room)
        except BaseException:
            self._rooms.free(room)
            raise
        if feed.hedge is None:
            return Buffered(data, room, wanted.reading.source)
        self._rooms.free(room)
        return feed.hedge

    def _drop(self, wanted: _Range) -> None:
        """Let go of what was read and did not reach the store: it counted as progress."""
        if wanted.ahead is not None:
            self._control.progress(-len(wanted.ahead.data))
            self._rooms.free(wanted.ahead.room)
            wanted.ahead = None

    async def _copied(self, wanted: _Range) -> bool:
        """Have the store make a part of an object of its own; return whether it could."""
        source, etag = self._copies_from, self._order.pin.etag
        if source is None or etag is None:
            return False
        stored = StoredRange(source=source, etag=etag, first_byte=wanted.first_byte, end_byte=wanted.end_byte)
        try:
            async with self._intake.turn():
                await self._upload.copy(wanted.number, stored)
        except CopyUnknown as error:
            _log.info("the store makes no copies: going on with the bytes themselves (%s)", error)
            self._copies_from = None
            return False
        return True


def _feed(
    wanted: _Range, flow: Flow, idle_s_max: float | None, grow: Callable[[int], Awaitable[None]] | None = None
) -> Feed:
    return Feed(
        flow,
        reading=wanted.reading,
        first_byte=wanted.first_byte,
        end_byte=wanted.end_byte,
        idle_s_max=idle_s_max,
        grow=grow,
    )
