"""How many bytes may stand in memory at once.

Laws of this file:
1. What is held never exceeds `bytes_max`.
2. Bytes are granted as they are needed, and only while all who hold any could still be served to their end, one after
   the other (Dijkstra's banker). So a slow one holds what it has got, not what it will need; and nobody waits for ever
   for somebody who waits for him.
3. Buffers that can be given back only in an order are one holder: none of them counts on what waits behind another.
4. Who came first is served first, but for those who would end a possible order: they do not hold up the others.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

#: Of one grant: a claim holds at most so much more than it has bytes for.
STEP_BYTES = 1024 * 1024


class Row:
    """Buffers of which the first has to be given back before the next: what they need together."""

    def __init__(self, wanted_bytes: int) -> None:
        #: The most that they may ever hold.
        self.wanted_bytes = wanted_bytes


class Claim:
    """Memory for one buffer, which grows with it; to be released, whatever became of the buffer."""

    def __init__(self, budget: "ByteBudget", wanted_bytes: int, row: Row | None) -> None:
        self._budget = budget
        self.row = row
        #: The most that it may ever hold. Of more than the whole budget only that is counted: it is then had alone.
        self.wanted_bytes = min(wanted_bytes, budget.bytes_max)
        self.held_bytes = 0

    def has_room(self, bytes_count: int) -> bool:
        """Whether a buffer of so many bytes fits already."""
        return min(bytes_count, self.wanted_bytes) <= self.held_bytes

    @property
    def may_step(self) -> bool:
        """Whether `step` would not have to wait."""
        return self._budget.may_grant(self, self._step_bytes)

    async def step(self) -> None:
        """Wait until the claim has some of what is missing."""
        await self._budget.grant(self, self._step_bytes)

    @property
    def _step_bytes(self) -> int:
        return min(STEP_BYTES, self.wanted_bytes - self.held_bytes)

    def settle(self) -> None:
        """Say that the buffer is whole: it will not grow any more."""
        self._budget.settle(self)

    def release(self) -> None:
        self._budget.release(self)


class ByteBudget:
    """Memory for buffers, shared by all leases of an agent.

    Whoever holds a whole buffer must be able to give it back without another claim; that rules out a deadlock.
    """

    def __init__(self, bytes_max: int) -> None:
        assert bytes_max > 0, bytes_max
        self.bytes_max = bytes_max
        self.used_bytes = 0
        #: The most that ever were in use.
        self.peak_bytes = 0
        #: What all rows want together.
        self.rows_bytes = 0
        #: Those that hold something.
        self._claims: set[Claim] = set()
        self._waiting: deque[tuple[Claim, int, asyncio.Future[None]]] = deque()

    @contextmanager
    def row(self, wanted_bytes: int) -> Iterator[Row]:
        """Have a row of buffers, for the time of the block."""
        self.rows_bytes += wanted_bytes
        try:
            yield Row(wanted_bytes)
        finally:
            self.rows_bytes -= wanted_bytes

    def claim(self, wanted_bytes: int, row: Row | None = None) -> Claim:
        """Return a claim that has nothing yet; `row`: what it waits for its turn in."""
        return Claim(self, wanted_bytes, row)

    def may_grant(self, claim: Claim, step_bytes: int) -> bool:
        return not self._waiting and self._is_safe(claim, step_bytes)

    async def grant(self, claim: Claim, step_bytes: int) -> None:
        """Wait until so many bytes more are the claim's."""
        if self.may_grant(claim, step_bytes):
            self._take(claim, step_bytes)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((claim, step_bytes, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            # What was granted by then is the claim's, and released with it.
            turn.cancel()
            self._serve()
            raise

    def settle(self, claim: Claim) -> None:
        claim.wanted_bytes = claim.held_bytes
        self._serve()

    def release(self, claim: Claim) -> None:
        self.used_bytes -= claim.held_bytes
        claim.held_bytes = 0
        self._claims.discard(claim)
        self._serve()

    def _serve(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for claim, step_bytes, turn in waiting:
            if turn.done():
                continue
            if self._is_safe(claim, step_bytes):
                self._take(claim, step_bytes)
                turn.set_result(None)
            else:
                self._waiting.append((claim, step_bytes, turn))

    def _is_safe(self, claim: Claim, step_bytes: int) -> bool:
        """Whether all who would hold bytes after this grant could be served to their end, one after the other."""
        free_bytes = self.bytes_max - self.used_bytes - step_bytes
        if free_bytes < 0:
            return False
        held: dict[Claim | Row, int] = {claim.row or claim: step_bytes}
        for known in self._claims:
            holder = known.row or known
            held[holder] = held.get(holder, 0) + known.held_bytes
        # Who needs the least first: where any order is possible, this one is.
        for missing_bytes, held_bytes in sorted((holder.wanted_bytes - count, count) for holder, count in held.items()):
            if missing_bytes > free_bytes:
                return False
            free_bytes += held_bytes
        return True

    def _take(self, claim: Claim, step_bytes: int) -> None:
        claim.held_bytes += step_bytes
        self._claims.add(claim)
        self.used_bytes += step_bytes
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)
