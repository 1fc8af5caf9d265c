"""A deadline that is moved at each event: what it costs, and when it is reached."""

import asyncio
from collections.abc import Callable, Iterator
from contextvars import Context
from operator import methodcaller
from typing import TypeVarTuple

import pytest

from serve_app.deadline import Deadline

_Arguments = TypeVarTuple("_Arguments")


class TimedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is set by hand, and that counts its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now_s

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Arguments], object],
        *args: *_Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self.timers.append(timer)
        return timer

    def pass_until(self, now_s: float) -> None:
        """Run the timers that are due by then, in their order, those that they make too."""
        while due := [timer for timer in self.timers if timer.when() <= now_s]:
            timer = min(due, key=methodcaller("when"))
            self.timers.remove(timer)
            if not timer.cancelled():
                self.now_s = max(self.now_s, timer.when())
                timer._run()
        self.now_s = now_s


@pytest.fixture
def loop() -> Iterator[TimedLoop]:
    loop = TimedLoop()
    yield loop
    loop.close()


@pytest.fixture
def reached(loop: TimedLoop) -> list[float]:
    return []


@pytest.fixture
def deadline(loop: TimedLoop, reached: list[float]) -> Deadline:
    return Deadline(lambda: reached.append(loop.now_s), loop)


def test_it_is_reached_once(loop: TimedLoop, deadline: Deadline, reached: list[float]) -> None:
    deadline.after(10)
    loop.pass_until(9)
    assert reached == []
    loop.pass_until(100)
    assert reached == [10]
    deadline.after(5)
    loop.pass_until(200)
    assert reached == [10, 105]


def test_further_away_costs_no_timer(loop: TimedLoop, deadline: Deadline, reached: list[float]) -> None:
    for _ in range(99):
        deadline.after(10)
        loop.pass_until(loop.now_s + 0.01)
    assert len(loop.timers) == 1
    loop.pass_until(10.9)
    assert reached == []
    loop.pass_until(11)
    assert reached == [pytest.approx(10.98)]


def test_nearer_is_reached_then(loop: TimedLoop, deadline: Deadline, reached: list[float]) -> None:
    deadline.after(10)
    deadline.after(3)
    loop.pass_until(100)
    assert reached == [3]


def test_what_was_lifted_is_not_reached(loop: TimedLoop, deadline: Deadline, reached: list[float]) -> None:
    deadline.after(10)
    deadline.lift()
    loop.pass_until(100)
    assert reached == []
    deadline.after(10)
    loop.pass_until(200)
    assert reached == [110]


def test_nothing_is_left_of_it(loop: TimedLoop, reached: list[float]) -> None:
    with Deadline(lambda: reached.append(loop.now_s), loop) as deadline:
        deadline.after(10)
    assert [timer.cancelled() for timer in loop.timers] == [True]
    loop.pass_until(100)
    assert reached == []
