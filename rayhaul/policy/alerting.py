"""Which alerts fire: each rule's window after each reading, and what changed.

A rule is *inactive* while its condition does not hold, *pending* while it holds for less than its window, then it
*fires* until the condition does not hold any more: it is *resolved*. As in Prometheus.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from rayhaul.policy.alert_rules import AlertRule
from rayhaul.policy.windows import Window, is_firing, observe

#: After a longer silence of the readings a window begins anew.
_GAP_S_MAX = 30.0


class AlertState(StrEnum):
    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    rule: AlertRule
    window: Window
    #: What the condition's expression reads; None where it is not known.
    value: float | None = None
    state: AlertState = AlertState.INACTIVE
    #: Since when it is in this state; None: since the scheduler began.
    since_s: float | None = None


def beginning(rules: Iterable[AlertRule]) -> Sequence[Alert]:
    """Return the alerts of a scheduler that has read nothing yet."""
    return [
        Alert(rule=rule, window=Window(condition=rule.condition, window_s=rule.window_s, gap_s_max=_GAP_S_MAX))
        for rule in rules
    ]


def evaluate(alerts: Iterable[Alert], readings: Mapping[str, float], now_s: float) -> Sequence[Alert]:
    """Return the alerts after a reading."""
    return [_evaluated(alert, alert.rule.condition.value(readings), now_s) for alert in alerts]


def changes(before: Iterable[Alert], after: Iterable[Alert]) -> Sequence[Alert]:
    """Return the alerts that began to fire, and those that are resolved."""
    firing = {alert.rule.name for alert in before if alert.state is AlertState.FIRING}
    return [alert for alert in after if (alert.rule.name in firing) is not (alert.state is AlertState.FIRING)]


def _evaluated(alert: Alert, value: float | None, now_s: float) -> Alert:
    window = observe(alert.window, value, now_s)
    if is_firing(window, now_s):
        state = AlertState.FIRING
    else:
        state = AlertState.INACTIVE if window.since_s is None else AlertState.PENDING
    since_s = alert.since_s if state is alert.state else now_s
    return replace(alert, window=window, value=value, state=state, since_s=since_s)
