"""A body that comes out of a protocol without lengths of its own: counted, cut, and ended only when it is complete."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from rayhaul.errors import SourceChanged, SourceStalled, SourceTruncated
from rayhaul.metrics import SOURCE_BYTES, Meter
from rayhaul.settings import SourceSettings
from tasks.speed import SpeedWatch


class CountedBody:
    """An iterator over exactly `bytes_expected`; None: over all that comes.

    Its last piece is given only after `finish`, which says whether that was all, and still of the pinned version.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[bytes]],
        *,
        bytes_expected: int | None,
        is_range: bool,
        finish: Callable[[], Awaitable[None]],
        limits: SourceSettings,
        meter: Meter,
    ) -> None:
        """`read` gives the next bytes, none at the end; `is_range`: more may follow, and is none of ours."""
        self._read = read
        self._bytes_expected = bytes_expected
        self._is_range = is_range
        self._finish = finish
        self._meter = meter
        self._speed = SpeedWatch(limits.speed_bytes_per_s_min, limits.speed_window_s)
        self._bytes_count = 0
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Raises: SourceTruncated; SourceChanged; SourceStalled; what `read` and `finish` raise."""
        if self._is_over:
            raise StopAsyncIteration
        piece = await self._watched()
        left = None if self._bytes_expected is None else self._bytes_expected - self._bytes_count
        if left is not None and not piece and left:
            raise SourceTruncated
        if left is not None and len(piece) > left:
            if not self._is_range:
                raise SourceChanged("The source sent more bytes than the file has.")
            piece = piece[:left]
        self._bytes_count += len(piece)
        if not piece or self._bytes_count == self._bytes_expected:
            await self._end()
            if not piece:
                raise StopAsyncIteration
        return piece

    async def _end(self) -> None:
        self._is_over = True
        if self._bytes_expected is not None and not self._is_range and await self._watched():
            raise SourceChanged("The source sent more bytes than the file has.")
        await self._finish()

    async def _watched(self) -> bytes:
        clock = asyncio.get_running_loop().time
        began_s = clock()
        piece = await self._read()
        self._meter.inc(SOURCE_BYTES, by=len(piece))
        if piece and self._speed.is_too_slow(len(piece), clock() - began_s):
            raise SourceStalled(f"The source sends less than {self._speed.bytes_per_s_min} bytes per second.")
        return piece
