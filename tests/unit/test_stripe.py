"""The parts of a lease: taken in order, given up from the end."""

from tasks.stripe import Stripe


def filled(first_part: int = 1, end_part: int = 9) -> Stripe:
    stripe = Stripe(first_part, end_part)
    assert stripe.fill(range(1, 100)) == end_part - first_part
    return stripe


def test_parts_are_taken_in_order() -> None:
    """Up to the stripe's end, and no others."""
    stripe = filled(3, 6)
    assert [stripe.take() for _ in range(4)] == [3, 4, 5, None]


def test_the_tail_goes_to_others() -> None:
    """What was not taken is given up; what is asked for is not more than what is there."""
    stripe = filled()
    stripe.take()
    stripe.trim(4)
    assert (stripe.end_part, stripe.is_shared) == (4, True)
    stripe.trim(7)
    assert stripe.end_part == 4, "a late request does not make it longer"
    assert [stripe.take() for _ in range(3)] == [2, 3, None]


def test_what_was_taken_stays() -> None:
    """Parts on their way are not given up."""
    stripe = filled()
    for _ in range(5):
        stripe.take()
    stripe.trim(3)
    assert stripe.end_part == 6
    assert stripe.take() is None


def test_only_the_whole_file_completes_the_upload() -> None:
    """Not a stripe, and not a lease that others may have joined."""
    assert Stripe(1, 9).is_whole(8)
    assert not Stripe(2, 9).is_whole(8)
    assert not Stripe(1, 8).is_whole(8)
    asked = Stripe(1, 9)
    asked.trim(9)
    assert not asked.is_whole(8)


def test_a_fixed_one_gives_nothing() -> None:
    """It is read in order, or completed already."""
    stripe = filled()
    stripe.fix()
    stripe.trim(3)
    assert (stripe.end_part, stripe.is_shared, stripe.is_whole(8)) == (9, False, True)
