"""One lease: moves a pinned file, or a stripe of it, from its source into the bucket; with the whole, commits it.

Laws of this file:
1. Checksums are compared before anything is published.
2. An upload that is not completed is left as it is, for the next attempt or for an AbortOrder: the scheduler decides.
3. A range streams straight into its part (tasks/lanes.py). Only what has to be hashed in order, comes without a length,
   or goes up in one PUT is held in memory: of one stream at most two parts; of ranges that are hashed in order one more
   than are read at once, and a hedge, within half of what there is. All that is held is within `memory`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from random import Random
from types import MappingProxyType

from awscrt.checksums import crc64nvme

from rayhaul.errors import SourceFailed, SourceTooLarge, UploadLost
from rayhaul.job import JobResult
from rayhaul.lease import TransferOrder
from rayhaul.metrics import Meter
from rayhaul.policy.planning import PARTS_MAX, PartPlan, plan_parts, tells_versions
from rayhaul.policy.retry import RetryBudget
from rayhaul.settings import TransferSettings
from rayhaul.tracing import Kind, child
from tasks.budget import ByteBudget, Claim
from tasks.checksum import Checksum, Hasher
from tasks.dedupe import copied
from tasks.egress import GuardedClient
from tasks.gates import Gates
from tasks.hashing import hashed
from tasks.hedging import Hedges
from tasks.intake import Intake, Reading
from tasks.lanes import Lanes
from tasks.lease_control import LeaseControl, Tries, weightiest
from tasks.links import Refresh
from tasks.pace import Line, Pace
from tasks.rooms import Buffered, Rooms
from tasks.sink import Sink
from tasks.source import RangeIgnored
from tasks.stripe import Stripe
from tasks.transports import Transports
from tasks.upload import Upload

__all__ = ["LeaseControl", "transfer"]

_log = logging.getLogger(__name__)

NO_PACES: Mapping[str, Pace] = MappingProxyType({})


async def transfer(
    order: TransferOrder,
    *,
    client: GuardedClient,
    sink: Sink,
    control: LeaseControl,
    settings: TransferSettings,
    memory: ByteBudget,
    clock: Callable[[], float],
    rng: Random,
    stripe: Stripe | None = None,
    refresh: Refresh | None = None,
    gates: Gates | None = None,
    paces: Mapping[str, Pace] = NO_PACES,
    transports: Transports | None = None,
) -> JobResult | None:
    """Carry out one order and return the published, verified object; None where the commit is for others.

    `stripe` is the order's, as others may trim it meanwhile; None: nobody does. Requests go through the `gates` of
    their hosts, and bytes come at `paces`, by what they limit. `transports` are the ways to a source; None: HTTP alone,
    by `client`.
    Raises: RayhaulError; LeaseLost among them, after which nothing more is written.
    """
    expected = Checksum.parse(order.checksum) if order.checksum else None
    stripe = stripe or Stripe(order.first_part, order.end_part)
    source_budget = partial(client.budget_of, retries=settings)
    tries = Tries(
        control,
        settings,
        meter=sink.meter,
        rng=rng,
        sink_budget=sink.budget,
        source_budget=source_budget,
    )
    upload = Upload(order, sink, control, stripe=stripe, tries=tries, expected=expected, clock=clock)
    line = Line(paces)
    ways = transports or Transports(client)
    intake = Intake(order, ways, client.source, control, line=line, meter=sink.meter, refresh=refresh, gates=gates)
    running = _Transfer(
        order,
        intake=intake,
        upload=upload,
        stripe=stripe,
        control=control,
        tries=tries,
        settings=settings,
        memory=memory,
        meter=sink.meter,
        source_budget=source_budget,
        expected=expected,
    )
    try:
        if order.copy is not None:
            result = await copied(order, order.copy, sink=sink, upload=upload, control=control)
            if result is not None:
                return result
        async with intake:
            with line:
                return await running.run()
    except BaseExceptionGroup as group:
        raise weightiest(group) from group
    finally:
        running.rooms.free_all()


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of a part in memory, and what they hold of the budget."""

    data: bytearray
    room: Claim
    is_last: bool
    #: Which of the job's sources brought it.
    source: int


class _Transfer:
    def __init__(
        self,
        order: TransferOrder,
        *,
        intake: Intake,
        upload: Upload,
        stripe: Stripe,
        control: LeaseControl,
        tries: Tries,
        settings: TransferSettings,
        memory: ByteBudget,
        meter: Meter,
        source_budget: Callable[[str], RetryBudget],
        expected: Checksum | None,
    ) -> None:
        self._order = order
        self._intake = intake
        self._upload = upload
        self._stripe = stripe
        self._control = control
        self._tries = tries
        self._single_put_bytes_max = settings.single_put_bytes_max
        self._size_bytes_max = settings.size_bytes_of(order.size_bytes_max)
        self.rooms = Rooms(memory, control)
        #: Bytes of parts that were read, and so count as progress, but are not in the store yet.
        self._unplaced_bytes = 0
        self._expected = expected
        self._hasher = Hasher(expected, wants_sha256=order.compute_sha256)
        self._lanes = Lanes(
            order,
            intake=intake,
            upload=upload,
            stripe=stripe,
            control=control,
            tries=tries,
            rooms=self.rooms,
            hedges=Hedges(self.rooms, control, meter, source_budget=source_budget),
            put_idle_s_max=settings.put_idle_s_max,
            # With a checksum to compare, the bytes have to be seen.
            copies_from=None if expected is not None else intake.stored,
        )

    async def run(self) -> JobResult | None:
        """Take the way that fits the file."""
        order = self._order
        size_bytes = order.pin.size_bytes
        if size_bytes is None:
            return await self._in_one_stream()
        self._check_size(size_bytes)
        if size_bytes == 0 or (size_bytes <= self._single_put_bytes_max and not self._upload.has_session):
            return await self._in_one_put(size_bytes)
        if not (order.pin.rangeable and (order.pin.has_version or tells_versions(order.checksum))):
            return await self._in_one_stream()
        plan = plan_parts(size_bytes, part_bytes_min=order.part_bytes)
        try:
            return await (self._in_order(plan) if self._hasher.needs_order else self._in_parallel(plan))
        except* RangeIgnored:
            _log.warning("the source does not serve the ranges it promised: going on with one stream")
        self._upload.forget_parts()
        self._control.progress(-self._unplaced_bytes)
        self._unplaced_bytes = 0
        self.rooms.free_all()
        self._hasher = self._hasher.fresh()
        return await self._in_one_stream()

    # --- ways ---

    async def _in_parallel(self, plan: PartPlan) -> JobResult | None:
        """Stream ranges into parts, over several connections at once."""
        assert plan.parts_count is not None
        if self._order.first_part > 1 and not self._upload.has_session:
            raise UploadLost("The upload that this stripe is for is not known any more.")
        await self._upload.open(parts_count=plan.parts_count)
        numbers = range(1, plan.parts_count + 1)
        open_count = self._stripe.fill(number for number in numbers if number not in self._upload.done)
        if open_count > 1:
            self._intake.begin_to_look()
        await self._lanes.bring(plan, lanes_count=min(self._order.connections, open_count))
        if not self._stripe.is_whole(plan.parts_count):
            return None
        self._stripe.fix()
        return await self._upload.commit(parts_count=plan.parts_count, sha256=None)

    def _keep_whole(self) -> None:
        """Give nothing up from now on. Raises: SourceFailed where others have parts of the file already."""
        if self._stripe.is_shared or self._order.first_part > 1:
            raise SourceFailed("The source does not serve ranges here; others go on with it.")
        self._stripe.fix()

    async def _in_order(self, plan: PartPlan) -> JobResult:
        """Fetch ranges over several connections, hash them in order, and send each while the next ones come."""
        assert plan.parts_count is not None
        self._keep_whole()
        await self._upload.open(parts_count=plan.parts_count)
        if plan.parts_count > 1:
            self._intake.begin_to_look()
        # One connection stands by.
        ahead_max = min(self._order.connections - 1, plan.parts_count)
        with self.rooms.in_a_row(plan.part_bytes, ahead_max=ahead_max) as ahead_count:
            parts = self._fetched(plan, ahead_count=ahead_count)
            async with self._lanes.standing_by(), aclosing(parts):
                await self._place_all(parts)
        self._hasher.check()
        return await self._upload.commit(parts_count=plan.parts_count, sha256=self._hasher.sha256)

    async def _in_one_stream(self) -> JobResult:
        """Read the file once, from first to last byte, whatever its length turns out to be."""
        self._keep_whole()
        async with AsyncExitStack() as stack:
            # Only what fails before the first byte is tried again here: the rest would have to begin anew.
            reading = self._intake.reading()
            body = await self._tries.again(lambda: stack.enter_async_context(reading.whole()), asking=reading)
            parts = await stack.enter_async_context(aclosing(self._cut(body, reading.source)))
            first = await anext(parts)
            if first.is_last and not (self._upload.has_session and first.data):
                return await self._put(first)
            await self._upload.open(parts_count=None)
            parts_count = await self._place_all(parts, first)
        self._hasher.check()
        return await self._upload.commit(parts_count=parts_count, sha256=self._hasher.sha256)

    async def _in_one_put(self, size_bytes: int) -> JobResult:
        self._keep_whole()
        room = self.rooms.room(size_bytes)
        reading = self._intake.reading()
        data = await self._tries.again(partial(self._fetch_whole, reading, room), asking=reading)
        return await self._put(_Part(data, room, is_last=True, source=reading.source))

    # --- parts in memory ---

    async def _put(self, part: _Part) -> JobResult:
        await self._hash(part.data)
        self._hasher.check()
        result = await self._upload.put(part.data, sha256=self._hasher.sha256, source=part.source)
        self.rooms.free(part.room)
        return result

    async def _place_all(self, parts: AsyncIterator[_Part], first: _Part | None = None) -> int:
        """Send parts while the next ones come; return how many there were."""
        number = 0
        placing: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as group:
            if first is not None:
                number = 1
                placing = group.create_task(self._place(number, first))
            async for part in parts:
                number += 1
                if number > PARTS_MAX:
                    raise SourceTooLarge(
                        f"The file needs more than {PARTS_MAX} parts of {self._order.part_bytes} bytes."
                    )
                if placing is not None:
                    await placing
                placing = group.create_task(self._place(number, part))
        return number

    async def _place(self, number: int, part: _Part) -> None:
        await self._hash(part.data)
        kept = self._upload.done.get(number)
        if kept is not None:
            # Counted twice by now: when it was kept, and when it was read again for its hash.
            self._control.progress(-kept.size_bytes)
        if kept is None or (kept.size_bytes, kept.crc64nvme) != (len(part.data), crc64nvme(part.data)):
            with child("part", attributes={"part": number, "bytes": len(part.data)}):
                sending = partial(self._upload.send, number, len(part.data), part.data, source=lambda: part.source)
                await self._tries.again(sending)
        self._unplaced_bytes -= len(part.data)
        self.rooms.free(part.room)

    async def _fetched(self, plan: PartPlan, *, ahead_count: int) -> AsyncGenerator[_Part, None]:
        """Give all parts in order, of which so many are read at once."""
        assert plan.parts_count is not None
        ahead: deque[asyncio.Task[Buffered]] = deque()
        try:
            for number in range(1, plan.parts_count + ahead_count):
                if number <= plan.parts_count:
                    ahead.append(asyncio.create_task(self._lanes.read(plan, number)))
                if number >= ahead_count:
                    part = await ahead[0]
                    ahead.popleft()
                    is_last = number - ahead_count + 1 == plan.parts_count
                    yield self._read(part.data, part.room, is_last=is_last, source=part.source)
        finally:
            await self._leave(ahead)

    async def _leave(self, ahead: Collection[asyncio.Task[Buffered]]) -> None:
        """Stop reading; what was read for parts that nobody waits for any more counted as progress."""
        for reading in ahead:
            reading.cancel()
        for found in await asyncio.gather(*ahead, return_exceptions=True):
            if isinstance(found, Buffered):
                self._control.progress(-len(found.data))

    async def _cut(self, body: AsyncIterator[bytes], source: int) -> AsyncGenerator[_Part, None]:
        """Cut a stream into uniform parts. A full one is given only when more follows: the last one says so."""
        part_bytes = self._order.part_bytes
        size_bytes = 0
        room, data = self.rooms.room(part_bytes), bytearray()
        async for piece in body:
            size_bytes += len(piece)
            self._check_size(size_bytes)
            rest = memoryview(piece)
            while rest:
                if len(data) == part_bytes:
                    yield self._read(data, room, is_last=False, source=source)
                    room, data = self.rooms.room(part_bytes), bytearray()
                taken = rest[: part_bytes - len(data)]
                await self.rooms.grow(room, len(data) + len(taken))
                data += taken
                rest = rest[len(taken) :]
        yield self._read(data, room, is_last=True, source=source)

    def _read(self, data: bytearray, room: Claim, *, is_last: bool, source: int) -> _Part:
        room.settle()
        self._unplaced_bytes += len(data)
        return _Part(data, room, is_last, source)

    async def _fetch_whole(self, reading: Reading, room: Claim) -> bytearray:
        try:
            with child("read", Kind.CLIENT, {"bytes": self._order.pin.size_bytes}):
                async with reading.whole() as body:
                    return await self.rooms.joined(body, room)
        except BaseException:
            # The next try may be a minute away.
            room.release()
            raise

    async def _hash(self, data: bytearray) -> None:
        if self._hasher.needs_order:
            await hashed(self._hasher.update, data)

    # --- bounds ---

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._size_bytes_max:
            raise SourceTooLarge(f"The file has more than {self._size_bytes_max} bytes.")
