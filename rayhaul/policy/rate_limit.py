"""How often a key may ask: the generic cell rate algorithm (GCRA, ITU-T I.371), with one number kept a key.

Laws of this file:
1. In any stretch of `t` seconds at most `requests + t * requests / window_s` are allowed; a quiet key has its whole
   burst again after `window_s`.
2. A refused request costs nothing: who waits as long as `retry_after_s` says is served.
3. Times are seconds of one clock and parameters; a clock that steps back refuses nobody longer than a window.
"""

import math
from dataclasses import dataclass

#: Sums of intervals are off by rounding: without it the last of a burst would be refused now and then.
_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many requests a window, all at once if need be."""

    requests: int
    window_s: float

    @property
    def interval_s(self) -> float:
        return self.window_s / self.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    allowed: bool
    #: When the key will have its whole burst again; to be given to the next `take`.
    full_at_s: float
    #: Requests left now.
    remaining: int
    #: Until the whole burst is there again.
    reset_s: float
    #: Until the next request is allowed; 0 where one is now.
    retry_after_s: float


def take(rate: Rate, full_at_s: float | None, now_s: float) -> Verdict:
    """Return whether a request is allowed now; `full_at_s` is the last verdict's, None for a key never seen.

    >>> twice = Rate(requests=2, window_s=60)
    >>> first = take(twice, None, 0.0)
    >>> second = take(twice, first.full_at_s, 0.0)
    >>> third = take(twice, second.full_at_s, 0.0)
    >>> [first.remaining, second.remaining, third.allowed, third.retry_after_s]
    [1, 0, False, 30.0]
    """
    before_s = now_s if full_at_s is None else min(max(full_at_s, now_s), now_s + rate.window_s)
    after_s = before_s + rate.interval_s
    over_s = after_s - now_s - rate.window_s
    if over_s > _ROUNDING_S:
        return _verdict(rate, before_s, now_s, allowed=False, retry_after_s=over_s)
    return _verdict(rate, after_s, now_s, allowed=True, retry_after_s=0.0)


def _verdict(rate: Rate, full_at_s: float, now_s: float, *, allowed: bool, retry_after_s: float) -> Verdict:
    reset_s = full_at_s - now_s
    remaining = math.floor((rate.window_s - reset_s + _ROUNDING_S) / rate.interval_s)
    return Verdict(
        allowed=allowed, full_at_s=full_at_s, remaining=remaining, reset_s=reset_s, retry_after_s=retry_after_s
    )
