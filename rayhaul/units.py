"""Sizes and time spans, as people read them."""

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count_bytes: float | None) -> str:
    """Return a size for people.

    >>> size(532), size(1536), size(None)
    ('532 B', '1.5 KiB', '?')
    """
    if count_bytes is None:
        return "?"
    index = 0
    while count_bytes >= 1024 and index < len(_SIZES) - 1:
        count_bytes /= 1024
        index += 1
    return f"{count_bytes:.0f} B" if index == 0 else f"{count_bytes:.1f} {_SIZES[index]}"


def duration(seconds: float | None) -> str:
    """Return a time span for people.

    >>> duration(7.6), duration(61), duration(7205), duration(200_000), duration(None)
    ('8 s', '1:01', '2:00:05', '2 d 7 h', '')
    """
    if seconds is None:
        return ""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def percent(done_bytes: int, total_bytes: int | None) -> str:
    """Return how far it is, rounded down: 100% is the end and nothing else.

    >>> percent(999, 1000), percent(1000, 1000), percent(5, None)
    ('99%', '100%', '')
    """
    if not total_bytes:
        return ""
    return f"{min(100, 100 * done_bytes // total_bytes)}%"
