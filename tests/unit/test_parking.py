"""What a bucket's refusals do to the starts of jobs."""

from functools import reduce

from rayhaul.policy.parking import Parking, accepted, ended, is_own_fault, refused, shifted, starts_max, tried


def test_a_refusal_parks_and_one_tries_at_growing_intervals() -> None:
    """Nothing starts for the pause; then one at a time, each after a pause twice as long, up to the longest."""
    parking = refused(Parking(), "a", "AccessDenied", 100.0, park_s=30.0)
    assert (parking.is_parked, starts_max(parking, 129.9), starts_max(parking, 130.0)) == (True, 0, 1)
    pauses, now_s = [], 130.0
    for number in range(5):
        parking = tried(parking, f"t{number}", now_s, park_s=30.0, park_s_max=300.0)
        assert starts_max(parking, now_s) == 0
        assert parking.until_s is not None
        pauses.append(parking.until_s - now_s)
        now_s = parking.until_s
    assert pauses == [60.0, 120.0, 240.0, 300.0, 300.0]


def test_a_second_refusal_of_the_same_pause_does_not_lengthen_it() -> None:
    """Jobs that ran when it began are refused as well: that is no news."""
    first = refused(Parking(), "a", "x", 100.0, park_s=30.0)
    assert refused(first, "b", "x", 120.0, park_s=30.0).until_s == first.until_s


def test_bytes_taken_end_it() -> None:
    """The bucket takes something: all may start at once, and the next pause is a first one."""
    parked = tried(refused(Parking(), "a", "x", 0.0, park_s=30.0), "b", 30.0, park_s=30.0, park_s_max=300.0)
    free = accepted(parked, "b", 31.0)
    assert (free.is_parked, starts_max(free, 31.0), free.tries) == (False, None, 0)


def test_whose_fault_it_is() -> None:
    """A job is itself refused where the bucket took another's bytes since; its own bytes show nothing."""
    parking = refused(Parking(), "a", "x", 10.0, park_s=30.0)
    assert not is_own_fault(parking, "a")
    assert not is_own_fault(accepted(parking, "a", 11.0), "a")
    assert not is_own_fault(accepted(parking, "b", 9.0), "a")
    assert is_own_fault(accepted(parking, "b", 11.0), "a")
    assert not is_own_fault(accepted(parking, "b", 11.0), "c")


def test_a_try_that_never_reached_the_bucket_is_given_again() -> None:
    """The job that tried ended for another reason: the next one may try at once, and the pause has not grown."""
    parked = tried(refused(Parking(), "a", "x", 0.0, park_s=30.0), "b", 30.0, park_s=30.0, park_s_max=300.0)
    assert ended(parked, "other", 40.0) is parked
    after = ended(parked, "b", 40.0)
    assert (starts_max(after, 40.0), after.tries, after.trying) == (1, 0, None)


def test_what_is_remembered_is_bounded() -> None:
    """Of a flood of refusals the newest thousand are remembered."""
    flood = reduce(lambda parking, n: refused(parking, f"j{n}", "x", float(n), park_s=1.0), range(1500), Parking())
    assert len(flood.refused_at_s) == 1000
    assert "j1499" in flood.refused_at_s
    assert "j499" not in flood.refused_at_s


def test_a_clock_that_was_set() -> None:
    """All moments move with it."""
    parked = refused(accepted(Parking(), "b", 5.0), "a", "x", 10.0, park_s=30.0)
    moved = shifted(parked, -4.0)
    assert (moved.until_s, moved.accepted_at_s, moved.refused_at_s) == (36.0, 1.0, {"a": 6.0})
    assert shifted(Parking(), 3.0) == Parking()
