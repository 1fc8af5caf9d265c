"""Memory of one lease for what it has to hold, within what its agent has.

Laws of this file:
1. Memory is had as bytes come, never before: a source that is slow holds up nobody.
2. Who waits for memory says so, and that counts as no standstill: nothing is wrong with its source.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.budget import ByteBudget, Claim, Row
from tasks.lease_control import LeaseControl

#: What a lease does that waits: others of its agent have the memory.
AT_MEMORY = "waiting for memory"
#: Well below the time after which a lease without progress is given up.
_TELL_EVERY_S = 5.0
#: Parts of a row that are in memory beside those being read.
_BESIDE = 2


class OutOfRoom(Exception):
    """There is no memory now for what nobody has to have."""


@dataclass(frozen=True, slots=True)
class Buffered:
    """A part in memory, and what it holds of the budget."""

    data: bytearray
    room: Claim
    #: Which of the job's sources brought it.
    source: int


class Rooms:
    def __init__(self, memory: ByteBudget, control: LeaseControl) -> None:
        self._memory = memory
        self._control = control
        self._rooms: set[Claim] = set()
        self._row: Row | None = None

    @contextmanager
    def in_a_row(self, part_bytes: int, *, ahead_max: int) -> Iterator[int]:
        """Give how many parts may be read at once, for the time of the block, that are given back one after the other.

        There is room for one more, which is sent, and a hedge, within half of all memory, and within what other leases
        leave that do the same: then none waits until another one's file is whole. Without room for that, parts are
        read one by one.
        """
        free_bytes = min(self._memory.bytes_max // 2, self._memory.bytes_max - self._memory.rows_bytes)
        ahead_count = min(ahead_max, free_bytes // part_bytes - _BESIDE)
        has_row = ahead_count > 1
        with self._memory.row((ahead_count + _BESIDE) * part_bytes if has_row else part_bytes) as row:
            self._row = row if has_row else None
            try:
                yield max(1, ahead_count)
            finally:
                self._row = None

    def room(self, bytes_count: int) -> Claim:
        """Return a claim to so many bytes, of which it has none yet; `free` it, or `free_all` at the end."""
        room = self._memory.claim(bytes_count, self._row)
        self._rooms.add(room)
        return room

    def free(self, room: Claim) -> None:
        self._rooms.discard(room)
        room.release()

    def free_all(self) -> None:
        for room in [*self._rooms]:
            self.free(room)

    async def joined(self, body: AsyncIterator[bytes], room: Claim, *, waits: bool = True) -> bytearray:
        """Read a body to its end. Raises: OutOfRoom where there is no memory now, unless it waits."""
        data = bytearray()
        async for piece in body:
            await self.grow(room, len(data) + len(piece), waits=waits)
            data += piece
        return data

    async def grow(self, room: Claim, bytes_count: int, *, waits: bool = True) -> None:
        """Have room for a buffer of so many bytes. Raises: OutOfRoom where there is none now, unless it waits."""
        while not room.has_room(bytes_count):
            if room.may_step:
                await room.step()
            elif waits:
                await self._wait(room)
            else:
                raise OutOfRoom

    async def _wait(self, room: Claim) -> None:
        stepping = asyncio.ensure_future(room.step())
        try:
            while not stepping.done():
                self._control.doing(AT_MEMORY)
                await asyncio.wait([stepping], timeout=_TELL_EVERY_S)
            await stepping
        finally:
            stepping.cancel()
        self._control.doing("moving bytes")
