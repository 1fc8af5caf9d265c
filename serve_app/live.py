"""How far the running jobs are: what the scheduler last told, asked for at most every quarter of a second.

Laws of this file:
1. However many requests want progress, one call is under way at a time, and none where the last one is fresh.
2. Progress is a courtesy: a scheduler out of reach leaves the last known values, and no request fails for it.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic

from actors.ports import ControlPlane
from rayhaul.errors import RayhaulError
from rayhaul.job import Progress

log = logging.getLogger(__name__)

_FRESH_S = 0.25
#: Longest that a request waits for progress.
_TIMEOUT_S = 1.0
#: A scheduler that did not answer is left alone this long.
_PAUSE_S = 2.0
#: Progress that did not change for so long is forgotten: its job is over, or stalled and handed back long ago.
_KEEP_S = 600.0


@dataclass(frozen=True, slots=True)
class _Known:
    turn: int
    seen_s: float
    progress: Progress


class Live:
    def __init__(self, plane: ControlPlane, *, clock: Callable[[], float] = monotonic) -> None:
        self._plane = plane
        self._clock = clock
        self._asking = asyncio.Lock()
        self._due_s = float("-inf")
        #: The scheduler's version of what is known here.
        self._version = 0
        #: Counts the answers that brought something.
        self._turn = 0
        #: By job id, the longest unchanged first.
        self._jobs: dict[str, _Known] = {}

    def of(self, job_id: str) -> Progress | None:
        known = self._jobs.get(job_id)
        return known.progress if known else None

    def changed_since(self, turn: int) -> tuple[int, Mapping[str, Progress]]:
        """Return what changed after `turn`, and the turn to ask with next time."""
        changed: dict[str, Progress] = {}
        for job_id, known in reversed(self._jobs.items()):
            if known.turn <= turn:
                break
            changed[job_id] = known.progress
        return self._turn, changed

    async def refresh(self) -> None:
        """Ask the scheduler, unless what is known is fresh."""
        if self._clock() < self._due_s:
            return
        async with self._asking:
            if self._clock() < self._due_s:
                return
            await self._ask()

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                page = await self._plane.progress(self._version)
        except (RayhaulError, TimeoutError) as err:
            self._due_s = self._clock() + _PAUSE_S
            log.warning("no progress from the scheduler: %s", err)
            return
        self._due_s = self._clock() + _FRESH_S
        if page.version < self._version:
            # Another life of the scheduler: its count began anew, and what the last one told is stale.
            self._jobs.clear()
        self._version = page.version
        self._take(page.jobs)

    def _take(self, jobs: Mapping[str, Progress]) -> None:
        now_s = self._clock()
        if jobs:
            self._turn += 1
        for job_id, progress in jobs.items():
            self._jobs.pop(job_id, None)
            self._jobs[job_id] = _Known(self._turn, now_s, progress)
        while self._jobs:
            oldest = next(iter(self._jobs))
            if now_s - self._jobs[oldest].seen_s < _KEEP_S:
                break
            del self._jobs[oldest]
