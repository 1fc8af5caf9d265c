"""What one order reads from its source: at its paces, counted as progress, by a fresh link where one has expired."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Self

from rayhaul.errors import SourceError, SourceStalled
from rayhaul.lease import TransferOrder
from tasks.bucket_rules import StoredObject
from tasks.gates import HostGate
from tasks.lease_control import LeaseControl
from tasks.links import Link, Links, Refresh
from tasks.pace import Line
from tasks.transports import Transports

#: What a lease does while its host has no connection for it.
AT_GATE = "waiting for a connection to its host"

OpenAt = Callable[[Link], AbstractAsyncContextManager[AsyncIterator[bytes]]]


class Intake:
    def __init__(
        self,
        order: TransferOrder,
        transports: Transports,
        control: LeaseControl,
        *,
        line: Line,
        refresh: Refresh | None = None,
        gate: HostGate | None = None,
    ) -> None:
        self._order = order
        self._transports = transports
        self._control = control
        self._gate = gate
        self._links = Links(
            Link(order.url, order.headers),
            context=order.context,
            pin=order.pin,
            receiver=order.refresh_webhook,
            refresh=refresh,
        )
        #: One for all connections of the order.
        self._line = line

    @property
    def stored(self) -> StoredObject | None:
        """The object in our own store that the bytes are of; None of any other source. Raises: EgressDenied."""
        return self._transports.stored(self._links.current.url)

    def range(self, first_byte: int, end_byte: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Give the bytes of a half-open range. What was read counts for nothing when the block fails.

        Raises: as `Transport.open_range`.
        """
        return self._flow(
            lambda link: self._transports.by(link.url).open_range(
                link,
                pin=self._order.pin,
                first_byte=first_byte,
                end_byte=end_byte,
                checksum_tells=self._order.checksum is not None,
            )
        )

    def whole(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Give all bytes, in order. What was read counts for nothing when the block fails.

        Raises: as `Transport.open_whole`.
        """
        return self._flow(lambda link: self._transports.by(link.url).open_whole(link, pin=self._order.pin))

    @asynccontextmanager
    async def _flow(self, open_at: OpenAt) -> AsyncIterator[AsyncIterator[bytes]]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.turn())
            flow = _Flow(await self._opened(stack, open_at), self._line, self._control)
            try:
                yield flow
            except BaseException:
                self._control.progress(-flow.bytes_counted)
                raise

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold one of the host's connections."""
        if self._gate is None:
            yield
            return
        async with self._gate.turn(lambda: self._control.doing(AT_GATE)):
            self._control.doing("moving bytes")
            yield

    async def _opened(self, stack: AsyncExitStack, open_at: OpenAt) -> AsyncIterator[bytes]:
        while True:
            link = self._links.current
            try:
                return await stack.enter_async_context(open_at(link))
            except SourceError as error:
                if not await self._links.are_fresh_after(link, error):
                    raise


class UploadIdle(SourceStalled):
    """The source paused for so long that the store might give up the upload that waits for it."""


class Steady:
    """A body that goes straight into an upload: no pause of it may be longer than `idle_s_max`."""

    def __init__(self, body: AsyncIterator[bytes], idle_s_max: float) -> None:
        self._body = body
        self._idle_s_max = idle_s_max

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Raises: UploadIdle; what the body raises."""
        try:
            async with asyncio.timeout(self._idle_s_max):
                return await anext(self._body)
        except TimeoutError:
            raise UploadIdle from None


class _Flow:
    def __init__(self, body: AsyncIterator[bytes], line: Line, control: LeaseControl) -> None:
        self._body = body
        self._line = line
        self._control = control
        self._rest = memoryview(b"")
        self.bytes_counted = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._next()
        self.bytes_counted += len(piece)
        self._control.progress(len(piece))
        return piece

    async def _next(self) -> bytes:
        piece_bytes_max = self._line.piece_bytes_max
        if piece_bytes_max is None:
            return await anext(self._body)
        if not self._rest:
            self._rest = memoryview(await anext(self._body))
        piece = bytes(self._rest[:piece_bytes_max])
        self._rest = self._rest[len(piece) :]
        await self._line.pass_on(len(piece))
        return piece
