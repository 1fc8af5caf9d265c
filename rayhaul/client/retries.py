"""When to ask again, and for how long: pure, but for a clock that is handed in."""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

#: The first pause; it doubles with each failure. Short, for most failures are a connection that was just closed.
BACKOFF_S = 0.2

#: Longer pauses help nobody who waits for one answer.
BACKOFF_S_MAX = 5.0

#: A server that asks for more than this gets no retry: the caller must know.
RETRY_AFTER_S_MAX = 60.0


def backoff_s(failures: int, fraction: float) -> float:
    """Return the pause after this many failures in a row (from 1), spread over its upper half by `fraction` (0 to 1).

    >>> [backoff_s(failures, 1.0) for failures in (1, 2, 3, 9)]
    [0.2, 0.4, 0.8, 5.0]
    """
    # The exponent is bounded before the power is taken: a stream may fail for days.
    longest_s = min(BACKOFF_S_MAX, BACKOFF_S * 2.0 ** min(failures - 1, 10))
    return longest_s * (0.5 + fraction / 2)


def retry_after_s(value: str | None, now_s: float) -> float | None:
    """Return how many seconds a `Retry-After` asks for; None where it is missing or unreadable.

    Source: RFC 9110 10.2.3: seconds, or a date.

    >>> retry_after_s("3", 0.0), retry_after_s("Thu, 01 Jan 1970 00:01:00 GMT", 45.0), retry_after_s("soon", 0.0)
    (3.0, 15.0, None)
    """
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s)
    except ValueError:
        return None


class Patience:
    """Paces tries that fail or bring nothing, and gives up once failures have lasted for `limit_s`."""

    def __init__(
        self, limit_s: float, random: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_s = limit_s
        self._random = random
        self._clock = clock
        self._tries = 0
        self._failing_since_s: float | None = None

    def renew(self) -> None:
        """Something came: start from the shortest pause again."""
        self._tries = 0
        self.forgive()

    def forgive(self) -> None:
        """The other side is there, even if it had nothing to say."""
        self._failing_since_s = None

    def is_over(self) -> bool:
        """Note a failure; return whether failures have lasted too long."""
        now_s = self._clock()
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        return now_s - self._failing_since_s >= self._limit_s

    def pause_s(self) -> float:
        """Return the pause before the next try; they grow until something comes."""
        self._tries += 1
        return backoff_s(self._tries, self._random())
