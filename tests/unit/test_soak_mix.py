"""The soak makes every fault happen that the tests' origin and the proxy of the store can make, or says why not."""

from dataclasses import fields
from random import Random

import pytest
from origin import Origin
from origin_faults import chosen, faults
from soak_mix import BENIGN, DOUBTFUL, FATAL, SEVERAL, Asked, Wanted, make
from soak_weather import (
    NOT_OF_THE_ORIGIN,
    NOT_OF_THE_STORE,
    STATUSES,
    UPHEAVALS,
    WEATHER,
    never,
    of_the_origin,
    of_the_store,
    operations,
)
from store_proxy import NO_FAULT, Fault

KINDS = [*BENIGN, *SEVERAL, "change", *FATAL, *DOUBTFUL]
HALF_HOUR_S = 1800


def drawn(kind: str) -> tuple[Origin, list[Asked]]:
    """Have many files of a kind served, each with another chance."""
    origin = Origin()
    asked = [
        make(kind, Wanted(rng=Random(chance), origin=origin, path=f"{chance}.bin", seed=chance, size=5000))
        for chance in range(100)
    ]
    return origin, asked


def test_every_fault_of_the_origin_is_drawn_or_excused() -> None:
    """What a file of the origin can be told to do is told to a file of some kind; what is not, is in the list."""
    made: set[str] = set()
    statuses: set[int | None] = {401}
    for kind in KINDS:
        origin, _ = drawn(kind)
        for file in origin._files.values():
            how = file.behaviour
            made |= chosen(how)
            statuses |= {*how.statuses, how.status, how.ranged_status}
    assert faults() - made == NOT_OF_THE_ORIGIN.keys() - made
    # These are drawn, and do not happen by themselves, or not as long as all is well.
    assert NOT_OF_THE_ORIGIN.keys() & made == {"faults_max", "drip_bytes_per_s", "uses_max"}
    assert statuses - {0, None} == {*STATUSES}


def test_every_fault_of_the_store_is_in_its_weather_or_excused() -> None:
    """Every operation has faults, and every field of a fault is in one of them."""
    made = {name for odds in WEATHER.values() for _, fault in odds for name in told(fault)} | set(WEATHER)
    assert (operations() | {field.name for field in fields(Fault)}) - made == NOT_OF_THE_STORE.keys()


def told(fault: Fault) -> set[str]:
    return {field.name for field in fields(fault) if getattr(fault, field.name) != getattr(NO_FAULT, field.name)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_become_of_a_job_is_known(kind: str) -> None:
    """It completes with bytes that are known, or fails with an error that is; both only where nobody can tell."""
    _, asked = drawn(kind)
    for one in asked:
        assert bool(one.versions) == (kind not in FATAL)
        assert bool(one.fails) == (kind in FATAL or kind in DOUBTFUL)


def test_a_fault_that_never_happened_is_told() -> None:
    """In half an hour each must happen once, in an hour twice; a short run proves nothing."""
    happened = {
        "origin": dict.fromkeys(of_the_origin(), 1),
        "store": dict.fromkeys(of_the_store(), 1),
        "cluster": dict.fromkeys(UPHEAVALS, 1),
    }
    assert never(happened, HALF_HOUR_S) == []
    assert len(never(happened, 2 * HALF_HOUR_S)) == sum(map(len, happened.values()))
    del (
        happened["origin"]["status=416"],
        happened["store"]["complete: drop_answer"],
        happened["cluster"]["store killed"],
    )
    assert never(happened, HALF_HOUR_S) == [
        "origin, status=416",
        "store, complete: drop_answer",
        "cluster, store killed",
    ]
    assert never(happened, HALF_HOUR_S - 1) == []
