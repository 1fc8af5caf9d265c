"""How the objectives stand: events counted from what processes tell, ratios, budgets and burn rates from the counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rayhaul import metrics
from rayhaul.metrics import Snapshot
from rayhaul.policy.indicators import Selection
from rayhaul.policy.objectives import BURN_EVENTS_MIN, BURNS, DAY_S, EVENTS, Burn, Events, Objective, Slower
from rayhaul.policy.readings import above_of, total_of

#: Events are counted by stretches of this length.
STRETCH_S = 300
#: Windows that a burn rate is told of, besides the objective's own.
BURN_WINDOWS_S = tuple(sorted({*(burn.long_s for burn in BURNS), *(burn.short_s for burn in BURNS)}))

#: What is counted with the change it tells of, in the scheduler's own transaction.
_OWN = frozenset({metrics.JOBS_FINISHED.name, metrics.METADATA_READY.name})

#: (events, bad ones).
Count = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    objective: Objective
    #: Over the objective's window.
    total: int
    bad: int
    #: Seconds -> burn rate; None where nothing happened.
    burn_rates: Mapping[int, float | None]
    #: The pair that fires, the fastest first; None where none does.
    burning: Burn | None

    @property
    def ratio(self) -> float | None:
        """The share of good events; None where there were none."""
        return None if self.total == 0 else 1 - self.bad / self.total

    @property
    def burn_rate(self) -> float | None:
        """Over the whole window: 1 spends the budget exactly."""
        return _burn_rate(self.objective, (self.total, self.bad))

    @property
    def budget_left(self) -> float:
        """The share of the budget that is left, below 0 where more than all of it is spent."""
        return 1 - (self.burn_rate or 0.0)


def is_own(objective: Objective) -> bool:
    """Say whether the scheduler itself counts the objective's events."""
    return EVENTS[objective.events].total.metric.name in _OWN


def counted(objective: Objective, snapshot: Snapshot) -> Count:
    """Return (events, bad ones) of an objective."""
    events = EVENTS[objective.events]
    return round(total_of(events.total, snapshot)), round(_bad(events, snapshot))


def stretch_of(now: datetime) -> datetime:
    """Return when the stretch of a moment begins."""
    return now - timedelta(seconds=now.timestamp() % STRETCH_S)


def windows_of(objectives: Iterable[Objective]) -> Sequence[int]:
    """Return every window that a standing needs counts of, in seconds."""
    return sorted({*BURN_WINDOWS_S, *(objective.window_days * DAY_S for objective in objectives)})


def standing(objective: Objective, counts: Mapping[int, Count]) -> Standing:
    """Return how an objective stands. `counts` has its windows, in seconds -> (events, bad ones)."""
    total, bad = counts[objective.window_days * DAY_S]
    rates = {window_s: _burn_rate(objective, counts[window_s]) for window_s in BURN_WINDOWS_S}
    firing = (
        burn
        for burn in BURNS
        if min(rates[burn.long_s] or 0.0, rates[burn.short_s] or 0.0) > burn.factor(objective)
        and counts[burn.long_s][0] >= BURN_EVENTS_MIN
    )
    return Standing(objective=objective, total=total, bad=bad, burn_rates=rates, burning=next(firing, None))


def _burn_rate(objective: Objective, count: Count) -> float | None:
    total, bad = count
    return None if total == 0 else bad / total / objective.budget


def _bad(events: Events, snapshot: Snapshot) -> float:
    if isinstance(events.bad, Slower):
        return above_of(Selection(events.bad.metric), events.bad.bound_s, snapshot)
    return total_of(events.bad, snapshot)
