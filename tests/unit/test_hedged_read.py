"""A part that is read into memory, and comes by a second request as well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

import tasks.budget
from rayhaul.metrics import Meter
from tasks.budget import ByteBudget
from tasks.hedging import Hedges
from tasks.lanes import Lanes
from tasks.rooms import AT_MEMORY, Buffered, Rooms


async def test_a_wait_for_memory_ends_where_the_hedge_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first request waits for may be what the hedge has: nobody else would ever give it back."""
    monkeypatch.setattr(tasks.budget, "STEP_BYTES", 1)
    has_some, goes_on, waits = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def one_after_the_other() -> AsyncIterator[bytes]:
        yield b"a"
        has_some.set()
        await goes_on.wait()
        yield b"b"

    @asynccontextmanager
    async def request(_first_byte: int, _end_byte: int) -> AsyncIterator[Any]:
        yield one_after_the_other()

    moved_bytes: list[int] = []
    control: Any = SimpleNamespace(
        doing=lambda what: waits.set() if what == AT_MEMORY else None, progress=moved_bytes.append
    )
    memory = ByteBudget(3)
    rooms = Rooms(memory, control)
    hedges = Hedges(rooms, control, Meter(), source_budget=lambda _url: pytest.fail("no second try"))
    lanes: Any = SimpleNamespace(_rooms=rooms, _hedges=hedges)
    reading = SimpleNamespace(source=0, range=request)
    wanted: Any = SimpleNamespace(reading=reading, number=1, first_byte=0, end_byte=2, bytes_count=2)
    running = asyncio.create_task(Lanes._read(lanes, wanted))
    async with asyncio.timeout(10):
        await has_some.wait()
        room = rooms.room(2)
        await rooms.grow(room, 2, waits=False)
        goes_on.set()
        await waits.wait()
        assert hedges._feeds[1].take(Buffered(bytearray(b"ab"), room, 1))
        part = await running
    assert (bytes(part.data), part.room, part.source) == (b"ab", room, 1)
    assert memory.used_bytes == 2, "the first request holds some still"
    assert sum(moved_bytes) == -2, "what both have brought counts twice"
