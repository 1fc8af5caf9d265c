"""How many bytes may stand in memory at once."""

import asyncio
from collections import deque
from contextlib import suppress


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
