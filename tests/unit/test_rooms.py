"""A lease that waits for memory says so, again and again, and is not taken for one that stands still."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest

import tasks.rooms
from actors.holding import Held
from tasks.budget import ByteBudget
from tasks.hashing import hashed
from tasks.intake import AT_AGENT
from tasks.rooms import AT_MEMORY, OutOfRoom, Rooms


class Told:
    """The part of a lease's control that is used here."""

    def __init__(self) -> None:
        self.doings: list[str] = []

    def doing(self, what: str) -> None:
        self.doings.append(what)


async def test_waiting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than once while it lasts; then that bytes move; what was had is given back at the end."""
    monkeypatch.setattr(tasks.rooms, "_TELL_EVERY_S", 0.01)
    memory, told = ByteBudget(10), Told()
    control: Any = told
    others = memory.claim(10)
    await others.step()
    rooms = Rooms(memory, control)
    room = rooms.room(4)
    growing = asyncio.create_task(rooms.grow(room, 4))
    async with asyncio.timeout(10):
        while len(told.doings) < 3:
            await asyncio.sleep(0.01)
    assert set(told.doings) == {AT_MEMORY}
    others.release()
    await asyncio.wait_for(growing, 10)
    assert told.doings[-1] == "moving bytes"
    assert memory.used_bytes == 4
    rooms.free_all()
    assert memory.used_bytes == 0


async def test_memory_that_is_there_is_not_told_of() -> None:
    """Nor does a lease say that it moves bytes, which it may not do yet."""
    told = Told()
    control: Any = told
    rooms = Rooms(ByteBudget(10), control)
    await rooms.grow(rooms.room(10), 10)
    assert told.doings == []


async def test_a_wait_that_is_given_up_holds_nothing() -> None:
    """A lease that is revoked meanwhile takes no memory along."""
    memory = ByteBudget(10)
    control: Any = Told()
    others = memory.claim(10)
    await others.step()
    rooms = Rooms(memory, control)
    growing = asyncio.create_task(rooms.grow(rooms.room(4), 4))
    await asyncio.sleep(0.02)
    growing.cancel()
    await asyncio.gather(growing, return_exceptions=True)
    rooms.free_all()
    others.release()
    await asyncio.sleep(0)
    assert memory.used_bytes == 0


async def test_a_hedge_waits_for_no_memory() -> None:
    """It ends where there is none, and queues up before nobody."""
    memory = ByteBudget(10)
    control: Any = Told()
    others = memory.claim(8)
    await others.step()
    rooms = Rooms(memory, control)
    with pytest.raises(OutOfRoom):
        await asyncio.wait_for(rooms.joined(_pieces(), rooms.room(4), waits=False), 10)
    rooms.free_all()
    assert memory.used_bytes == 8
    more = memory.claim(2)
    assert more.may_step


async def _pieces() -> AsyncIterator[bytes]:
    yield b"abcd"


async def test_what_is_read_ahead_keeps_no_lease_from_its_next_part() -> None:
    """Six leases wait for connections for their next parts, and hold what they may have read behind those by then."""
    memory = ByteBudget(16 * 4)
    control: Any = Told()
    with ExitStack() as rows:
        leases = [Rooms(memory, control) for _ in range(6)]
        for rooms in leases:
            ahead_count = rows.enter_context(rooms.in_a_row(4, ahead_max=3))
            for _ in range(ahead_count - 1):
                await rooms.grow(rooms.room(4), 4, waits=False)
        ahead_bytes = memory.used_bytes
        for rooms in leases:
            await rooms.grow(rooms.room(4), 4, waits=False)
        assert ahead_bytes == 3 * 2 * 4, "three have room to read ahead"
    for rooms in leases:
        rooms.free_all()
    with leases[1].in_a_row(4, ahead_max=3) as ahead_count:
        assert ahead_count == 3, "rows that are over are counted"


@pytest.mark.parametrize(("what", "moved_at_s"), [(AT_MEMORY, 9.0), (AT_AGENT, 9.0), ("moving bytes", 1.0)])
def test_who_waits_does_not_stand_still(what: str, moved_at_s: float) -> None:
    """Its patience begins anew each time that it says so."""
    order: Any = None
    held = Held(order)
    held.moved_at_s = 1.0
    held.do(what, 9.0)
    assert held.moved_at_s == moved_at_s


async def test_hashing_is_not_on_the_loop() -> None:
    """It has threads of its own."""
    thread = await hashed(threading.current_thread)
    assert thread is not threading.current_thread()
    assert thread.name.startswith("hash")
