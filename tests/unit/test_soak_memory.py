"""What the soak says of its memory: a leak is one, work under way is none."""

import asyncio
import sqlite3
import time

import pytest
import soak_memory
from soak_memory import Calms, Memory, quarters


def memory(rss_mib: list[float], sqlite_mib: list[float] | None = None) -> Memory:
    return Memory(rss_mib=rss_mib, sqlite_mib=sqlite_mib or [0.0] * len(rss_mib))


def test_a_leak_is_not_flat() -> None:
    assert not memory([250.0 + 2 * number for number in range(12)]).is_flat
    assert not memory([250.0] * 3 + [260.0] * 6 + [270.0] * 3).is_flat


def test_warming_up_is_flat() -> None:
    assert memory([200.0, 220.0, 240.0] + [250.0] * 9).is_flat


def test_caches_of_sqlite_are_taken_off_to_their_bound() -> None:
    grows = [3.0 * number for number in range(12)]
    assert memory([250.0 + cache for cache in grows], grows).is_flat
    too_far = [4.0 * number for number in range(12)]
    assert not memory([250.0 + cache for cache in too_far], too_far).is_flat


def test_quarters_of_few_samples() -> None:
    assert quarters([1.0]) == [1.0]
    assert quarters([float(number) for number in range(8)]) == [0.5, 2.5, 4.5, 6.5]


def test_a_sample_is_of_this_process() -> None:
    # The library is there once it is used.
    sqlite3.connect(":memory:").close()
    here = Memory()
    here.sample()
    assert here.rss_mib[0] > 10
    assert here.sqlite_mib[0] >= 0


def test_nothing_is_under_way_in_a_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes of which some are slow meet at each calm, and none waits for one that has ended."""
    monkeypatch.setattr(soak_memory, "CALM_EVERY_S", 0.1)
    monkeypatch.setattr(soak_memory, "_SETTLES_S", 0.01)
    under_way = 0
    seen: list[int] = []

    async def lane(number: int, ends_s: float, calms: Calms) -> None:
        nonlocal under_way
        attended = 0
        while time.monotonic() < ends_s:
            under_way += 1
            await asyncio.sleep(0.01 * number)
            under_way -= 1
            attended = await calms.attend(attended)

    async def run() -> None:
        ends_s = time.monotonic() + 0.35
        calms = Calms(3, ends_s, lambda: seen.append(under_way))
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for number in (1, 2, 5):
                group.create_task(lane(number, ends_s, calms))

    asyncio.run(run())
    assert seen == [0, 0, 0]
