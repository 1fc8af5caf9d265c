"""Waits grow, are bounded, jitter within half, and honour Retry-After."""

import random
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.errors import Failure, Fault
from rayhaul.policy.retry import RETRY_AFTER_S_MAX, Again, GiveUp, RetryBudget, backoff_s, decide, wait_s
from rayhaul.settings import TransferSettings

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SETTINGS = TransferSettings()


def failure(*, retryable: bool = True, retry_after_s: float | None = None) -> Failure:
    return Failure(code="source_busy", message="", fault=Fault.SOURCE, retryable=retryable, retry_after_s=retry_after_s)


@given(
    attempt=st.integers(0, 10_000),
    base_s=st.floats(0.001, 100),
    factor=st.floats(1.01, 100),
    cap_s=st.floats(0.001, 10_000),
    seed=st.integers(0, 1000),
)
def test_backoff_has_equal_jitter_under_a_cap(
    attempt: int, base_s: float, factor: float, cap_s: float, seed: int
) -> None:
    """The wait lies between half of d and d; d grows by the factor until the cap."""
    wait = backoff_s(attempt, base_s=base_s, factor=factor, cap_s=cap_s, rng=random.Random(seed))
    longest = min(cap_s, base_s) if attempt == 0 else cap_s
    assert wait <= longest
    assert wait >= min(cap_s, base_s) / 2
    again = backoff_s(attempt, base_s=base_s, factor=factor, cap_s=cap_s, rng=random.Random(seed))
    assert again == wait, "the randomness is the caller's"


@pytest.mark.parametrize(("attempt", "longest"), [(0, 1), (1, 4), (2, 16), (3, 60), (4, 60)])
def test_backoff_steps(attempt: int, longest: float) -> None:
    """The default steps are 1, 4, 16, 60 s: four waits last at least 40.5 s together."""
    rng = random.Random(attempt)
    waits = [backoff_s(attempt, base_s=1, factor=4, cap_s=60, rng=rng) for _ in range(500)]
    assert longest / 2 <= min(waits) < longest * 0.52
    assert longest * 0.98 < max(waits) <= longest


@given(attempt=st.integers(1, 4), asked=st.none() | st.floats(0, 100_000), seed=st.integers(0, 1000))
def test_retry_after_lengthens_but_never_shortens(attempt: int, asked: float | None, seed: int) -> None:
    """The wait is never under the backoff, never under what was asked for up to an hour, and one of the two."""
    told = wait_s(failure(retry_after_s=asked), attempt=attempt, settings=SETTINGS, rng=random.Random(seed))
    alone = wait_s(failure(), attempt=attempt, settings=SETTINGS, rng=random.Random(seed))
    assert told == max(alone, min(asked or 0, RETRY_AFTER_S_MAX))


@given(attempt=st.integers(1, 20), retryable=st.booleans(), seed=st.integers(0, 1000))
def test_decide_gives_up_after_the_last_attempt(attempt: int, retryable: bool, seed: int) -> None:  # noqa: FBT001 - given
    """A failure that can be retried is retried `attempts_max` times in all; another one never."""
    verdict = decide(failure(retryable=retryable), attempt=attempt, settings=SETTINGS, now=NOW, rng=random.Random(seed))
    if retryable and attempt < SETTINGS.attempts_max:
        assert isinstance(verdict, Again)
        assert 0.5 <= (verdict.at - NOW).total_seconds() <= SETTINGS.retry_cap_s
    else:
        assert verdict == GiveUp()


def test_a_healthy_endpoint_never_waits() -> None:
    """A failure in ten, for ever: each success brings a tenth of a retry."""
    budget = RetryBudget(tokens_max=10, refill_per_s=0.001)
    for turn in range(1000):
        for _ in range(10):
            budget.succeeded()
        assert budget.take(float(turn)) == 0


@given(gaps=st.lists(st.floats(0, 3), min_size=30, max_size=60))
def test_an_endpoint_that_is_down_sees_a_trickle(gaps: list[float]) -> None:
    """Whenever retries are asked for, in no span of time start more of them than the burst and what it brought."""
    budget, now_s, starts = RetryBudget(tokens_max=8, refill_per_s=2), 0.0, []
    for gap in gaps:
        now_s += gap / 10
        starts.append(now_s + budget.take(now_s))
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(starts)), "turns are kept"
    for begin in range(0, len(starts), 5):
        for end in range(begin, len(starts), 5):
            assert end - begin + 1 <= 8 + 2 * (starts[end] - starts[begin]) + 1.001


def test_a_budget_fills_up_to_its_burst_alone() -> None:
    """After a long silence there are as many tokens as at first, and a clock that steps back brings none."""
    budget = RetryBudget(tokens_max=2, refill_per_s=1)
    for at_s, waited_s in ((0.0, 0.0), (0.0, 0.0), (0.0, 1.0), (100.0, 0.0), (100.0, 0.0), (100.0, 1.0), (0.0, 2.0)):
        assert budget.take(at_s) == waited_s
