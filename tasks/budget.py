"""Bounds on bytes: how many may stand in memory at once, and how many may pass in a second."""

import asyncio
from collections import deque
from contextlib import suppress

#: Burst of a paced flow, and the longest silence between two of its pieces, unless they are of the smallest size.
_PACE_STEP_S = 0.25
_PACE_PIECE_BYTES_MIN = 16 * 1024


class ByteBudget:
    """Memory for buffers, shared by all leases of an agent. Who came first is served first.

    Whoever holds bytes must be able to give them back without acquiring more; that rules out a deadlock.
    """

    def __init__(self, bytes_max: int) -> None:
        assert bytes_max > 0, bytes_max
        self.bytes_max = bytes_max
        self.used_bytes = 0
        #: The most that ever were in use.
        self.peak_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, wanted_bytes: int) -> int:
        """Wait until the bytes are free and return how many to release later.

        More than the whole budget is granted as the whole budget: it is then had alone.
        """
        granted = min(wanted_bytes, self.bytes_max)
        if not self._waiting and self.used_bytes + granted <= self.bytes_max:
            self._take(granted)
            return granted
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (granted, turn)
        self._waiting.append(waiter)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with suppress(ValueError):  # `_serve` may have dropped it already
                    self._waiting.remove(waiter)
                self._serve()
            else:
                self.release(granted)
            raise
        return granted

    def release(self, granted_bytes: int) -> None:
        """Give back what `acquire` returned."""
        self.used_bytes -= granted_bytes
        assert self.used_bytes >= 0, "released more than was acquired"
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self.used_bytes + self._waiting[0][0] <= self.bytes_max:
            granted, turn = self._waiting.popleft()
            if turn.cancelled():
                continue
            self._take(granted)
            turn.set_result(None)

    def _take(self, granted: int) -> None:
        self.used_bytes += granted
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)


class Pace:
    """A token bucket over all connections of one order."""

    def __init__(self, bytes_per_s: int) -> None:
        assert bytes_per_s > 0, bytes_per_s
        self._bytes_per_s = bytes_per_s
        #: Larger pieces are to be cut: one of them would be a long silence for the other side.
        self.piece_bytes_max = max(_PACE_PIECE_BYTES_MIN, int(bytes_per_s * _PACE_STEP_S))
        self._due_s = 0.0

    async def take(self, bytes_count: int) -> None:
        """Wait until so many bytes may pass."""
        now_s = asyncio.get_running_loop().time()
        self._due_s = max(self._due_s, now_s - _PACE_STEP_S) + bytes_count / self._bytes_per_s
        if self._due_s > now_s:
            await asyncio.sleep(self._due_s - now_s)
