"""Whether and when to try again: exponential backoff with equal jitter, and the other side's Retry-After."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from rayhaul.errors import Failure
from rayhaul.settings import TransferSettings

#: A source that asks for more than this is asked again anyway: an hour keeps a job from sleeping for days.
RETRY_AFTER_S_MAX = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    at: datetime


@dataclass(frozen=True, slots=True)
class GiveUp:
    pass


def backoff_s(attempt: int, *, base_s: float, factor: float, cap_s: float, rng: random.Random) -> float:
    """Return a wait of d/2 to d, where d is `base_s * factor**attempt`, at most `cap_s`; the first attempt is 0.

    Half of the wait is certain, so that five tries outlast an outage of some forty seconds, and half is random, so
    that the tries of many do not meet.
    """
    assert attempt >= 0, attempt
    try:
        longest_s = min(cap_s, base_s * factor**attempt)
    except OverflowError:
        longest_s = cap_s
    return longest_s / 2 + rng.uniform(0, longest_s / 2)


def wait_s(failure: Failure, *, attempt: int, settings: TransferSettings, rng: random.Random) -> float:
    """Return the wait after the `attempt`-th try (from 1) failed: the backoff, or longer where we were asked to."""
    backoff = backoff_s(
        attempt - 1,
        base_s=settings.retry_base_s,
        factor=settings.retry_factor,
        cap_s=settings.retry_cap_s,
        rng=rng,
    )
    return max(backoff, min(failure.retry_after_s or 0.0, RETRY_AFTER_S_MAX))


def decide(
    failure: Failure, *, attempt: int, settings: TransferSettings, now: datetime, rng: random.Random
) -> Again | GiveUp:
    """Say what follows when a job's `attempt`-th run (from 1) failed."""
    if not failure.retryable or attempt >= settings.attempts_max:
        return GiveUp()
    return Again(at=now + timedelta(seconds=wait_s(failure, attempt=attempt, settings=settings, rng=rng)))
