"""Loads to replay: jobs arriving over time, drawn from a seed."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

MIB = 1024**2

#: Sizes of files: log-normal, most of them small, a few large, none absurd.
_SIZE_BYTES_MEDIAN = 64 * MIB
_SIZE_SIGMA = 1.0
_SIZE_BYTES_MIN = MIB
_SIZE_BYTES_MAX = 2048 * MIB
#: Mean of those sizes; the clipping moves it by less than one in a hundred.
_SIZE_BYTES_MEAN = _SIZE_BYTES_MEDIAN * math.exp(_SIZE_SIGMA**2 / 2)

#: What one connection to an origin gives; a lease fills one slot at this rate.
SLOT_BYTES_PER_S = 4 * MIB

_MINUTE_S, _HOUR_S = 60.0, 3600.0


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    name: str
    #: One line for the picture.
    title: str
    duration_s: float
    agents_first: int
    #: By time. The last ones leave room for the queue to empty before the end.
    arrivals: tuple[Arrival, ...]


def traces(seed: int) -> tuple[Trace, ...]:
    """Return the four loads; the same seed gives the same jobs."""
    return (steady(seed), burst(seed), daily(seed), flapping(seed))


def steady(seed: int) -> Trace:
    return _trace("steady", "a steady load of 20 slots", seed, lambda _: 20, duration_s=3 * _HOUR_S, agents_first=1)


def burst(seed: int) -> Trace:
    def slots(at_s: float) -> float:
        return 48 if 30 * _MINUTE_S <= at_s < 50 * _MINUTE_S else 5

    title = "5 slots, 48 for twenty minutes, 5 again"
    return _trace("burst", title, seed, slots, duration_s=3 * _HOUR_S, agents_first=1)


def daily(seed: int) -> Trace:
    def slots(at_s: float) -> float:
        return 28 - 24 * math.cos(2 * math.pi * at_s / (24 * _HOUR_S))

    title = "a day: 4 slots at night, 52 at noon"
    return _trace("daily", title, seed, slots, duration_s=24 * _HOUR_S, agents_first=1)


def flapping(seed: int) -> Trace:
    def slots(at_s: float) -> float:
        return 30 if at_s // (4 * _MINUTE_S) % 2 == 0 else 8

    title = "four minutes of 30 slots, four of 8, and again"
    return _trace("flapping", title, seed, slots, duration_s=3 * _HOUR_S, agents_first=3)


def _trace(
    name: str, title: str, seed: int, slots: Callable[[float], float], *, duration_s: float, agents_first: int
) -> Trace:
    """Draw Poisson arrivals whose rate keeps `slots(at_s)` slots busy (Lewis and Shedler's thinning)."""
    rng = random.Random(f"{name}/{seed}")
    last_s = duration_s - 20 * _MINUTE_S
    busiest = max(slots(at_s) for at_s in range(0, int(duration_s), 10))
    service_s = _SIZE_BYTES_MEAN / SLOT_BYTES_PER_S
    arrivals, at_s = list[Arrival](), 0.0
    while (at_s := at_s + rng.expovariate(busiest / service_s)) < last_s:
        size = rng.lognormvariate(math.log(_SIZE_BYTES_MEDIAN), _SIZE_SIGMA)
        if rng.random() * busiest < slots(at_s):
            arrivals.append(Arrival(at_s, int(min(max(size, _SIZE_BYTES_MIN), _SIZE_BYTES_MAX))))
    return Trace(name=name, title=title, duration_s=duration_s, agents_first=agents_first, arrivals=tuple(arrivals))
