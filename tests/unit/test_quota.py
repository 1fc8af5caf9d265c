"""A user's day of bytes: what is left of it, and when the next one begins."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.errors import QuotaExceeded
from rayhaul.policy.quota import Usage, charged, check, used

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@given(st.lists(st.integers(0, 10**15), max_size=20), st.integers(1, 10**16))
def test_no_more_is_admitted_than_the_day_has(sizes: list[int], bytes_per_day_max: int) -> None:
    """However bytes are asked for, those that are admitted are at most the limit; what would fit is not refused."""
    usage = None
    for size_bytes in sizes:
        before = used(usage, NOON)
        try:
            check(usage, size_bytes, NOON, bytes_per_day_max=bytes_per_day_max)
        except QuotaExceeded:
            assert before + size_bytes > bytes_per_day_max
        else:
            usage = charged(usage, size_bytes, NOON)
            assert used(usage, NOON) == before + size_bytes <= bytes_per_day_max


def test_a_day_is_one_of_utc() -> None:
    """At midnight in UTC nothing is used yet, whatever the clock on the wall says."""
    usage = charged(None, 10, NOON)
    assert usage == Usage(day=date(2026, 3, 1), bytes_used=10)
    tokyo = timezone(timedelta(hours=9))
    assert used(usage, datetime(2026, 3, 2, 8, 59, tzinfo=tokyo)) == 10
    assert used(usage, datetime(2026, 3, 2, 9, 0, tzinfo=tokyo)) == 0
    assert charged(usage, 3, NOON + timedelta(days=1)) == Usage(day=date(2026, 3, 2), bytes_used=3)


def test_without_a_limit_nothing_is_refused() -> None:
    """None is no limit; what is used is counted all the same."""
    usage = charged(None, 1 << 62, NOON)
    check(usage, 1 << 62, NOON, bytes_per_day_max=None)
    with pytest.raises(QuotaExceeded) as refused:
        check(usage, 1, NOON, bytes_per_day_max=1 << 62)
    assert refused.value.retry_after_s == 12 * 3600
