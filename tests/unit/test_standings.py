"""Objectives: their grammar, their events, their budgets; numbers by hand."""

from datetime import UTC, datetime
from typing import Any

import pytest

from rayhaul import metrics
from rayhaul.alert_file import read_objectives
from rayhaul.metrics import Meter, Metric
from rayhaul.policy.objectives import BURNS, DAY_S, EVENTS, Slower, parse_objectives
from rayhaul.policy.standings import Count, Standing, counted, is_own, standing, stretch_of, windows_of

HOUR_S = 3600
GOOD = {"name": "Mine", "summary": "It works.", "events": "api.requests", "target": 99.9, "window": "30d"}
OBJECTIVES = {objective.name: objective for objective in read_objectives()}


def stands(name: str, whole: Count, **windows: Count) -> Standing:
    """Return the standing with the same counts in all windows but these (h1 is one hour)."""
    objective = OBJECTIVES[name]
    counts = dict.fromkeys(windows_of([objective]), whole)
    lengths = {"m5": 300, "h1": HOUR_S, "h6": 6 * HOUR_S, "m30": 1800}
    return standing(objective, {**counts, **{lengths[key]: count for key, count in windows.items()}})


def test_the_five_and_one_beside() -> None:
    """Targets and windows as the specification has them."""
    told = [(one.name, one.target_pct, one.window_days) for one in read_objectives()]
    assert told == [
        ("ApiAvailability", 99.9, 30),
        ("JobSuccess", 98, 7),
        ("MetadataReady", 95, 7),
        ("DeliveryAvailability", 99.95, 30),
        ("SseLag", 99, 7),
        ("JobSuccessByService", 98, 7),
    ]
    bounds = {name: events.bad.bound_s for name, events in EVENTS.items() if isinstance(events.bad, Slower)}
    assert bounds == {"metadata.ready": 15, "sse.delivery": 5}


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"name": "mine"}, "capital"),
        ({"events": "api.answers"}, "events must be one of"),
        ({"window": "8d"}, "30d, 7d"),
        ({"target": 100}, "below 100"),
        ({"target": "high"}, "percentage"),
        ({"more": 1}, "keys"),
    ],
)
def test_what_is_not_understood_is_refused(changes: dict[str, Any], wrong: str) -> None:
    """An objective that is read half would be a promise nobody keeps."""
    with pytest.raises(ValueError, match=wrong):
        parse_objectives({"slos": [{**GOOD, **changes}]})


def test_names_are_unique() -> None:
    """Counts are kept by name."""
    with pytest.raises(ValueError, match="2 times"):
        parse_objectives({"slos": [GOOD, GOOD]})


def test_the_factors_are_the_workbooks() -> None:
    """14.4, 6, 3 and 1 for 30 days, and their like for 7."""
    monthly, weekly = OBJECTIVES["ApiAvailability"], OBJECTIVES["JobSuccess"]
    assert [round(burn.factor(monthly), 6) for burn in BURNS] == [14.4, 6, 3, 1]
    assert [round(burn.factor(weekly), 6) for burn in BURNS] == [13.44, 3.5, 1.4, 0.98]


def test_ratio_budget_and_burn_rate() -> None:
    """5 bad ones of 10,000 where 10 were allowed: half of the budget is left."""
    found = stands("ApiAvailability", (10_000, 5))
    assert (found.ratio, found.budget_left, found.burn_rate) == pytest.approx((0.9995, 0.5, 0.5))
    assert found.burning is None


def test_more_than_the_budget_is_less_than_nothing() -> None:
    """What is left may be below 0: how much too much is said, not hidden."""
    assert stands("JobSuccess", (100, 4)).budget_left == pytest.approx(-1)


def test_nothing_is_no_failure() -> None:
    """Without events there is no ratio, and the budget is whole."""
    found = stands("SseLag", (0, 0))
    assert (found.ratio, found.burn_rate, found.budget_left) == (None, None, 1)


@pytest.mark.parametrize(
    ("hour", "five", "burning"),
    [
        ((1000, 15), (100, 2), "P1"),
        ((1000, 14), (100, 2), None),
        ((1000, 15), (100, 1), None),
        ((19, 19), (9, 9), None),
    ],
)
def test_it_burns_in_both_windows_or_not(hour: Count, five: Count, burning: str | None) -> None:
    """1.44 % in the hour and in five minutes, of twenty events at least."""
    found = stands("ApiAvailability", (100_000, 0), h1=hour, m5=five)
    assert (None if found.burning is None else found.burning.severity.value) == burning


def _counting(metric: Metric, *counts: tuple[int, tuple[str, ...]]) -> Meter:
    meter = Meter()
    for by, labels in counts:
        meter.inc(metric, *labels, by=by)
    return meter


def test_events_are_counted_from_metrics() -> None:
    """Each objective's events, and which of them are bad."""
    ended = _counting(
        metrics.JOBS_FINISHED,
        (90, ("completed", "none", "none")),
        (6, ("failed", "source", "source_not_found")),
        (3, ("failed", "us", "internal")),
        (1, ("failed", "sink", "sink_refused")),
        (50, ("cancelled", "caller", "cancelled")),
    ).snapshot()
    assert counted(OBJECTIVES["JobSuccess"], ended) == (100, 10)
    assert counted(OBJECTIVES["JobSuccessByService"], ended) == (100, 4)
    requests = _counting(
        metrics.HTTP_REQUESTS,
        (95, ("GET", "/jobs", "200")),
        (4, ("POST", "/jobs", "422")),
        (1, ("POST", "/jobs", "503")),
        (9, ("GET", "/readyz", "503")),
    ).snapshot()
    assert counted(OBJECTIVES["ApiAvailability"], requests) == (100, 1)
    probes = _counting(metrics.DELIVERY_PROBES, (9, ("ok",)), (1, ("unreachable",))).snapshot()
    assert counted(OBJECTIVES["DeliveryAvailability"], probes) == (10, 1)
    meter = Meter()
    for seconds in (0.1, 15.0, 15.1, 400.0):
        meter.observe(metrics.METADATA_READY, seconds)
    assert counted(OBJECTIVES["MetadataReady"], meter.snapshot()) == (4, 2)


def test_who_counts_what() -> None:
    """Jobs and metadata are counted with their transitions, the rest from what processes tell."""
    assert {name for name, one in OBJECTIVES.items() if is_own(one)} == {
        "JobSuccess",
        "JobSuccessByService",
        "MetadataReady",
    }


def test_stretches_are_five_minutes() -> None:
    """A moment belongs to the stretch that began last."""
    assert stretch_of(datetime(2027, 1, 15, 8, 4, 59, tzinfo=UTC)) == datetime(2027, 1, 15, 8, 0, tzinfo=UTC)
    assert 30 * DAY_S in windows_of(read_objectives())
