"""The cell rate algorithm: never more than burst and rate, never less than the rate, whatever the clock does."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.policy.rate_limit import Rate, take

ROUNDING_S = 1e-5
RATES = st.builds(Rate, requests=st.integers(1, 500), window_s=st.floats(0.5, 3600))
GAPS_S = st.lists(st.floats(0, 50), min_size=1, max_size=200)


@given(RATES, GAPS_S)
def test_no_stretch_of_time_has_more_than_burst_and_rate(rate: Rate, gaps_s: list[float]) -> None:
    """Between any two allowed requests there are at most `requests + t * rate` of them, both counted."""
    now_s, full_at_s, allowed_at_s = 1000.0, None, []
    for gap_s in gaps_s:
        now_s += gap_s * rate.interval_s
        verdict = take(rate, full_at_s, now_s)
        full_at_s = verdict.full_at_s
        if verdict.allowed:
            allowed_at_s.append(now_s)
    for first, began_s in enumerate(allowed_at_s):
        for last, ended_s in enumerate(allowed_at_s[first:], start=1):
            assert last <= rate.requests + (ended_s - began_s) / rate.interval_s + 0.01


@given(RATES, st.integers(1, 20))
def test_who_waits_as_told_is_served(rate: Rate, more: int) -> None:
    """After the burst, each request is allowed after exactly the wait that was told, and not a moment earlier."""
    now_s, full_at_s = 0.0, None
    for number in range(rate.requests):
        verdict = take(rate, full_at_s, now_s)
        assert (verdict.allowed, verdict.remaining) == (True, rate.requests - number - 1)
        full_at_s = verdict.full_at_s
    for _ in range(more):
        refused = take(rate, full_at_s, now_s)
        assert (refused.allowed, refused.remaining) == (False, 0)
        assert refused.full_at_s == pytest.approx(full_at_s)
        assert refused.retry_after_s == pytest.approx(rate.interval_s)
        assert not take(rate, refused.full_at_s, now_s + 0.9 * refused.retry_after_s).allowed
        now_s += refused.retry_after_s
        served = take(rate, refused.full_at_s, now_s)
        assert served.allowed
        full_at_s = served.full_at_s


@given(RATES, st.floats(1, 1e9))
def test_a_clock_that_is_set_back_refuses_for_a_window_at_most(rate: Rate, back_s: float) -> None:
    """However far the clock steps back, a window later the key is served, and what is told says so."""
    now_s = 1e10
    full_at_s = take(rate, None, now_s).full_at_s
    verdict = take(rate, full_at_s, now_s - back_s)
    # Floating point: at this time of day a microsecond is all there is between two numbers.
    assert verdict.retry_after_s <= rate.window_s + ROUNDING_S
    assert verdict.reset_s <= rate.window_s + rate.interval_s + ROUNDING_S
    later = take(rate, verdict.full_at_s, now_s - back_s + rate.window_s + rate.interval_s + ROUNDING_S)
    assert later.allowed


def test_a_quiet_key_has_its_burst_again() -> None:
    """After a window without requests all are left but the one that asks."""
    rate = Rate(requests=10, window_s=60)
    full_at_s = None
    for _ in range(10):
        full_at_s = take(rate, full_at_s, 0.0).full_at_s
    verdict = take(rate, full_at_s, 60.0)
    assert (verdict.remaining, verdict.reset_s) == (9, 6.0)
    assert math.isclose(verdict.full_at_s, 66.0)
