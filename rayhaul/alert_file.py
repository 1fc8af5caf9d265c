"""Reading the alert file: the one that is installed with the dashboards, or another one of the same grammar."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml

from rayhaul.errors import ServiceError
from rayhaul.policy.alert_rules import AlertRule, parse_rules
from rayhaul.policy.scaling import auto_scale_rule


def read_alerts(path: Path | None = None) -> Sequence[AlertRule]:
    """Return the alerts of a file. Raises: ServiceError, in a sentence that says what is wrong where."""
    source = files("dashboards").joinpath("alerts.yaml") if path is None else path
    try:
        text = source.read_text(encoding="utf-8")
        return parse_rules(yaml.safe_load(text))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ServiceError(f"the alert file {path or 'dashboards/alerts.yaml'} can not be used: {error}") from error


def read_scaling_rule(path: Path | None = None) -> AlertRule:
    """Return the rule to scale by. Raises: ServiceError."""
    try:
        return auto_scale_rule(read_alerts(path))
    except ValueError as error:
        raise ServiceError(f"the alert file {path or 'dashboards/alerts.yaml'} can not be used: {error}") from error
