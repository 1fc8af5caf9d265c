"""Service-level objectives as they stand in dashboards/slos.yaml: from loaded YAML to typed objectives; burn rates.

    slos   := a list of mappings: name, summary, events, target, window
    events := a name of EVENTS: what is counted, and which of it is bad
    target := percent of events that must be good     99.9
    window := a whole number of days                   "30d"

Words: the *budget* is the share of events that may be bad; the *burn rate* is how many times faster than the whole
window's budget allows it is being spent.

Source: Google, "The Site Reliability Workbook", chapter 5 (multi-window, multi-burn-rate alerts), in the encoding of
Sloth and kubernetes-mixin.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayhaul import metrics
from rayhaul.metrics import Metric
from rayhaul.policy.alert_rules import Severity
from rayhaul.policy.indicators import (
    JOBS_ENDED,
    JOBS_FAILED,
    JOBS_FAILED_BY_SERVICE,
    REQUESTS,
    REQUESTS_FAILED,
    Match,
    Selection,
)

DAY_S = 86_400

_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")
_DAYS = re.compile(r"([1-9][0-9]{0,2})d")
_KEYS = {"name", "summary", "events", "target", "window"}


@dataclass(frozen=True, slots=True)
class Slower:
    """What a histogram took in above one of its bounds."""

    metric: Metric
    #: Seconds; a bucket's bound, so that the count is exact.
    bound_s: float

    def __post_init__(self) -> None:
        assert self.bound_s in self.metric.buckets, f"{self.metric.name} has no bucket at {self.bound_s}"


@dataclass(frozen=True, slots=True)
class Events:
    bad: Selection | Slower
    total: Selection


#: What objectives can be about.
EVENTS: Mapping[str, Events] = {
    "api.requests": Events(REQUESTS_FAILED, REQUESTS),
    "jobs.ended": Events(JOBS_FAILED, JOBS_ENDED),
    "jobs.ended_by_service": Events(JOBS_FAILED_BY_SERVICE, JOBS_ENDED),
    "metadata.ready": Events(Slower(metrics.METADATA_READY, 15.0), Selection(metrics.METADATA_READY)),
    "delivery.probes": Events(
        Selection(metrics.DELIVERY_PROBES, (Match("result", "ok", is_not=True),)), Selection(metrics.DELIVERY_PROBES)
    ),
    "sse.delivery": Events(Slower(metrics.SSE_DELIVERY_LAG, 5.0), Selection(metrics.SSE_DELIVERY_LAG)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    name: str
    summary: str
    #: A name of EVENTS.
    events: str
    #: Percent of events that must be good.
    target_pct: float
    window_days: int

    @property
    def budget(self) -> float:
        """The share of events that may be bad, 0 to 1."""
        return round(1 - self.target_pct / 100, 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """One pair of windows: the long one says that it matters, the short one that it goes on."""

    long_s: int
    short_s: int
    #: The share of the whole budget that is spent when the long window fires, by the objective's window in days.
    budget_spent: Mapping[int, float]
    #: How long it must hold.
    for_s: int
    severity: Severity

    def factor(self, objective: Objective) -> float:
        """Return the burn rate above which this pair fires."""
        return self.budget_spent[objective.window_days] * objective.window_days * DAY_S / self.long_s


_MINUTE_S, _HOUR_S = 60, 3600

#: Factors 14.4, 6, 3 and 1 for 30 days (the workbook's); 13.44, 3.5, 1.4 and 0.98 for 7 (Sloth's example).
BURNS = (
    Burn(
        long_s=_HOUR_S,
        short_s=5 * _MINUTE_S,
        budget_spent={30: 0.02, 7: 0.08},
        for_s=2 * _MINUTE_S,
        severity=Severity.P1,
    ),
    Burn(
        long_s=6 * _HOUR_S,
        short_s=30 * _MINUTE_S,
        budget_spent={30: 0.05, 7: 0.125},
        for_s=15 * _MINUTE_S,
        severity=Severity.P1,
    ),
    Burn(
        long_s=DAY_S,
        short_s=2 * _HOUR_S,
        budget_spent={30: 0.1, 7: 0.2},
        for_s=_HOUR_S,
        severity=Severity.P2,
    ),
    Burn(
        long_s=3 * DAY_S,
        short_s=6 * _HOUR_S,
        budget_spent={30: 0.1, 7: 0.42},
        for_s=3 * _HOUR_S,
        severity=Severity.P3,
    ),
)
#: Windows of days for which burn rates are defined.
WINDOWS_DAYS = tuple(BURNS[0].budget_spent)
#: With fewer events in the long window no pair fires: one failure of three says nothing.
BURN_EVENTS_MIN = 20


def parse_objectives(data: Any) -> tuple[Objective, ...]:
    """Return the objectives of a loaded file, in its order.

    Raises: ValueError, one sentence that names the objective and what in it is wrong.
    """
    if not isinstance(data, Mapping) or set(data) != {"slos"} or not isinstance(data["slos"], list):
        raise ValueError("The objectives file must be a mapping with one key, 'slos', that holds a list.")
    objectives = tuple(_objective(number, entry) for number, entry in enumerate(data["slos"], start=1))
    names = [objective.name for objective in objectives]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Objective {name}: the name is used {names.count(name)} times.")
    return objectives


def _objective(number: int, entry: Any) -> Objective:
    if not isinstance(entry, Mapping) or set(entry) != _KEYS:
        raise ValueError(f"Objective {number} of the list: must be a mapping with the keys {', '.join(sorted(_KEYS))}.")
    name, days = str(entry["name"]), _DAYS.fullmatch(str(entry["window"]))
    if not _NAME.fullmatch(name):
        raise ValueError(f"Objective {number} of the list: name must be letters and digits, a capital first.")
    if entry["events"] not in EVENTS:
        raise ValueError(f"Objective {name}: events must be one of {', '.join(EVENTS)}.")
    if days is None or int(days[1]) not in WINDOWS_DAYS:
        raise ValueError(f"Objective {name}: window must be one of {', '.join(f'{day}d' for day in WINDOWS_DAYS)}.")
    target_pct = entry["target"]
    if not isinstance(target_pct, int | float) or not 0 < target_pct < 100:
        raise ValueError(f"Objective {name}: target must be a percentage above 0 and below 100.")
    return Objective(
        name=name,
        summary=str(entry["summary"]),
        events=str(entry["events"]),
        target_pct=float(target_pct),
        window_days=int(days[1]),
    )
