"""The alerts as Grafana's own alert rules, for those who have Grafana wake people instead of Alertmanager.

An alert of Prometheus fires for each series that its expression returns. A rule of Grafana's fires where its last step
is above 0, so two steps follow the query: is there a value at all (math), and is that above 0 (threshold).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dashboards.rules import Group, Rule, Runbooks, alert_groups, objective_groups
from rayhaul.alert_file import read_alerts, read_more_alerts, read_objectives

#: Of everything that is ours in a Grafana.
PREFIX = "rayhaul-"
_UID_MAX = 40
_EXPRESSIONS = "__expr__"
#: What a query looks back on; an instant query needs little.
_LOOK_BACK_S = 600


def grafana_rules(
    *, folder_uid: str, datasource_uid: str, pages: Runbooks | None = None
) -> Sequence[Mapping[str, Any]]:
    """Return all alerts (ProvisionedAlertRule of Grafana's provisioning API). They read what Prometheus records.

    Raises: ServiceError where an alert file can not be used.
    """
    pages = pages or Runbooks()
    groups = [*alert_groups(read_alerts(), read_more_alerts(), pages), *objective_groups(read_objectives(), pages)]
    found = [_rule(group, rule, folder_uid, datasource_uid) for group, rule in _alerts(groups)]
    assert len({rule["uid"] for rule in found}) == len(found)
    return found


def _alerts(groups: Iterable[Group]) -> Iterable[tuple[Group, Rule]]:
    return ((group, rule) for group in groups for rule in group["rules"] if "alert" in rule)


def _rule(group: Group, rule: Rule, folder_uid: str, datasource_uid: str) -> Mapping[str, Any]:
    # Several alerts of one name differ by what they are about.
    about = rule["labels"].get("metric")
    title = rule["alert"] if about is None else f"{rule['alert']} {about}"
    return {
        "uid": _uid(title),
        "orgID": 1,
        "folderUID": folder_uid,
        "ruleGroup": group["name"],
        "title": title,
        "condition": "C",
        "data": [
            _query("A", datasource_uid, {"expr": rule["expr"], "instant": True, "range": False}),
            _query("B", _EXPRESSIONS, {"type": "math", "expression": "is_number($A) || is_nan($A) || is_inf($A)"}),
            _query("C", _EXPRESSIONS, {"type": "threshold", "expression": "B", "conditions": [_ABOVE_ZERO]}),
        ],
        # Nothing returned is how an alert of Prometheus says that all is well.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.get("for", "0s"),
        "labels": rule["labels"],
        "annotations": {name: _template(text) for name, text in rule["annotations"].items()},
        "isPaused": False,
    }


_ABOVE_ZERO = {"evaluator": {"type": "gt", "params": [0]}}


def _query(ref_id: str, datasource_uid: str, model: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        "refId": ref_id,
        "queryType": "",
        "relativeTimeRange": {"from": _LOOK_BACK_S, "to": 0},
        "datasourceUid": datasource_uid,
        "model": {"refId": ref_id, **model},
    }


def _template(text: str) -> str:
    """Return a text with what Prometheus fills in as Grafana has it: there `$value` is a text of all steps."""
    return text.replace("$value", "$values.A.Value")


def _uid(title: str) -> str:
    """Return the same uid for the same title: readable, and of what Grafana takes."""
    plain = PREFIX + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    if len(plain) <= _UID_MAX:
        return plain
    digest = hashlib.sha256(title.encode()).hexdigest()[:8]
    return f"{plain[: _UID_MAX - 9]}-{digest}"
