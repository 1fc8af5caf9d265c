"""Watches over the cluster by what its processes have counted: indicators, alerts, events of the objectives.

Laws of this file:
1. Events of jobs are counted in the transaction that carries their change. What other processes tell of is written
   every few seconds; no event is counted twice, and what falls into a turn that failed, or came while there was no
   scheduler, is left out.
2. An alert is told of once when it fires, and once when it is resolved.
"""

import logging
from collections.abc import Mapping, Sequence

from actors.counts import Counts
from actors.draft import Draft
from rayhaul.ledger.base import SloCount
from rayhaul.metrics import ALERTS_FIRING, Meter, Snapshot
from rayhaul.policy import alerting
from rayhaul.policy.alert_rules import AlertRule, Severity, window_text
from rayhaul.policy.alerting import Alert, AlertState
from rayhaul.policy.objectives import Objective
from rayhaul.policy.readings import History, readings, sampled
from rayhaul.policy.scaling import CAPACITY_METRIC
from rayhaul.policy.standings import Count, counted, is_own, stretch_of

log = logging.getLogger(__name__)

#: Time between two readings.
_READ_S = 5.0
#: Time between two writings of what other processes tell of.
_WRITE_S = 10.0

_LEVELS = {Severity.P1: logging.ERROR, Severity.P2: logging.WARNING, Severity.P3: logging.INFO}


class Watch:
    def __init__(
        self, rules: Sequence[AlertRule], objectives: Sequence[Objective], counts: Counts, meter: Meter
    ) -> None:
        self._objectives = objectives
        self._counts = counts
        self._meter = meter
        #: What processes had counted when it was written last.
        self._written = Snapshot()
        self._written_at_s = float("-inf")
        self._history: History = ()
        self._read_at_s = float("-inf")
        self.alerts: Sequence[Alert] = alerting.beginning(rules)
        self._gauge()

    def is_due(self, now_s: float) -> bool:
        return not 0 <= now_s - self._read_at_s < _READ_S

    def read(self, total: Snapshot, load_pct: float | None, now_s: float) -> None:
        """Read the indicators from what the whole cluster has counted, and evaluate the alerts.

        `load_pct` is what the scaler decides by: what is shown and what is done are the same.
        """
        self._read_at_s = now_s
        self._history = sampled(self._history, total, now_s)
        known = dict(readings(self._history))
        if load_pct is not None:
            known[CAPACITY_METRIC] = load_pct
        before, self.alerts = self.alerts, alerting.evaluate(self.alerts, known, now_s)
        for alert in alerting.changes(before, self.alerts):
            _tell(alert)
        self._gauge()

    def write(self, draft: Draft) -> None:
        """Put the events of the objectives into a turn that is about to be committed."""
        if not self._objectives:
            return
        told = Meter()
        draft.tell(told)
        own = told.snapshot()
        counts = {objective.name: counted(objective, own) for objective in self._objectives if is_own(objective)}
        if not 0 <= draft.now_s - self._written_at_s < _WRITE_S:
            counts |= self._new(draft.now_s)
        stretch = stretch_of(draft.now)
        for slo, (total, bad) in counts.items():
            if total > 0:
                draft.count_slo(SloCount(slo=slo, starts_at=stretch, total=total, bad=bad))

    def _new(self, now_s: float) -> Mapping[str, Count]:
        """Return the events that processes told of since they were written last."""
        before, now = self._written, self._counts.sum(now_s)
        self._written, self._written_at_s = now, now_s
        return {
            objective.name: _difference(counted(objective, before), counted(objective, now))
            for objective in self._objectives
            if not is_own(objective)
        }

    def _gauge(self) -> None:
        for alert in self.alerts:
            self._meter.set(ALERTS_FIRING, float(alert.state is AlertState.FIRING), alert.rule.name)


def _difference(before: Count, now: Count) -> Count:
    return max(0, now[0] - before[0]), max(0, now[1] - before[1])


def _tell(alert: Alert) -> None:
    rule = alert.rule
    if alert.state is AlertState.FIRING:
        value = "unknown" if alert.value is None else f"{alert.value:g}"
        held = window_text(rule.window_s)
        log.log(_LEVELS[rule.severity], "alert %s fires: %s for %s, it is %s", rule.name, rule.condition, held, value)
    else:
        log.info("alert %s is resolved", rule.name)
