"""Alerts are told once when they fire, and once when they are resolved."""

import logging

import pytest

from actors.counts import Counts
from actors.watch import Watch
from rayhaul.metrics import (
    ALERTS_FIRING,
    QUEUE_DLQ_DEPTH,
    Meter,
    Snapshot,
)
from rayhaul.policy.alert_rules import AlertRule, Severity, parse_condition

T0 = 1_800_000_000.0
DLQ = AlertRule(name="DLQNonEmpty", condition=parse_condition("queue.dlq.depth > 0"), window_s=60, severity=Severity.P2)
CAPACITY = AlertRule(
    name="WorkerCapacityHigh", condition=parse_condition("worker.capacity_pct > 90"), window_s=10, severity=Severity.P3
)


def watch(*rules: AlertRule) -> tuple[Watch, Meter]:
    meter = Meter()
    return Watch(rules, (), Counts(), meter), meter


def test_an_alert_is_told_when_it_fires_and_when_it_is_resolved(caplog: pytest.LogCaptureFixture) -> None:
    """One line each, by its severity; the gauge says which fire."""
    watched, meter = watch(DLQ)
    caplog.set_level(logging.INFO)
    for second in range(0, 200, 5):
        meter.set(QUEUE_DLQ_DEPTH, 1 if second < 120 else 0)
        assert watched.is_due(T0 + second)
        watched.read(meter.snapshot(), None, T0 + second)
        assert not watched.is_due(T0 + second + 4)
        firing = meter.snapshot().gauges[ALERTS_FIRING.name, ("DLQNonEmpty",)]
        assert firing == (1 if 60 <= second < 120 else 0)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("WARNING", "alert DLQNonEmpty fires: queue.dlq.depth > 0 for 1m, it is 1"),
        ("INFO", "alert DLQNonEmpty is resolved"),
    ]


def test_capacity_reads_as_the_scaler_sees_it() -> None:
    """The rule that scales and the alert that is shown never disagree."""
    watched, _ = watch(CAPACITY)
    for second in (0, 5, 10):
        watched.read(Snapshot(), 91.0, T0 + second)
    assert watched.alerts[0].state == "firing"
    assert watched.alerts[0].value == 91.0
