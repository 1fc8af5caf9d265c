"""How a job is spread: gaps are cut evenly, the longest way gives up its tail, what crawls is sent twice."""

from typing import Any

import pytest

from rayhaul.policy.partset import between, bytes_of, highest, lowest, missing, sorted_numbers, with_numbers
from rayhaul.policy.striping import Grant, Plan, Situation, Stripe, Trim, decide, pieces, unleased

MIB = 1024**2
PART = 16 * MIB


def situation(*stripes: Stripe, **changes: Any) -> Situation:
    facts: dict[str, Any] = {
        "parts_count": 32,
        "part_bytes": PART,
        "recorded": 0,
        "stripes": stripes,
        "connections": 8,
        "free": ("b", "c", "d"),
        "stripes_max": 8,
        "parts_min": 4,
    }
    return Situation(**facts | changes)


def stripe(first_part: int = 1, end_part: int = 33, **changes: Any) -> Stripe:
    facts: dict[str, Any] = {"lease_id": f"l{first_part}", "first_part": first_part, "end_part": end_part}
    return Stripe(**facts | changes)


def test_the_first_agent_leaves_as_much_to_each_helper_as_it_keeps() -> None:
    """One agent with 32 parts and three that have nothing to do: 8 each; those on their way are the first 8."""
    assert decide(situation(stripe(is_shared=False))) == Plan(trim=Trim("l1", 9))


def test_a_gap_is_cut_evenly_between_those_with_room() -> None:
    """What was given up goes to three agents, in three runs."""
    plan = decide(situation(stripe(1, 9)))
    assert plan.grants == [Grant("b", 9, 17), Grant("c", 17, 25), Grant("d", 25, 33)]


def test_a_small_gap_goes_to_one_agent() -> None:
    """Seven parts are no work for two."""
    assert decide(situation(stripe(1, 26))).grants == [Grant("b", 26, 33)]


def test_recorded_parts_are_leased_to_nobody() -> None:
    """A gap begins and ends with a part that is missing."""
    recorded = with_numbers(0, [9, 10, 12, 32])
    assert decide(situation(stripe(1, 9), recorded=recorded, free=("b",))).grants == [Grant("b", 11, 32)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"free": ()}, "nobody has room"),
        ({"stripes_max": 1}, "the origin would get too many connections"),
        ({"recorded": between(1, 23)}, "what is left is on its way"),
        ({"recorded": between(1, 22), "best_bytes_per_s": 40 * MIB}, "it is done in a moment"),
    ],
)
def test_a_job_that_is_left_alone(changes: dict[str, Any], why: str) -> None:
    """Nobody is asked where nothing is to be won."""
    quick = stripe(bytes_per_s=200 * MIB, held_s=20)
    assert decide(situation(quick, **changes)) == Plan(), why


def test_a_stripe_that_was_asked_is_not_asked_again() -> None:
    """The answer is on its way, or there was nothing to give."""
    assert decide(situation(stripe(is_asked=True))) == Plan()


def test_the_longest_way_is_shortened() -> None:
    """Of two stripes the slow one gives, and keeps what it can do while its helper does the rest."""
    slow = stripe(1, 17, bytes_per_s=1 * MIB, held_s=60)
    quick = stripe(17, 33, bytes_per_s=9 * MIB, held_s=60)
    plan = decide(situation(slow, quick, free=("c",), connections=1, best_bytes_per_s=9 * MIB))
    assert plan.trim == Trim("l1", 3)


def test_a_slow_stripe_gives_single_parts() -> None:
    """Fewer parts than are worth an agent otherwise."""
    slow = stripe(1, 11, bytes_per_s=1 * MIB, held_s=60)
    assert decide(situation(slow, parts_count=10)).trim == Trim("l1", 9)
    quick = stripe(1, 11, bytes_per_s=100 * MIB, held_s=60)
    assert decide(situation(quick, parts_count=10)) == Plan()


def test_what_crawls_near_the_end_is_sent_twice() -> None:
    """Only parts on their way are left; at its pace they would take ten times what others need."""
    crawling = stripe(30, 33, bytes_per_s=MIB / 2, held_s=60)
    done = between(1, 31)
    plan = decide(situation(crawling, recorded=done, best_bytes_per_s=20 * MIB))
    assert plan == Plan(grants=[Grant("b", 31, 33)])
    assert decide(situation(crawling, recorded=done, best_bytes_per_s=1 * MIB)) == Plan(), "others are no quicker"
    twice = (crawling, stripe(31, 33, lease_id="twin", held_s=1))
    assert decide(situation(*twice, recorded=done, best_bytes_per_s=20 * MIB)) == Plan(), "two are enough"


def test_who_may_complete_the_upload_is_asked_before_another_joins() -> None:
    """Until its agent knows that it is not alone, nobody else gets its parts."""
    alone = stripe(1, 4, held_s=60, is_shared=False)
    plan = decide(situation(alone, parts_count=3, best_bytes_per_s=20 * MIB))
    assert plan == Plan(trim=Trim("l1", 4))


def test_gaps_lie_between_stripes() -> None:
    """Each stretch that nobody has is one."""
    found = unleased(with_numbers(0, [5]), 10, [stripe(3, 5), stripe(7, 9), stripe(8, 9, lease_id="twin")])
    assert [sorted_numbers(parts) for parts in found] == [[1, 2], [6], [9, 10]]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_pieces_are_a_cut(count: int) -> None:
    """Nothing is lost and nothing is in two pieces, and their sizes differ by one at most."""
    parts = missing(with_numbers(0, [4, 17]), 1, 61)
    found = pieces(parts, count)
    assert [number for piece in found for number in sorted_numbers(piece)] == sorted_numbers(parts)
    assert max(piece.bit_count() for piece in found) - min(piece.bit_count() for piece in found) <= 1


def test_sets_of_parts() -> None:
    """A set of numbers in the bits of one."""
    parts = with_numbers(0, [3, 1, 10_000])
    assert (lowest(parts), highest(parts), parts.bit_count()) == (1, 10_000, 3)
    assert bytes_of(with_numbers(0, [1, 2, 3]), part_bytes=10, size_bytes=25) == 25
    assert bytes_of(with_numbers(0, [1, 2]), part_bytes=10, size_bytes=25) == 20
    assert bytes_of(with_numbers(0, [1, 2]), part_bytes=10, size_bytes=None) == 20
    assert between(5, 5) == 0
