"""Alert rules as they stand in dashboards/alerts.yaml: from loaded YAML to typed rules, and back to text.

    alerts     := a list of mappings: name, condition, window, severity, and where wanted runbook and action
    condition  := expression operator number            "queue.depth > 2000"
    expression := metric [ "/" metric ]                 "jobs.failed.rate / jobs.created.rate"
    metric     := words joined by dots                  "worker.capacity_pct"
    operator   := ">" | ">=" | "<" | "<=" | "==" | "!="
    window     := a whole number and s, m or h          "90s", "5m"

Laws of this file:
1. What is not understood is refused: a rule that is read half would be an alert that never fires.
2. Whoever reads the file does so elsewhere; here are values only.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_METRIC = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
_CONDITION = re.compile(r"(?P<expression>[^<>=!]*)(?P<operator>[<>=!]*)(?P<number>.*)")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]{1,3})?")
_WINDOW = re.compile(r"([1-9][0-9]{0,5})([smh])")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_RUNBOOK = re.compile(r"#[a-z0-9][a-z0-9-]*")

#: Large units first: the text of a window uses the largest that fits.
_UNITS_S = {"h": 3600, "m": 60, "s": 1}

_KEYS_NEEDED = ("name", "condition", "window", "severity")
_KEYS_MORE = ("runbook", "action")


class Operator(StrEnum):
    ABOVE = ">"
    AT_LEAST = ">="
    BELOW = "<"
    AT_MOST = "<="
    EQUAL = "=="
    UNEQUAL = "!="


class Severity(StrEnum):
    P1 = "P1"
    P2 = "P2"
    P3 = "P3"


class Action(StrEnum):
    #: The scheduler adds agents while the rule fires.
    AUTO_SCALE = "auto-scale"


_HOLDS: Mapping[Operator, Callable[[float, float], bool]] = {
    Operator.ABOVE: operator.gt,
    Operator.AT_LEAST: operator.ge,
    Operator.BELOW: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.EQUAL: operator.eq,
    Operator.UNEQUAL: operator.ne,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    metric: str
    #: The metric that the first one is divided by; None where it stands alone.
    divisor: str | None = None
    operator: Operator
    threshold: float

    def value(self, readings: Mapping[str, float]) -> float | None:
        """Return the expression's value; None where a reading is missing, is no number, or zero is divided by zero.

        As in Prometheus, more than nothing divided by nothing is infinite: failures without new jobs do count.
        """
        dividend, divisor = readings.get(self.metric), 1.0 if self.divisor is None else readings.get(self.divisor)
        if dividend is None or divisor is None:
            return None
        if divisor == 0:
            quotient = math.nan if dividend == 0 else math.copysign(math.inf, dividend)
        else:
            quotient = dividend / divisor
        return None if math.isnan(quotient) else quotient

    def holds(self, value: float | None) -> bool:
        """Say whether the condition is true of a value; of one that is not known nothing is true."""
        return value is not None and not math.isnan(value) and _HOLDS[self.operator](value, self.threshold)

    def __str__(self) -> str:
        expression = self.metric if self.divisor is None else f"{self.metric} / {self.divisor}"
        return f"{expression} {self.operator} {number_text(self.threshold)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRule:
    name: str
    condition: Comparison
    #: How long the condition must hold.
    window_s: int
    severity: Severity
    #: The anchor of a runbook, `#` included.
    runbook: str | None = None
    action: Action | None = None


def parse_rules(data: Any) -> tuple[AlertRule, ...]:
    """Return the rules of a loaded alerts file, in its order.

    Raises: ValueError, one sentence that names the alert and what in it is wrong.
    """
    if not isinstance(data, Mapping) or set(data) != {"alerts"} or not isinstance(data["alerts"], list):
        raise ValueError("The alerts file must be a mapping with one key, 'alerts', that holds a list.")
    rules = tuple(_rule(number, entry) for number, entry in enumerate(data["alerts"], start=1))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"Alert {name}: the name is used {names.count(name)} times.")
    return rules


def rule_data(rule: AlertRule) -> dict[str, str]:
    """Return the rule as it would stand in the file; `parse_rules` reads it back as the same rule."""
    fields = {
        "name": rule.name,
        "condition": str(rule.condition),
        "window": window_text(rule.window_s),
        "severity": str(rule.severity),
        "runbook": rule.runbook,
        "action": rule.action,
    }
    return {key: str(value) for key, value in fields.items() if value is not None}


def parse_condition(text: str) -> Comparison:
    """Return a condition.

    >>> str(parse_condition("jobs.failed.rate/jobs.created.rate>0.05"))
    'jobs.failed.rate / jobs.created.rate > 0.05'

    Raises: ValueError, half a sentence that says what is wrong.
    """
    found = _CONDITION.fullmatch(text)
    if found is None or found["operator"] not in tuple(Operator):
        raise ValueError(f"condition {text!r} must compare with one of {' '.join(Operator)}")
    metrics = [name.strip() for name in found["expression"].split("/")]
    if len(metrics) > 2:
        raise ValueError(f"condition {text!r} divides more than once")
    for metric in metrics:
        if not _METRIC.fullmatch(metric):
            raise ValueError(f"condition {text!r} has {metric!r} where a metric's name like 'queue.depth' must stand")
    number = found["number"].strip()
    if not _NUMBER.fullmatch(number) or not math.isfinite(float(number)):
        raise ValueError(f"condition {text!r} has {number!r} where a number must stand")
    return Comparison(
        metric=metrics[0],
        divisor=metrics[1] if len(metrics) == 2 else None,
        operator=Operator(found["operator"]),
        threshold=float(number),
    )


def parse_window_s(text: str) -> int:
    """Return a window in seconds.

    >>> parse_window_s("5m")
    300

    Raises: ValueError, half a sentence that says what is wrong.
    """
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(f"window {text!r} must be a whole number and s, m or h, like '5m'")
    return int(found[1]) * _UNITS_S[found[2]]


def window_text(window_s: int) -> str:
    """Return seconds as a window.

    >>> window_text(90), window_text(180)
    ('90s', '3m')
    """
    unit = next(unit for unit, seconds in _UNITS_S.items() if window_s % seconds == 0)
    return f"{window_s // _UNITS_S[unit]}{unit}"


def number_text(number: float) -> str:
    """Return the shortest text that reads back as the same number.

    >>> number_text(2000.0), number_text(0.05)
    ('2000', '0.05')
    """
    return repr(number).removesuffix(".0")


def _rule(number: int, entry: Any) -> AlertRule:
    if not isinstance(entry, Mapping):
        raise ValueError(f"Alert {number} of the list: must be a mapping.")  # noqa: TRY004 - one kind of error for a file that is wrong
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"Alert {number} of the list: name must be letters and digits, a letter first.")
    try:
        return _fields(name, _texts(entry))
    except ValueError as error:
        raise ValueError(f"Alert {name}: {error}.") from error


def _texts(entry: Mapping[Any, Any]) -> dict[str, str]:
    """Return the mapping, checked to have the right keys and texts only."""
    for key in _KEYS_NEEDED:
        if key not in entry:
            raise ValueError(f"{key} is missing")
    for key, text in entry.items():
        if key not in (*_KEYS_NEEDED, *_KEYS_MORE):
            raise ValueError(f"{key!r} is not a key of a rule")
        if not isinstance(text, str):
            raise ValueError(f"{key} must be text")  # noqa: TRY004 - as above
    return dict(entry)


def _fields(name: str, texts: Mapping[str, str]) -> AlertRule:
    severity, runbook, action = texts["severity"], texts.get("runbook"), texts.get("action")
    if severity not in tuple(Severity):
        raise ValueError(f"severity {severity!r} must be one of {' '.join(Severity)}")
    if runbook is not None and not _RUNBOOK.fullmatch(runbook):
        raise ValueError(f"runbook {runbook!r} must be an anchor like '#runbook-queue-backlog'")
    if action is not None and action not in tuple(Action):
        raise ValueError(f"action {action!r} must be one of {' '.join(Action)}")
    return AlertRule(
        name=name,
        condition=parse_condition(texts["condition"]),
        window_s=parse_window_s(texts["window"]),
        severity=Severity(severity),
        runbook=runbook,
        action=Action(action) if action is not None else None,
    )
