"""Whether and when to try again: exponential backoff with equal jitter, and the other side's Retry-After."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from rayhaul.errors import Failure
from rayhaul.settings import TransferSettings

#: A source that asks for more than this is asked again anyway: an hour keeps a job from sleeping for days.
RETRY_AFTER_S_MAX = 3600.0
#: Longest wait of who holds a slot meanwhile; for a longer one the job waits in the queue.
HELD_WAIT_S_MAX = 60.0


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


class RetryBudget:
    """How many second tries one endpoint is asked to bear, from all that one process does with it.

    A token bucket: a retry takes a token, and where there is none it waits its turn. Time brings `refill_per_s` tokens,
    and each success a tenth of one, so a healthy endpoint hardly ever makes anybody wait, and one that is down sees a
    steady trickle in place of every transfer's five tries at once. Nothing is given up for want of a token.
    Source: AWS Builders' Library, "Timeouts, retries and backoff with jitter" (there, retries are dropped).
    """

    #: Of a retry, for each success: at most so many more requests than without retries.
    SHARE = 0.1

    def __init__(self, *, tokens_max: float, refill_per_s: float) -> None:
        assert tokens_max >= 1 and refill_per_s > 0, (tokens_max, refill_per_s)  # noqa: PT018 - one range
        self._tokens_max = tokens_max
        self._refill_per_s = refill_per_s
        self._tokens = tokens_max
        self._seen_at_s: float | None = None

    def succeeded(self) -> None:
        self._tokens = min(self._tokens_max, self._tokens + self.SHARE)

    def take(self, now_s: float) -> float:
        """Take a token for one retry; return how long it has to wait for its turn, in seconds."""
        if self._seen_at_s is not None:
            brought = max(0.0, now_s - self._seen_at_s) * self._refill_per_s
            self._tokens = min(self._tokens_max, self._tokens + brought)
        self._seen_at_s = now_s
        self._tokens -= 1
        return max(0.0, -self._tokens / self._refill_per_s)


def decide(
    failure: Failure, *, attempt: int, settings: TransferSettings, now: datetime, rng: random.Random
) -> Again | GiveUp:
    """Say what follows when a job's `attempt`-th run (from 1) failed."""
    if not failure.retryable or attempt >= settings.attempts_max:
        return GiveUp()
    return Again(at=now + timedelta(seconds=wait_s(failure, attempt=attempt, settings=settings, rng=rng)))
