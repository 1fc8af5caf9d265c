"""Whether a condition has held for a whole window: the `for` of an alert, evaluated sample by sample.

Laws of this file:
1. Nothing is assumed between samples: after a silence of more than `gap_s_max` the window begins anew, and a window
   whose last sample is older than that does not fire.
2. Times are seconds of one clock and parameters; a clock that steps back begins the window anew.
"""

import math
from dataclasses import dataclass, replace

from rayhaul.policy.alert_rules import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    condition: Comparison
    #: How long the condition must have held, from the first sample to the last.
    window_s: float
    #: The longest time between two samples.
    gap_s_max: float
    #: The first sample from which on the condition held at each; None where it did not hold at the last.
    since_s: float | None = None
    #: When the last sample was taken; None before the first.
    sampled_at_s: float | None = None


def observe(window: Window, value: float | None, now_s: float) -> Window:
    """Return the window after a sample; None and NaN are samples of which the condition is not true."""
    if not window.condition.holds(value):
        return replace(window, since_s=None, sampled_at_s=now_s)
    if window.since_s is None or not is_fresh(window, now_s):
        return replace(window, since_s=now_s, sampled_at_s=now_s)
    return replace(window, sampled_at_s=now_s)


def is_firing(window: Window, now_s: float) -> bool:
    """Say whether the condition held at every sample of the whole window, the last of them fresh."""
    return window.since_s is not None and is_fresh(window, now_s) and held_s(window) >= window.window_s


def held_s(window: Window) -> float:
    """Return for how long samples have shown the condition to hold."""
    if window.since_s is None or window.sampled_at_s is None:
        return 0.0
    return window.sampled_at_s - window.since_s


def is_fresh(window: Window, now_s: float) -> bool:
    return window.sampled_at_s is not None and 0 <= now_s - window.sampled_at_s <= window.gap_s_max


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothed:
    """A reading with its short jumps taken out: an exponential moving average."""

    #: None while nothing is known.
    value: float | None = None
    sampled_at_s: float = 0.0


def smooth(before: Smoothed, value: float | None, now_s: float, *, smoothing_s: float) -> Smoothed:
    """Return the average after a sample; what lies `smoothing_s` back weighs 1/e. At 0 the last sample stands alone.

    A sample that is not known ends the average: the next one begins a new one.
    """
    elapsed_s = now_s - before.sampled_at_s
    if value is None or math.isnan(value):
        return Smoothed(value=None, sampled_at_s=now_s)
    if before.value is None or smoothing_s <= 0 or elapsed_s < 0:
        return Smoothed(value=value, sampled_at_s=now_s)
    weight = math.exp(-elapsed_s / smoothing_s)
    return Smoothed(value=weight * before.value + (1 - weight) * value, sampled_at_s=now_s)
