"""What a soak holds in memory: all along, and in the calms, when nothing is under way."""

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median

import psutil

MIB = 1024 * 1024
#: Parts under way are tens of MiB that come and go with the jobs: what is kept shows when there are none.
CALM_EVERY_S = 150.0
#: Of mallopt(3): one arena, and buffers of parts mapped by themselves. By default the threads of dozens of agents have
#: arenas, and what is free in between stays there when they are gone: in production it goes with the agent's process.
_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN = -3, 256 * 1024
_M_ARENA_MAX, _ARENAS_MAX = -8, 1
#: What may still be said after the last job has ended.
_SETTLES_S = 2.0
#: What memory may grow by, of what it was.
GROWTH_MAX = 0.03
#: 16 MiB for the ledger's writer (rayhaul/ledger/connect.py), SQLite's own 2 MiB for each of the readers, statements.
SQLITE_MIB_MAX = 40.0


@dataclass(slots=True)
class Memory:
    """MiB of this process, one sample after the other."""

    #: Once the C library has given back what is free: what it keeps for threads that are gone is nobody's.
    rss_mib: list[float] = field(default_factory=list)
    #: Of it, what SQLite holds: caches of pages that fill up as the ledger grows, to a bound each has.
    sqlite_mib: list[float] = field(default_factory=list)

    def sample(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        self.rss_mib.append(round(psutil.Process().memory_info().rss / MIB, 1))
        self.sqlite_mib.append(round(_sqlite_told()() / MIB, 1))

    @property
    def rest_mib(self) -> list[float]:
        """All but SQLite's."""
        return [rss - sqlite for rss, sqlite in zip(self.rss_mib, self.sqlite_mib, strict=True)]

    @property
    def growth_mib(self) -> float:
        """Median of the last quarter over that of the second, SQLite's caches apart: the first one is warming up."""
        rest = self.rest_mib
        quarter = max(1, len(rest) // 4)
        return median(rest[-quarter:]) - median(rest[quarter : 2 * quarter] or rest)

    @property
    def is_flat(self) -> bool:
        return self.growth_mib <= GROWTH_MAX * median(self.rss_mib) and max(self.sqlite_mib) <= SQLITE_MIB_MAX


def give_back_what_is_free() -> None:
    """Have the C library keep little for later; to be called before there are threads."""
    libc = ctypes.CDLL(None)
    for name, value in ((_M_MMAP_THRESHOLD, _MAPPED_BYTES_MIN), (_M_ARENA_MAX, _ARENAS_MAX)):
        assert libc.mallopt(name, value) == 1, name


class Calms:
    """Moments at which every lane has ended its job and starts no other, and memory is looked at."""

    def __init__(self, lanes: int, ends_s: float, look: Callable[[], None]) -> None:
        """From now to `ends_s` (time.monotonic)."""
        count = int((ends_s - time.monotonic()) / CALM_EVERY_S)
        # None at the very end: a lane that is done would not come.
        self._at_s = [ends_s - number * CALM_EVERY_S for number in range(count, 0, -1)]
        self._lanes = asyncio.Barrier(lanes)
        self._look = look

    async def attend(self, attended: int) -> int:
        """Take part in those that are due, of which this lane has attended so many; return how many it has now."""
        while attended < len(self._at_s) and time.monotonic() >= self._at_s[attended]:
            if await self._lanes.wait() == 0:
                await asyncio.sleep(_SETTLES_S)
                self._look()
            await self._lanes.wait()
            attended += 1
        return attended


def quarters(samples: Sequence[float]) -> list[float]:
    quarter = max(1, len(samples) // 4)
    return [median(samples[at : at + quarter]) for at in range(0, min(len(samples), 4 * quarter), quarter)]


@cache
def _sqlite_told() -> Callable[[], int]:
    """Return what tells the bytes that SQLite holds in this process (sqlite3_memory_used)."""
    mapped = {each.path for each in psutil.Process().memory_maps() if "libsqlite3" in each.path}
    # Some builds of Python have it in the interpreter itself.
    told = ctypes.CDLL(next(iter(mapped), None)).sqlite3_memory_used
    told.restype = ctypes.c_longlong
    return told
