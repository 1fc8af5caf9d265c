"""What one order reads from its sources: at its paces, counted as progress, by a fresh link where one has expired."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

from rayhaul.errors import AgentFull, EgressDenied, RayhaulError, SourceError, SourceStalled
from rayhaul.job import Metadata
from rayhaul.lease import TransferOrder
from rayhaul.metrics import Meter
from rayhaul.policy.planning import tells_versions
from rayhaul.settings import SourceSettings
from tasks.bucket_rules import StoredObject
from tasks.gates import Gates
from tasks.lease_control import LeaseControl
from tasks.links import Link, Refresh
from tasks.mirrors import Supplies, Supply
from tasks.pace import Line
from tasks.transport import Transport
from tasks.transports import Transports

#: Opens a body at a link, by the transport of its URL; it must show the version that is pinned of its source.
OpenAt = Callable[[Callable[[str], Transport], Link, Metadata], AbstractAsyncContextManager[AsyncIterator[bytes]]]

#: What a lease does that waits: others of its agent have the connections.
AT_AGENT = "waiting for a connection of its agent"
#: Well below the time after which a lease without progress is given up.
_TELL_EVERY_S = 5.0

#: Failures after which another source may still bring the bytes.
_OF_ONE_SOURCE = (SourceError, EgressDenied, AgentFull)


class Intake:
    def __init__(
        self,
        order: TransferOrder,
        transports: Transports,
        source: SourceSettings,
        control: LeaseControl,
        *,
        line: Line,
        meter: Meter,
        refresh: Refresh | None = None,
        gates: Gates | None = None,
    ) -> None:
        self._transports = transports
        self.control = control
        self.checksum_tells = tells_versions(order.checksum)
        self.supplies = Supplies(
            order, transports, source, control, line=line, gates=gates, refresh=refresh, meter=meter
        )

    async def __aenter__(self) -> Self:
        await self.supplies.find_places()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.supplies.close()

    @property
    def stored(self) -> StoredObject | None:
        """The object in our own store that is the main source; None of any other source. Raises: EgressDenied."""
        return self._transports.stored(self.supplies.main.links.current.url)

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Say now and then, where the agent has no connection left for the one that the block opens."""
        if not self._transports.are_full:
            yield
            return
        loop = asyncio.get_running_loop()
        telling: asyncio.TimerHandle

        def tell() -> None:
            nonlocal telling
            if self._transports.are_full:
                self.control.doing(AT_AGENT)
            telling = loop.call_later(_TELL_EVERY_S, tell)

        telling = loop.call_later(0, tell)
        try:
            yield
        finally:
            telling.cancel()
        self.control.doing("moving bytes")

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Hold one of the main source's connections."""
        return self.supplies.main.turn(self.control)

    def begin_to_look(self) -> None:
        """Look at the mirrors meanwhile: there are parts for them."""
        self.supplies.begin_to_look()

    async def looked(self) -> None:
        """Return when it is known what mirrors there are, or that takes too long to be waited for."""
        await self.supplies.looked()

    def reading(self) -> "Reading":
        """Return the way of one part, or of the whole."""
        return Reading(self)


class Reading:
    """One part's way from the sources, or the whole's. It knows which of them were asked for it in this round."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._supplies = intake.supplies
        self._control = intake.control
        self._checksum_tells = intake.checksum_tells
        self._asked: set[int] = set()
        self._failed_urls: Sequence[str] = ()
        self._is_ranged = True
        #: Whom was asked last.
        self._supply = self._supplies.main

    @property
    def source(self) -> int:
        """Which of the job's sources was asked last."""
        return self._supply.source

    @property
    def url(self) -> str:
        """Where was asked last, as the job or its document names it."""
        return self._supply.url

    def range(self, first_byte: int, end_byte: int) -> "AbstractAsyncContextManager[Flow]":
        """Give the bytes of a half-open range. What was read counts for nothing when the block fails.

        Raises: as `Transport.open_range`.
        """
        self._is_ranged = True
        return self._flow(
            lambda by, link, pin: by(link.url).open_range(
                link,
                pin=pin,
                first_byte=first_byte,
                end_byte=end_byte,
                checksum_tells=self._checksum_tells,
            )
        )

    def whole(self) -> "AbstractAsyncContextManager[Flow]":
        """Give all bytes, in order. What was read counts for nothing when the block fails.

        Raises: as `Transport.open_whole`.
        """
        self._is_ranged = False
        return self._flow(lambda by, link, pin: by(link.url).open_whole(link, pin=pin))

    def beside(self) -> "Reading | None":
        """Return the way of a second request for the same bytes, to another source where one is free; None: none is."""
        but = self._supplies.apart_from(self._supply)
        if but is None:
            return None
        second = Reading(self._intake)
        second._asked.update(but)
        return second

    async def counts(self, error: RayhaulError) -> RayhaulError | None:
        """Return what a failure of the last block means for the part; None: another source is to be asked at once."""
        self._failed_urls = ()
        if not isinstance(error, _OF_ONE_SOURCE):
            return error
        self._asked.add(self._supply.index)
        if await self._supplies.pick(self._asked, ranges=self._is_ranged) is not None:
            return None
        self._failed_urls = self._supplies.urls_of(self._asked)
        self._asked.clear()
        return self._supplies.verdict(error, ranges=self._is_ranged)

    def failed_urls(self) -> Sequence[str]:
        """Return where the last round asked in vain, and the next one may ask again."""
        return self._failed_urls

    @asynccontextmanager
    async def _flow(self, open_at: OpenAt) -> "AsyncIterator[Flow]":
        supply = await self._supplies.pick(self._asked, ranges=self._is_ranged) or self._supplies.main
        self._supply = supply
        flow = Flow(supply, self._control, self._crawls)
        with supply.in_use():
            try:
                async with AsyncExitStack() as stack:
                    await stack.enter_async_context(supply.turn(self._control))
                    with self._intake.opening():
                        flow.begin(await _opened(stack, supply, open_at))
                    yield flow
            except BaseException as error:
                self._control.progress(-flow.bytes_counted)
                if isinstance(error, _OF_ONE_SOURCE):
                    self._supplies.failed(supply, error, bytes_count=flow.bytes_counted, waited_s=flow.waited_s)
                raise
        if flow.error is not None:
            # Somebody else brought the rest.
            self._supplies.failed(supply, flow.error, bytes_count=flow.bytes_counted, waited_s=flow.waited_s)
        else:
            supply.standing = supply.standing.delivered(flow.bytes_counted, flow.waited_s)

    def _crawls(self, supply: Supply, bytes_count: int, waited_s: float) -> bool:
        return self._is_ranged and self._supplies.crawls(supply, bytes_count, waited_s)


async def _opened(stack: AsyncExitStack, supply: Supply, open_at: OpenAt) -> AsyncIterator[bytes]:
    assert supply.pin is not None, "only a source that was looked at is read from"
    while True:
        link = supply.links.current
        try:
            return await stack.enter_async_context(open_at(supply.by, replace(link, line=supply.line), supply.pin))
        except SourceError as error:
            if not await supply.links.are_fresh_after(link, error):
                raise


class Flow:
    """Bytes of one request, counted as they come."""

    def __init__(self, supply: Supply, control: LeaseControl, crawls: Callable[[Supply, int, float], bool]) -> None:
        self._supply = supply
        self._control = control
        self._crawls = crawls
        self._body: AsyncIterator[bytes] | None = None
        self._rest = memoryview(b"")
        self.bytes_counted = 0
        #: What it broke with.
        self.error: SourceError | None = None
        self._waited_s = 0.0
        #: Since when bytes are waited for; None while they are not.
        self._waits_since_s: float | None = None

    @property
    def waited_s(self) -> float:
        """Time spent waiting for the source, up to now; our own paces are not its fault."""
        since_s = self._waits_since_s
        return self._waited_s + (0.0 if since_s is None else asyncio.get_running_loop().time() - since_s)

    def begin(self, body: AsyncIterator[bytes]) -> None:
        self._body = body

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._next()
        self.bytes_counted += len(piece)
        self._control.progress(len(piece))
        return piece

    async def _next(self) -> bytes:
        line = self._supply.line
        piece_bytes_max = line.piece_bytes_max
        if piece_bytes_max is None:
            return await self._read()
        if not self._rest:
            self._rest = memoryview(await self._read())
        piece = bytes(self._rest[:piece_bytes_max])
        self._rest = self._rest[len(piece) :]
        await line.pass_on(len(piece))
        return piece

    async def _read(self) -> bytes:
        assert self._body is not None, "it was begun"
        clock = asyncio.get_running_loop().time
        began_s = self._waits_since_s = clock()
        try:
            piece = await anext(self._body)
        except SourceError as error:
            self.error = error
            raise
        finally:
            self._waits_since_s = None
            self._waited_s += clock() - began_s
        if self._crawls(self._supply, self.bytes_counted + len(piece), self.waited_s):
            self.error = SourceStalled("The source is much slower than another one that has the file.")
            raise self.error
        return piece
