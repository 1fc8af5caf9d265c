"""For each objective and pair of windows: shares of bad events that fire, come close, and do not.

Source of the numbers: the Site Reliability Workbook's factors by hand, share = factor x (1 - target).
"""

from collections.abc import Mapping, Sequence

from alert_cases import Case, Series

#: Of 10,000 events a minute, so many are bad: the first fires, the second, a hair less, does not.
_LIMITS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "ApiAvailability": {"1h": (144.1, 143.9), "6h": (60.1, 59.9), "1d": (30.1, 29.9), "3d": (10.1, 9.9)},
    "DeliveryAvailability": {"1h": (72.1, 71.9), "6h": (30.1, 29.9), "1d": (15.1, 14.9), "3d": (5.1, 4.9)},
    "JobSuccess": {"1h": (2689, 2687), "6h": (701, 699), "1d": (281, 279), "3d": (197, 195)},
    "JobSuccessByService": {"1h": (2689, 2687), "6h": (701, 699), "1d": (281, 279), "3d": (197, 195)},
    "MetadataReady": {"1h": (6721, 6719), "6h": (1751, 1749), "1d": (701, 699), "3d": (491, 489)},
    "SseLag": {"1h": (1345, 1343), "6h": (351, 349), "1d": (141, 139), "3d": (98.1, 97.9)},
}
#: How long each pair must hold, minutes.
_FOR_MIN: Mapping[str, float] = {"1h": 2, "6h": 15, "1d": 60, "3d": 180}
OBJECTIVES = tuple(_LIMITS)


def events(objective: str, bad: str, good: str) -> Series:
    """Return the series of an objective's events; both growths in promtool's notation."""
    match objective:
        case "ApiAvailability":
            name = 'rayhaul_http_requests_total{{job="rayhaul",method="GET",route="/jobs",status="{}"}}'
            return {name.format("503"): bad, name.format("200"): good}
        case "DeliveryAvailability":
            name = 'rayhaul_delivery_probes_total{{job="rayhaul",result="{}"}}'
            return {name.format("unreachable"): bad, name.format("ok"): good}
        case "JobSuccess":
            name = 'rayhaul_jobs_finished_total{{job="rayhaul",outcome="{}"}}'
            return {name.format("failed"): bad, name.format("completed"): good, name.format("cancelled"): "0+9000x400"}
        case "JobSuccessByService":
            name = 'rayhaul_jobs_finished_total{{job="rayhaul",outcome="{}",fault="{}"}}'
            return {name.format("failed", "sink"): bad, name.format("failed", "source"): good}
        case "MetadataReady":
            return _slower("rayhaul_metadata_ready_seconds", "15.0", good)
        case "SseLag":
            return _slower("rayhaul_sse_delivery_lag_seconds", "5.0", good)
    raise AssertionError(objective)


def _slower(metric: str, bound: str, good: str) -> Series:
    """All events are in the count; the good ones are in the bucket too."""
    return {f'{metric}_bucket{{job="rayhaul",le="{bound}"}}': good, f'{metric}_count{{job="rayhaul"}}': "0+10000x400"}


def burn_cases(objective: str) -> Sequence[Case]:
    """Return the cases of an objective: a share that is the same all the time is the same in both windows."""
    found = []
    for window, (above, under) in _LIMITS[objective].items():
        alert, held_min = f"{objective}BudgetBurn{window}", _FOR_MIN[window]
        steady = {bad: events(objective, f"0+{bad:g}x400", f"0+{10000 - bad:g}x400") for bad in (above, under, 0.0)}
        # The first rate is there after a minute.
        fires_min = held_min + 1
        found += [
            Case(alert=alert, kind="firing", series=steady[above], at_min=fires_min, firing=1),
            Case(alert=alert, kind="boundary", series=steady[under], at_min=fires_min),
            Case(alert=alert, kind="boundary of the window", series=steady[above], at_min=fires_min - 1),
            Case(alert=alert, kind="silent", series=steady[0.0], at_min=fires_min),
        ]
    return found


def window_cases() -> Sequence[Case]:
    """Return what two windows are for, shown on one objective: a burst that passes, one that is over, too few."""
    alert, name = "ApiAvailabilityBudgetBurn1h", "ApiAvailability"
    return (
        # Three minutes of 20 % are 1 % of the hour: the long window does not care.
        Case(
            alert=alert,
            kind="silent in a short burst",
            series=events(name, "0x60 2000+2000x3 8000x9", "0+10000x60 608000+8000x3 642000+10000x9"),
            at_min=64,
        ),
        # Twenty minutes of 20 % fire; ten minutes after their end the short window has let go.
        Case(
            alert=alert,
            kind="firing in a long burst",
            series=events(name, "0x60 0+2000x20 42000x30", "0+10000x60 610000+8000x20 780000+10000x30"),
            at_min=80,
            firing=1,
        ),
        Case(
            alert=alert,
            kind="silent soon after it",
            series=events(name, "0x60 0+2000x20 42000x30", "0+10000x60 610000+8000x20 780000+10000x30"),
            at_min=90,
        ),
        # Nineteen events an hour, all bad.
        Case(alert=alert, kind="silent with few events", series=events(name, "0+0.3x100", "0+0x100"), at_min=90),
    )
