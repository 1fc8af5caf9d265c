"""From readings to alerts: pending, firing, resolved; and each shipped rule on readings of its own."""

from itertools import pairwise

import pytest

from rayhaul.alert_file import read_alerts, read_more_alerts
from rayhaul.policy.alert_rules import AlertRule, Severity, parse_condition
from rayhaul.policy.alerting import Alert, AlertState, beginning, changes, evaluate

T0 = 1_800_000_000.0
RULE = AlertRule(
    name="QueueBacklog", condition=parse_condition("queue.depth > 2000"), window_s=120, severity=Severity.P1
)


def run(values: list[float | None], step_s: float = 10.0, rule: AlertRule = RULE) -> list[Alert]:
    """Return the alert after each reading."""
    alerts, seen = beginning([rule]), []
    for number, value in enumerate(values):
        known = {} if value is None else {rule.condition.metric: value}
        alerts = evaluate(alerts, known, T0 + number * step_s)
        seen.append(alerts[0])
    return seen


def test_it_fires_after_its_window() -> None:
    """Pending from the first reading that is too high, firing after two minutes, with what it reads."""
    seen = run([2000.0, *[2001.0] * 14])
    assert [alert.state for alert in seen] == ["inactive"] + ["pending"] * 12 + ["firing"] * 2
    assert (seen[-1].value, seen[-1].since_s) == (2001.0, T0 + 130)
    assert seen[1].since_s == T0 + 10


def test_one_good_reading_begins_it_anew() -> None:
    """The condition must hold the whole time."""
    seen = run([*[2001.0] * 11, 2000.0, *[2001.0] * 11])
    assert AlertState.FIRING not in {alert.state for alert in seen}


def test_it_is_resolved_at_the_first_good_reading() -> None:
    """And told of once: when it fires, and when it is resolved."""
    seen = run([*[2001.0] * 14, 5.0, 5.0])
    told = [(number, now.state) for number, (was, now) in enumerate(pairwise(seen)) if changes([was], [now])]
    assert told == [(11, AlertState.FIRING), (13, AlertState.INACTIVE)]


def test_what_is_not_known_fires_nothing() -> None:
    """A reading that is missing begins the window anew; after a gap of readings it does so too."""
    assert run([*[2001.0] * 12, None])[-1].state is AlertState.INACTIVE
    assert run([2001.0] * 4, step_s=60)[-1].state is AlertState.PENDING


#: Readings at which a rule must fire, and just must not.
SHIPPED: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "HighJobFailureRate": ({"jobs.failed.rate": 6, "jobs.created.rate": 100}, {"jobs.failed.rate": 5}),
    "QueueBacklog": ({"queue.depth": 2001}, {"queue.depth": 2000}),
    "WorkerOffline": ({"worker.offline_count": 1}, {"worker.offline_count": 0}),
    "DLQNonEmpty": ({"queue.dlq.depth": 1}, {"queue.dlq.depth": 0}),
    "R2UploadErrors": ({"r2.upload.error_rate": 0.011}, {"r2.upload.error_rate": 0.01}),
    "APIHighLatency": ({"api.p95_latency_ms": 1001}, {"api.p95_latency_ms": 1000}),
    "WorkerCapacityHigh": ({"worker.capacity_pct": 90.1}, {"worker.capacity_pct": 90}),
}


@pytest.mark.parametrize("rule", read_alerts(), ids=lambda rule: rule.name)
def test_the_seven(rule: AlertRule) -> None:
    """Each fires after its window above its threshold, not before, and not at it."""
    above, at = SHIPPED[rule.name]
    for readings, state in ((above, AlertState.FIRING), ({**above, **at}, AlertState.INACTIVE)):
        alerts = beginning([rule])
        for second in range(0, rule.window_s + 1, 5):
            assert alerts[0].state is not AlertState.FIRING
            alerts = evaluate(alerts, readings, T0 + second)
        assert alerts[0].state is state


def test_names_are_unique_over_both_files() -> None:
    """One name is one alert."""
    names = [rule.name for rule in (*read_alerts(), *read_more_alerts())]
    assert len(set(names)) == len(names)
