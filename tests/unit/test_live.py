"""Live progress: one call for all who want it, and no failure for its absence."""

import asyncio
from collections.abc import Mapping
from typing import Any

from actors.ports import ControlPlane, ProgressPage
from rayhaul.errors import Unavailable
from rayhaul.job import Progress
from serve_app.live import Live


class Teller:
    """The one call of a control plane that is asked here."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.page = ProgressPage(version=0)
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    def tell(self, version: int, jobs: Mapping[str, int]) -> None:
        found = {job_id: Progress(bytes_done=done) for job_id, done in jobs.items()}
        self.page = ProgressPage(version=version, jobs=found)

    async def progress(self, since: int) -> ProgressPage:
        self.asked.append(since)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.page


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def live_of(teller: Teller, clock: Clock) -> Live:
    plane: Any = teller
    seam: ControlPlane = plane
    return Live(seam, clock=clock)


def done(live: Live, job_id: str) -> int | None:
    progress = live.of(job_id)
    return progress.bytes_done if progress else None


async def test_it_asks_for_what_changed_and_not_too_often() -> None:
    """Within a quarter of a second nothing is asked; then only what is newer than the version known."""
    teller, clock = Teller(), Clock()
    live = live_of(teller, clock)
    teller.tell(5, {"a": 1})
    await live.refresh()
    clock.now_s += 0.249
    await live.refresh()
    assert teller.asked == [0]
    clock.now_s += 0.001
    teller.tell(6, {"b": 2})
    await live.refresh()
    assert teller.asked == [0, 5]
    assert (done(live, "a"), done(live, "b"), done(live, "c")) == (1, 2, None)


async def test_all_who_wait_share_one_call() -> None:
    """Twenty at once: one call, and all see what it brought."""
    teller, clock = Teller(), Clock()
    live = live_of(teller, clock)
    teller.tell(1, {"a": 1})
    teller.gate = asyncio.Event()
    waiting = [asyncio.create_task(live.refresh()) for _ in range(20)]
    await asyncio.sleep(0)
    assert teller.asked == [0]
    teller.gate.set()
    await asyncio.gather(*waiting)
    assert teller.asked == [0]
    assert done(live, "a") == 1


async def test_one_who_leaves_does_not_take_the_call_with_it() -> None:
    """The caller that asks is cancelled: the next one asks."""
    teller, clock = Teller(), Clock()
    live = live_of(teller, clock)
    teller.tell(1, {"a": 1})
    teller.gate = asyncio.Event()
    first, second = asyncio.create_task(live.refresh()), asyncio.create_task(live.refresh())
    await asyncio.sleep(0)
    first.cancel()
    teller.gate.set()
    await second
    assert done(live, "a") == 1


async def test_a_scheduler_out_of_reach_leaves_what_is_known() -> None:
    """No error, the last values, and a pause before it is asked again."""
    teller, clock = Teller(), Clock()
    live = live_of(teller, clock)
    teller.tell(1, {"a": 1})
    await live.refresh()
    teller.error = Unavailable()
    clock.now_s += 1
    await live.refresh()
    assert done(live, "a") == 1
    clock.now_s += 1.9
    await live.refresh()
    assert len(teller.asked) == 2
    teller.error = None
    clock.now_s += 0.2
    await live.refresh()
    assert len(teller.asked) == 3


async def test_another_life_of_the_scheduler_begins_anew() -> None:
    """A version that went back: what the former life told is forgotten."""
    teller, clock = Teller(), Clock()
    live = live_of(teller, clock)
    teller.tell(50, {"a": 1, "b": 1})
    await live.refresh()
    clock.now_s += 1
    teller.tell(2, {"b": 9})
    await live.refresh()
    assert (done(live, "a"), done(live, "b")) == (None, 9)
    clock.now_s += 1
    await live.refresh()
    assert teller.asked == [0, 50, 2]


async def test_what_changed_is_told_once() -> None:
    """The feed asks by turn and gets each change once, the newest value only."""
    teller, clock = Teller(), Clock()
    live = live_of(teller, clock)
    for version, jobs in ((1, {"a": 1, "b": 1}), (2, {"a": 2})):
        teller.tell(version, jobs)
        await live.refresh()
        clock.now_s += 1
    turn, changed = live.changed_since(0)
    assert {job_id: progress.bytes_done for job_id, progress in changed.items()} == {"a": 2, "b": 1}
    teller.tell(3, {"b": 3})
    await live.refresh()
    turn, changed = live.changed_since(turn)
    assert {job_id: progress.bytes_done for job_id, progress in changed.items()} == {"b": 3}
    assert live.changed_since(turn) == (turn, {})


async def test_what_does_not_change_is_forgotten() -> None:
    """Progress of jobs that ended long ago does not pile up."""
    teller, clock = Teller(), Clock()
    live = live_of(teller, clock)
    teller.tell(1, {"a": 1, "b": 1})
    await live.refresh()
    clock.now_s += 599
    teller.tell(2, {"b": 2})
    await live.refresh()
    assert done(live, "a") == 1
    clock.now_s += 1
    await live.refresh()
    assert (done(live, "a"), done(live, "b")) == (None, 2)
