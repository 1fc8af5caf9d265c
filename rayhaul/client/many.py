"""Waiting for many jobs: one event stream for all of them, and a look at each where that may have missed something.

Laws of this file:
1. Each job that ends is told once, however it ends, and none is missed: all are looked at once the stream is open, and
   again whenever it was not.
2. What is kept is the ids of the jobs that are still open; answers are let go as they are told.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from rayhaul.client.feed import EventFeed
from rayhaul.client.retries import Patience
from rayhaul.client.waiting import PASSING
from rayhaul.job import FINAL, JobStatus
from rayhaul.wire import JobView

#: Jobs that are looked at one by one; more are found in pages of the list.
_ONE_BY_ONE_MAX = 100
#: The stream has so long to open before the first look.
_OPEN_S = 5.0
#: Time between two looks while there is no stream.
_LOOK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many of the jobs that are waited for have ended, and how."""

    total: int
    completed: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def left(self) -> int:
        return self.total - self.completed - self.failed - self.cancelled

    def with_one(self, status: JobStatus) -> "Tally":
        return replace(self, **{status.value: getattr(self, status.value) + 1})


OnTally = Callable[[Tally], None]


class Ends:
    """Finds out which of some jobs have ended."""

    def __init__(
        self,
        job_ids: Iterable[str],
        *,
        feed: EventFeed,
        look: Callable[[str], Awaitable[JobView]],
        newest_first: Callable[[], AsyncGenerator[JobView, None]],
        patience: Patience,
    ) -> None:
        #: In the order they were named; the values say nothing.
        self.open = dict.fromkeys(job_ids)
        self._feed = feed
        self._look = look
        self._newest_first = newest_first
        self._patience = patience
        #: Jobs that are said to have ended; None: a stream broke, and until the next one opens nothing is heard.
        self._said: asyncio.Queue[str | None] = asyncio.Queue()

    async def listen(self) -> None:
        """Listen until cancelled. Raises: ApiError, ConnectionFailed once patience is over."""
        while True:
            try:
                async with aclosing(self._feed.listen()) as heard:
                    async for event in heard:
                        self._patience.renew()
                        if event.seq is not None and event.status in FINAL and event.job_id in self.open:
                            self._said.put_nowait(event.job_id)
                self._patience.forgive()
            except PASSING:
                if self._patience.is_over():
                    raise
            self._said.put_nowait(None)
            await asyncio.sleep(max(self._feed.retry_s, self._patience.pause_s()))

    async def first(self) -> Sequence[JobView]:
        """Return the jobs that have ended when the stream opens. Raises: NotFound where there is no such job."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_OPEN_S):
                await self._feed.opened.wait()
        return await self._ended()

    async def next(self) -> Sequence[JobView]:
        """Return jobs that have ended since; none after a while without any."""
        try:
            async with asyncio.timeout(None if self._feed.opened.is_set() else _LOOK_S):
                job_id = await self._said.get()
        except TimeoutError:
            return await self._ended()
        if job_id is None:
            return await self.first()
        if job_id not in self.open:
            return ()
        job = await self._look(job_id)
        # Somebody may have let it begin again.
        return self._told([job])

    async def _ended(self) -> Sequence[JobView]:
        wanted = list(self.open)
        if len(wanted) > _ONE_BY_ONE_MAX:
            found = await self._listed(frozenset(wanted))
            wanted = [job_id for job_id in wanted if job_id not in found]
            return self._told([*found.values(), *[await self._look(job_id) for job_id in wanted]])
        return self._told([await self._look(job_id) for job_id in wanted])

    async def _listed(self, wanted: frozenset[str]) -> dict[str, JobView]:
        """Return those of the jobs that the list has; it ends at the oldest one, for ids are in the order of time."""
        oldest = min(wanted)
        found: dict[str, JobView] = {}
        async with aclosing(self._newest_first()) as jobs:
            async for job in jobs:
                if job.id in wanted:
                    found[job.id] = job
                if job.id <= oldest:
                    break
        return found

    def _told(self, jobs: Sequence[JobView]) -> Sequence[JobView]:
        ended = [job for job in jobs if job.status in FINAL and job.id in self.open]
        for job in ended:
            del self.open[job.id]
        return ended
