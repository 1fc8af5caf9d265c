"""Which part is asked for a second time: none too early, none that will soon be here, the slowest first."""

import pytest

from rayhaul.policy.hedging import Way, slowest

PART = 8_000_000
#: A whole part takes a second.
USUAL = [8e6, 7e6, 30e6]


def way(bytes_done: int, waited_s: float) -> Way:
    return Way(size_bytes=PART, bytes_done=bytes_done, waited_s=waited_s)


@pytest.mark.parametrize(
    ("one", "is_hedged"),
    [
        (way(100_000, 5.0), True),
        (way(0, 5.0), True),
        # Not long enough under way to tell.
        (way(1, 2.9), False),
        # Slow so far, but what is left is not worth a request.
        (way(7_900_000, 20.0), False),
        # At 2 MB/s the rest takes less than three fresh requests would.
        (way(6_000_000, 3.0), False),
        # The store or our own pace holds it up: its source was never waited for.
        (way(100_000, 0.0), False),
    ],
)
def test_one_part_on_its_way(one: Way, *, is_hedged: bool) -> None:
    assert slowest({3: one}, USUAL) == (3 if is_hedged else None)


def test_nothing_came_whole_yet() -> None:
    """What a fresh request takes is not known."""
    assert slowest({3: way(0, 100.0)}, []) is None


def test_one_lucky_part_is_not_the_measure() -> None:
    """The median of what came counts, not the best."""
    assert slowest({3: way(4_000_000, 4.0)}, [1e6, 1.1e6, 1e9]) is None


def test_the_slowest_is_first() -> None:
    ways = {3: way(400_000, 5.0), 4: way(100_000, 5.0), 5: way(100_000, 5.0), 6: way(7_000_000, 5.0)}
    assert slowest(ways, USUAL) == 4
