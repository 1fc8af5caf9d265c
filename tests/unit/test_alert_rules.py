"""The rules' grammar: what the shipped file says, what is refused, and that text and rule say the same."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import dashboards
from rayhaul.policy.alert_rules import (
    Action,
    AlertRule,
    Comparison,
    Operator,
    Severity,
    number_text,
    parse_condition,
    parse_rules,
    parse_window_s,
    rule_data,
    window_text,
)

SHIPPED = Path(dashboards.__path__[0]) / "alerts.yaml"
GOOD = {"name": "QueueBacklog", "condition": "queue.depth > 2000", "window": "2m", "severity": "P1"}

words = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
metrics = st.lists(words, min_size=2, max_size=4).map(".".join)
comparisons = st.builds(
    Comparison,
    metric=metrics,
    divisor=st.none() | metrics,
    operator=st.sampled_from(Operator),
    threshold=st.floats(allow_nan=False, allow_infinity=False),
)
rules = st.builds(
    AlertRule,
    name=st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,20}", fullmatch=True),
    condition=comparisons,
    window_s=st.integers(1, 999_999),
    severity=st.sampled_from(Severity),
    runbook=st.none() | st.from_regex(r"#[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
    action=st.none() | st.just(Action.AUTO_SCALE),
)


def parsed(**changes: Any) -> AlertRule:
    (rule,) = parse_rules({"alerts": [{**GOOD, **changes}]})
    return rule


def test_the_shipped_file() -> None:
    """The seven alerts of the specification, each as it stands there."""
    found = parse_rules(yaml.safe_load(SHIPPED.read_text()))
    told = [
        (rule.name, str(rule.condition), rule.window_s, str(rule.severity), rule.runbook, rule.action) for rule in found
    ]
    assert told == [
        (
            "HighJobFailureRate",
            "jobs.failed.rate / jobs.created.rate > 0.05",
            300,
            "P2",
            "#runbook-stalled-job",
            None,
        ),
        ("QueueBacklog", "queue.depth > 2000", 120, "P1", "#runbook-queue-backlog", None),
        ("WorkerOffline", "worker.offline_count > 0", 60, "P1", "#runbook-worker-offline", None),
        ("DLQNonEmpty", "queue.dlq.depth > 0", 60, "P2", "#runbook-stalled-job", None),
        ("R2UploadErrors", "r2.upload.error_rate > 0.01", 300, "P2", "#runbook-r2-upload-failure", None),
        ("APIHighLatency", "api.p95_latency_ms > 1000", 300, "P3", None, None),
        ("WorkerCapacityHigh", "worker.capacity_pct > 90", 180, "P3", None, "auto-scale"),
    ]


def test_the_shipped_file_is_written_as_it_would_be() -> None:
    """Read and written again, the file's data are the same to the letter."""
    data = yaml.safe_load(SHIPPED.read_text())
    assert [rule_data(rule) for rule in parse_rules(data)] == data["alerts"]


@given(st.lists(rules, max_size=4, unique_by=lambda rule: rule.name))
def test_round_trip(some: list[AlertRule]) -> None:
    """Whatever rules there are, their data reads back as the same rules, also through YAML text."""
    data = {"alerts": [rule_data(rule) for rule in some]}
    assert parse_rules(data) == tuple(some)
    assert parse_rules(yaml.safe_load(yaml.safe_dump(data))) == tuple(some)


@given(st.text(max_size=40) | st.text(alphabet="abc._ /<>=!0123456789e-", max_size=40))
def test_a_condition_is_read_whole_or_refused(text: str) -> None:
    """No text makes anything but a ValueError, and one that is read says the same again."""
    try:
        condition = parse_condition(text)
    except ValueError:
        return
    assert parse_condition(str(condition)) == condition


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a.b>1", "a.b > 1"),
        ("  a.b   >=   1.50 ", "a.b >= 1.5"),
        ("a.b/c.d != -3", "a.b / c.d != -3"),
        ("a.b == 1e-3", "a.b == 0.001"),
        ("a.b <= 12345678901234567890", "a.b <= 1.2345678901234567e+19"),
    ],
)
def test_conditions(text: str, written: str) -> None:
    """Spaces do not matter; numbers are written the shortest way."""
    assert str(parse_condition(text)) == written


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({**GOOD, "window": "5"}, "Alert QueueBacklog: window '5' must be a whole number and s, m or h, like '5m'."),
        ({**GOOD, "window": "0m"}, "Alert QueueBacklog: window '0m' must be a whole number and s, m or h, like '5m'."),
        ({**GOOD, "window": 120}, "Alert QueueBacklog: window must be text."),
        ({**GOOD, "windw": "5m"}, "Alert QueueBacklog: 'windw' is not a key of a rule."),
        (dict[Any, Any]([*GOOD.items(), (7, "5m")]), "Alert QueueBacklog: 7 is not a key of a rule."),
        ({**GOOD, "runbook": None}, "Alert QueueBacklog: runbook must be text."),
        ({**GOOD, "runbook": "x"}, "Alert QueueBacklog: runbook 'x' must be an anchor like '#runbook-queue-backlog'."),
        ({**GOOD, "severity": "P9"}, "Alert QueueBacklog: severity 'P9' must be one of P1 P2 P3."),
        ({**GOOD, "action": "page"}, "Alert QueueBacklog: action 'page' must be one of auto-scale."),
        (
            {key: text for key, text in GOOD.items() if key != "condition"},
            "Alert QueueBacklog: condition is missing.",
        ),
        (
            {**GOOD, "condition": "queue.depth"},
            "Alert QueueBacklog: condition 'queue.depth' must compare with one of > >= < <= == !=.",
        ),
        (
            {**GOOD, "condition": "a.b => 1"},
            "Alert QueueBacklog: condition 'a.b => 1' must compare with one of > >= < <= == !=.",
        ),
        (
            {**GOOD, "condition": "a.b > 1 > 2"},
            "Alert QueueBacklog: condition 'a.b > 1 > 2' has '1 > 2' where a number must stand.",
        ),
        (
            {**GOOD, "condition": "a.b > nan"},
            "Alert QueueBacklog: condition 'a.b > nan' has 'nan' where a number must stand.",
        ),
        (
            {**GOOD, "condition": "a.b > 1e999"},
            "Alert QueueBacklog: condition 'a.b > 1e999' has '1e999' where a number must stand.",
        ),
        (
            {**GOOD, "condition": "a.b / c.d / e.f > 1"},
            "Alert QueueBacklog: condition 'a.b / c.d / e.f > 1' divides more than once.",
        ),
        (
            {**GOOD, "condition": "depth>1"},
            "Alert QueueBacklog: condition 'depth>1' has 'depth' where a metric's name like 'queue.depth' must stand.",
        ),
        (
            {**GOOD, "condition": "a.b / > 1"},
            "Alert QueueBacklog: condition 'a.b / > 1' has '' where a metric's name like 'queue.depth' must stand.",
        ),
        ("QueueBacklog", "Alert 1 of the list: must be a mapping."),
        ({**GOOD, "name": "queue backlog"}, "Alert 1 of the list: name must be letters and digits, a letter first."),
        ({"window": "5m"}, "Alert 1 of the list: name must be letters and digits, a letter first."),
    ],
)
def test_refused(entry: Any, sentence: str) -> None:
    """What is wrong is said in one sentence that names the alert and the spot."""
    with pytest.raises(ValueError, match=r".+") as caught:
        parse_rules({"alerts": [entry]})
    assert str(caught.value) == sentence


@pytest.mark.parametrize("data", [None, [], {}, {"alerts": {}}, {"alerts": None}, {"alerts": [], "groups": []}])
def test_refused_files(data: Any) -> None:
    """A file of another shape is refused as a whole."""
    with pytest.raises(ValueError, match="one key, 'alerts', that holds a list"):
        parse_rules(data)


def test_a_name_stands_once() -> None:
    """Two rules of one name would be one alert in Prometheus."""
    with pytest.raises(ValueError, match="Alert QueueBacklog: the name is used 2 times"):
        parse_rules({"alerts": [GOOD, GOOD]})


@pytest.mark.parametrize(
    ("condition", "readings", "value"),
    [
        ("a.b > 1", {"a.b": 3.0}, 3.0),
        ("a.b > 1", {"c.d": 3.0}, None),
        ("a.b > 1", {"a.b": float("nan")}, None),
        ("a.b / c.d > 1", {"a.b": 3.0, "c.d": 2.0}, 1.5),
        ("a.b / c.d > 1", {"a.b": 3.0}, None),
        ("a.b / c.d > 1", {"a.b": 3.0, "c.d": 0.0}, float("inf")),
        ("a.b / c.d > 1", {"a.b": 0.0, "c.d": 0.0}, None),
    ],
)
def test_values(condition: str, readings: dict[str, float], value: float | None) -> None:
    """An expression divides as Prometheus does; without a reading there is no value."""
    assert parsed(condition=condition).condition.value(readings) == value


@pytest.mark.parametrize(
    ("operator", "below", "equal", "above"),
    [
        (">", False, False, True),
        (">=", False, True, True),
        ("<", True, False, False),
        ("<=", True, True, False),
        ("==", False, True, False),
        ("!=", True, False, True),
    ],
)
def test_comparisons(operator: str, below: bool, equal: bool, above: bool) -> None:  # noqa: FBT001 - a table
    """Each operator on its threshold and on both sides of it; nothing is true of what is not known."""
    condition = parse_condition(f"a.b {operator} 2")
    assert [condition.holds(value) for value in (1.0, 2.0, 3.0)] == [below, equal, above]
    assert not condition.holds(None)
    assert not condition.holds(float("nan"))


@given(st.integers(1, 999_999))
def test_windows_of_any_length(window_s: int) -> None:
    """Seconds survive being written as a window."""
    assert parse_window_s(window_text(window_s)) == window_s


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive(number: float) -> None:
    """A number reads back as itself."""
    assert float(number_text(number)) == number
