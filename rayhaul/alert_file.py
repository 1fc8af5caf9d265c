"""Reading the files of alerts and objectives: those installed with the dashboards, or others of the same grammar."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rayhaul.errors import ServiceError
from rayhaul.policy.alert_rules import AlertRule, parse_rules
from rayhaul.policy.indicators import check_known
from rayhaul.policy.objectives import Objective, parse_objectives
from rayhaul.policy.scaling import auto_scale_rule
from rayhaul.settings import Settings

T = TypeVar("T")

#: LibYAML's, where PyYAML was built with it, takes a tenth of the time.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_alerts(path: Path | None = None) -> Sequence[AlertRule]:
    """Return the alerts of a file. Raises: ServiceError, in a sentence that says what is wrong where."""
    return _read("alerts.yaml", parse_rules, path)


def read_more_alerts() -> Sequence[AlertRule]:
    """Return the alerts beside the specification's. Raises: ServiceError."""
    return _read("alerts-more.yaml", parse_rules)


def read_rules(settings: Settings) -> Sequence[AlertRule]:
    """Return the rules to evaluate: those of the alert file and those beside it, without the ones switched off.

    Raises: ServiceError.
    """
    rules = (*read_alerts(settings.scaling.rules_path), *read_more_alerts())
    kept = {rule.name: rule for rule in rules if rule.name not in settings.alerts.disabled}
    try:
        check_known(kept.values())
    except ValueError as error:
        raise ServiceError(f"the alert files can not be used: {error}") from error
    return list(kept.values())


def read_objectives() -> Sequence[Objective]:
    """Return the service-level objectives. Raises: ServiceError."""
    return _read("slos.yaml", parse_objectives)


@dataclass(frozen=True, slots=True)
class Definitions:
    """What a scheduler watches for."""

    scaling_rule: AlertRule
    alert_rules: Sequence[AlertRule]
    objectives: Sequence[Objective]


def read_definitions(settings: Settings) -> Definitions:
    """Raises: ServiceError where the files can not be used, or have no rule to scale by."""
    return Definitions(
        scaling_rule=read_scaling_rule(settings.scaling.rules_path),
        alert_rules=read_rules(settings),
        objectives=read_objectives(),
    )


def read_scaling_rule(path: Path | None = None) -> AlertRule:
    """Return the rule to scale by. Raises: ServiceError."""
    try:
        return auto_scale_rule(read_alerts(path))
    except ValueError as error:
        raise ServiceError(f"the alert file {path or 'dashboards/alerts.yaml'} can not be used: {error}") from error


def _read(name: str, parse: Callable[[Any], T], path: Path | None = None) -> T:
    source = files("dashboards").joinpath(name) if path is None else path
    try:
        return parse(yaml.load(source.read_text(encoding="utf-8"), _YAML))  # noqa: S506 - both are safe
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ServiceError(f"the alert file {path or f'dashboards/{name}'} can not be used: {error}") from error
