"""How many bytes may pass in a second: of one job, from one host, through one agent.

Laws of this file:
1. A pace may change at any time, down to nothing; who waits goes by the new one at once.
2. Who came first is served first, and a lease stands in line with one piece at a time: many connections bring it no
   more of a shared pace than one.
3. A pace is a bound on what is read. What waits for it is in the socket, where it slows the source down.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from rayhaul.rates import RateGrant, RateUse, is_of_host

#: Burst of a paced flow, and the longest silence between two of its pieces, unless they are of the smallest size.
_STEP_S = 0.25
_PIECE_BYTES_MIN = 4 * 1024
#: Weight of the newest second in the bytes/s that are shown.
_RATE_WEIGHT = 0.3


@dataclass(slots=True)
class Rate:
    """Bytes per second, smoothed over some seconds."""

    bytes_total: int = 0
    per_s: float = 0.0
    _seen_bytes: int = 0
    _seen_at_s: float | None = None

    def measure(self, now_s: float) -> float:
        """Return the rate, given the time (monotonic seconds) of this look."""
        if self._seen_at_s is not None and now_s > self._seen_at_s:
            newest = max(0, self.bytes_total - self._seen_bytes) / (now_s - self._seen_at_s)
            self.per_s = newest if self.per_s == 0 else self.per_s + _RATE_WEIGHT * (newest - self.per_s)
        self._seen_bytes, self._seen_at_s = self.bytes_total, now_s
        return self.per_s


class Pace:
    """A token bucket, shared by all that read under one limit in this process."""

    def __init__(self, bytes_per_s: int) -> None:
        assert bytes_per_s >= 0, bytes_per_s
        self.bytes_per_s = bytes_per_s
        self.rate = Rate()
        #: Leases that read under it.
        self.lines_count = 0
        #: Bytes that could have passed up to some moment, at the paces there were; that is its clock.
        self._passed_bytes = 0.0
        self._passed_at_s: float | None = None
        #: When, on that clock, the last piece in line may pass.
        self._due_bytes = 0.0
        self._changed = asyncio.Event()

    def set(self, bytes_per_s: int) -> None:
        """Go by another pace from now on."""
        if bytes_per_s == self.bytes_per_s:
            return
        if self._passed_at_s is not None:
            self._passed()
        self.bytes_per_s = bytes_per_s
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def piece_bytes_max(self) -> int:
        """Larger pieces are to be cut: one of them would be a long silence for the others in line."""
        return max(_PIECE_BYTES_MIN, int(self.bytes_per_s * _STEP_S) // max(1, self.lines_count))

    async def take(self, bytes_count: int) -> None:
        """Wait until so many bytes may pass."""
        burst_bytes = self.bytes_per_s * _STEP_S
        self._due_bytes = due_bytes = max(self._due_bytes, self._passed() - burst_bytes) + bytes_count
        try:
            while (short_bytes := due_bytes - self._passed()) > 0:
                await self._wait(short_bytes)
        except asyncio.CancelledError:
            self._due_bytes -= bytes_count
            raise
        self.rate.bytes_total += bytes_count

    async def _wait(self, short_bytes: float) -> None:
        # At no pace at all, until there is one.
        wait_s = short_bytes / self.bytes_per_s if self.bytes_per_s > 0 else None
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._changed.wait()

    def _passed(self) -> float:
        now_s = asyncio.get_running_loop().time()
        if self._passed_at_s is not None:
            self._passed_bytes += self.bytes_per_s * (now_s - self._passed_at_s)
        self._passed_at_s = now_s
        return self._passed_bytes


class Line:
    """Where one lease waits for its pieces to pass, at all the paces that hold for it."""

    def __init__(self, paces: Mapping[str, Pace]) -> None:
        """`paces` by what they limit, as in RateGrant."""
        self._turns = {limit: (pace, asyncio.Lock()) for limit, pace in paces.items()}

    def __enter__(self) -> Self:
        for pace, _ in self._turns.values():
            pace.lines_count += 1
        return self

    def __exit__(self, *_error: object) -> None:
        for pace, _ in self._turns.values():
            pace.lines_count -= 1

    def towards(self, host: str) -> "Line":
        """Return the same line as far as it holds for bytes from one host."""
        found = Line({})
        found._turns = {limit: turn for limit, turn in self._turns.items() if is_of_host(limit, host)}
        return found

    @property
    def paces(self) -> Collection[Pace]:
        return [pace for pace, _ in self._turns.values()]

    @property
    def piece_bytes_max(self) -> int | None:
        """None: pieces may have any size."""
        return min((pace.piece_bytes_max for pace in self.paces), default=None)

    async def pass_on(self, bytes_count: int) -> None:
        """Return when a piece may pass."""
        for pace, turn in self._turns.values():
            async with turn:
                await pace.take(bytes_count)


def bytes_per_s_of(lines: Collection[Line]) -> int | None:
    """Return how many bytes per second may pass in some lines together; None: any number, in one of them at least."""
    paces = [{id(pace): pace.bytes_per_s for pace in line.paces} for line in set(lines)]
    if not paces or not all(paces):
        return None
    # What holds for each of them holds for all of them together.
    shared = set(paces[0]).intersection(*paces[1:])
    return min([sum(min(each.values()) for each in paces), *(paces[0][pace] for pace in shared)])


class Paces:
    """The paces of one process, by limit, and its own."""

    def __init__(self, own_bytes_per_s: int | None = None) -> None:
        self._own = None if own_bytes_per_s is None else Pace(own_bytes_per_s)
        self._paces: dict[str, Pace] = {}
        self._versions: dict[str, int] = {}

    def of(self, grants: Iterable[RateGrant]) -> Mapping[str, Pace]:
        """Return what a lease with these grants goes by, the process's own pace included."""
        found = {}
        for grant in grants:
            self._paces.setdefault(grant.limit, Pace(grant.bytes_per_s))
            self._take(grant)
            found[grant.limit] = self._paces[grant.limit]
        return found if self._own is None else {**found, "agent": self._own}

    def take(self, grants: Iterable[RateGrant]) -> None:
        """Go by what the scheduler grants. Of a limit that nothing is read under here any more, nothing is needed."""
        for grant in grants:
            if grant.limit in self._paces:
                self._take(grant)

    def _take(self, grant: RateGrant) -> None:
        if grant.version >= self._versions.get(grant.limit, 0):
            self._versions[grant.limit] = grant.version
            self._paces[grant.limit].set(grant.bytes_per_s)

    def uses(self, needed: Collection[str], now_s: float) -> tuple[RateUse, ...]:
        """Return what there is to tell, and forget the limits that are not `needed` any more."""
        for limit in self._paces.keys() - set(needed):
            del self._paces[limit], self._versions[limit]
        return tuple(
            RateUse(
                limit=limit,
                bytes_per_s=pace.rate.measure(now_s),
                granted=pace.bytes_per_s,
                version=self._versions[limit],
            )
            for limit, pace in self._paces.items()
        )
