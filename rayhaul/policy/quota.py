"""How many bytes a user may have moved in a day, and what has been used of it.

Laws of this file:
1. A day is one of UTC. Where another one has begun, nothing of it is used yet.
2. Bytes count when they are promised: the size that a source announces before any of it moves, the bytes that came
   where it announces none. They are not given back: what was fetched in vain was fetched.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from rayhaul.errors import QuotaExceeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a user has used of a day."""

    day: date
    bytes_used: int


def used(usage: Usage | None, now: datetime) -> int:
    """Return the bytes used of today."""
    return usage.bytes_used if usage is not None and usage.day == _day(now) else 0


def charged(usage: Usage | None, size_bytes: int, now: datetime) -> Usage:
    """Return the usage with these bytes more."""
    return Usage(day=_day(now), bytes_used=used(usage, now) + size_bytes)


def check(usage: Usage | None, size_bytes: int, now: datetime, *, bytes_per_day_max: int | None) -> None:
    """Raises: QuotaExceeded where so many bytes more are too many today; it says when the next day begins."""
    if bytes_per_day_max is None:
        return
    left = bytes_per_day_max - used(usage, now)
    if size_bytes > left:
        raise QuotaExceeded(
            f"{size_bytes} bytes more are too many today: {max(0, left)} of {bytes_per_day_max} are left; "
            "the next day begins at 00:00 UTC",
            retry_after_s=(_next_day(now) - now).total_seconds(),
        )


def _day(now: datetime) -> date:
    return now.astimezone(UTC).date()


def _next_day(now: datetime) -> datetime:
    return datetime.combine(_day(now) + timedelta(days=1), time(), UTC)
