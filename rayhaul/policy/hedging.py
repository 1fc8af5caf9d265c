"""Which part on its way is asked for a second time, by a connection that has nothing left to do.

Laws of this file:
1. Only one that would take much longer than a fresh request for all of it: a second request that loses is bytes read
   for nothing.
2. What counts is the time spent waiting for the source: a slow store, or our own pace, is not mended by more reading.
3. Pure: the same ways give the same choice.

Source: J. Dean, L. A. Barroso, "The Tail at Scale", CACM 56 (2013), "hedged requests".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

#: So long is waited for bytes before their rate says anything.
_AFTER_S = 3.0
#: Less than this is not worth a request.
_WORTH_S = 1.0
#: A part is slow when its rest would take this many times what a fresh request takes for the whole.
_FACTOR = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A part on its way from its source."""

    size_bytes: int
    bytes_done: int
    #: Of the time since its request was answered, what was spent waiting for bytes.
    waited_s: float

    @property
    def left_s(self) -> float:
        """How long the rest would take at this rate."""
        if self.bytes_done == 0:
            return inf
        return (self.size_bytes - self.bytes_done) * self.waited_s / self.bytes_done


def slowest(ways: Mapping[int, Way], rates_bytes_per_s: Sequence[float]) -> int | None:
    """Return the part to ask for a second time; None where none is slow. `rates`: of parts that came whole, one each.

    >>> slowest({7: Way(size_bytes=100, bytes_done=4, waited_s=4.0)}, [50.0, 60.0])
    7
    >>> slowest({7: Way(size_bytes=100, bytes_done=60, waited_s=4.0)}, [50.0, 60.0])
    >>> slowest({7: Way(size_bytes=100, bytes_done=4, waited_s=4.0)}, [])
    """
    if not rates_bytes_per_s:
        return None
    usual = median(rates_bytes_per_s)
    slow = [number for number, way in ways.items() if _is_slow(way, usual)]
    return max(slow, key=lambda number: (ways[number].left_s, -number), default=None)


def _is_slow(way: Way, usual_bytes_per_s: float) -> bool:
    fresh_s = way.size_bytes / usual_bytes_per_s
    return way.waited_s >= _AFTER_S and way.left_s > max(_WORTH_S, _FACTOR * fresh_s)
