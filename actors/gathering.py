"""Calls that cross to another process together: what comes while others are on their way goes with the next of them.

A crossing costs a millisecond, however little it carries. Who comes alone goes at once and alone; a hundred at once go
in two or three.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

#: On their way at once: one would be idle while the other side is at work.
_CROSSINGS_MAX = 2
#: In one crossing.
_CALLS_MAX = 64


class Gathering(Generic[A, R]):
    def __init__(self, cross: Callable[[Sequence[A]], Awaitable[Sequence[R]]]) -> None:
        """`cross` returns an answer for each call, in their order; what it raises is raised to each of its callers."""
        self._cross = cross
        self._waiting: list[tuple[A, asyncio.Future[R]]] = []
        self._crossings: set[asyncio.Task[None]] = set()

    async def ask(self, call: A) -> R:
        """Return the answer. A caller that gives up before its call has left takes it back."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer))
        self._leave()
        return await answer

    def _leave(self) -> None:
        self._waiting = [(call, answer) for call, answer in self._waiting if not answer.done()]
        while self._waiting and len(self._crossings) < _CROSSINGS_MAX:
            going, self._waiting = self._waiting[:_CALLS_MAX], self._waiting[_CALLS_MAX:]
            crossing = asyncio.create_task(self._carry(going))
            self._crossings.add(crossing)
            crossing.add_done_callback(self._arrived)

    def _arrived(self, crossing: asyncio.Task[None]) -> None:
        self._crossings.discard(crossing)
        self._leave()

    async def _carry(self, going: Sequence[tuple[A, asyncio.Future[R]]]) -> None:
        try:
            answers = await self._cross([call for call, _ in going])
            told = list(zip(going, answers, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers'
            for _, answer in going:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), value in told:
            if not answer.done():
                answer.set_result(value)
