"""A deadline that is moved often and reached seldom: moving it further away costs no timer."""

import asyncio
from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import Self


class Deadline:
    def __init__(self, reached: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None) -> None:
        """`reached` is called once each time that it passes; by the clock of the running loop where none is given."""
        self._reached = reached
        self._loop = loop or asyncio.get_running_loop()
        self._at_s = inf
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._at_s = inf
        if self._timer is not None:
            self._timer.cancel()

    def after(self, delay_s: float) -> None:
        """Set it, in the place of what it was."""
        self._at_s = self._loop.time() + delay_s
        if self._timer is None or self._at_s < self._timer.when():
            self._arm()

    def lift(self) -> None:
        self._at_s = inf

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._at_s, self._look)

    def _look(self) -> None:
        """The timer of where it once was: it may be further away by now."""
        self._timer = None
        if self._at_s <= self._loop.time():
            self._at_s = inf
            self._reached()
        elif self._at_s < inf:
            self._arm()
