"""What one order reads from its source: at its pace, and counted as progress."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from rayhaul.lease import TransferOrder
from tasks.budget import Pace
from tasks.egress import GuardedClient
from tasks.lease_control import LeaseControl
from tasks.source import open_range, open_whole


class Intake:
    def __init__(self, order: TransferOrder, client: GuardedClient, control: LeaseControl) -> None:
        self._order = order
        self._client = client
        self._control = control
        #: One for all connections of the order.
        self._pace = Pace(order.bandwidth_bytes_per_s) if order.bandwidth_bytes_per_s else None

    @asynccontextmanager
    async def range(self, first_byte: int, end_byte: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the bytes of a half-open range. What was read counts for nothing when the block fails.

        Raises: as `tasks.source.open_range`.
        """
        order = self._order
        async with open_range(
            self._client,
            url=order.url,
            headers=order.headers,
            pin=order.pin,
            first_byte=first_byte,
            end_byte=end_byte,
        ) as body:
            flow = _Flow(body, self._pace, self._control)
            try:
                yield flow
            except BaseException:
                self._control.progress(-flow.bytes_counted)
                raise

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give all bytes, in order. What was read counts for nothing when the block fails.

        Raises: as `tasks.source.open_whole`.
        """
        order = self._order
        async with open_whole(self._client, url=order.url, headers=order.headers, pin=order.pin) as body:
            flow = _Flow(body, self._pace, self._control)
            try:
                yield flow
            except BaseException:
                self._control.progress(-flow.bytes_counted)
                raise


class _Flow:
    def __init__(self, body: AsyncIterator[bytes], pace: Pace | None, control: LeaseControl) -> None:
        self._body = body
        self._pace = pace
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
        if self._pace is None:
            return await anext(self._body)
        if not self._rest:
            self._rest = memoryview(await anext(self._body))
        piece = bytes(self._rest[: self._pace.piece_bytes_max])
        self._rest = self._rest[len(piece) :]
        await self._pace.take(len(piece))
        return piece
