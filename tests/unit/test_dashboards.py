"""What is generated is what was committed, and says what the files say."""

from pathlib import Path

import pytest
import yaml

from dashboards.build import GENERATED, built
from dashboards.metrics_doc import metrics_doc
from dashboards.rules import Runbooks, alert_groups
from rayhaul.alert_file import read_alerts, read_more_alerts, read_objectives
from rayhaul.metrics import CATALOGUE
from rayhaul.policy.alert_rules import AlertRule, parse_rules
from rayhaul.policy.indicators import INDICATORS, check_known
from rayhaul.policy.runbooks import PAGES

ROOT = Path(__file__).parents[2]
GOOD = {"name": "Mine", "condition": "queue.depth > 1", "window": "1m", "severity": "P3"}


def rules_of(name: str) -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(built()[name])["groups"] for rule in group["rules"]]


def mine(**changes: str) -> tuple[AlertRule, ...]:
    return parse_rules({"alerts": [{**GOOD, **changes}]})


def test_generated_files_are_committed() -> None:
    """`make dashboards` would change nothing."""
    files = {path.name: path.read_text() for path in GENERATED.glob("*.rules.yaml")}
    assert files == built()


def test_the_metrics_document_is_committed() -> None:
    """`make docs` would change nothing."""
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_doc()


def test_every_alert_is_complete() -> None:
    """A severity, a summary, and a runbook page that there is."""
    alerts = [rule for name in built() for rule in rules_of(name) if "alert" in rule]
    for alert in alerts:
        labels, notes = alert["labels"], alert["annotations"]
        assert isinstance(labels, dict)
        assert isinstance(notes, dict)
        assert labels["severity"] in {"P1", "P2", "P3", "none"}
        assert notes["summary"].endswith(".")
        assert notes["runbook_url"] in {f"docs/runbooks/{page}.md" for page in PAGES}


@pytest.mark.parametrize(
    ("name", "expression", "held", "severity"),
    [
        (
            "HighJobFailureRate",
            "job:rayhaul_jobs_failed:per_minute5m / job:rayhaul_jobs_created:per_minute5m > 0.05",
            "5m",
            "P2",
        ),
        ("QueueBacklog", "job:rayhaul_queue_depth:sum > 2000", "2m", "P1"),
        ("WorkerOffline", "job:rayhaul_worker_offline_count:sum > 0", "1m", "P1"),
        ("DLQNonEmpty", "job:rayhaul_queue_dlq_depth:sum > 0", "1m", "P2"),
        ("R2UploadErrors", "job:rayhaul_r2_upload_error:ratio_rate5m > 0.01", "5m", "P2"),
        ("APIHighLatency", "job:rayhaul_api_p95_latency_ms:rate5m > 1000", "5m", "P3"),
        ("WorkerCapacityHigh", "job:rayhaul_worker_capacity_pct:sum > 90", "3m", "P3"),
    ],
)
def test_the_seven_are_there_as_written(name: str, expression: str, held: str, severity: str) -> None:
    """Each with its threshold, window and severity, over what is recorded under the specification's names."""
    (rule,) = (rule for rule in rules_of("alerts.rules.yaml") if rule["alert"] == name)
    labels = rule["labels"]
    assert isinstance(labels, dict)
    assert (rule["expr"], rule["for"], labels["severity"]) == (expression, held, severity)
    assert labels.get("action") == ("auto-scale" if name == "WorkerCapacityHigh" else None)


def test_each_objective_has_four_burn_alerts() -> None:
    """Two pages and two tickets."""
    names = [str(rule["alert"]) for rule in rules_of("slos.rules.yaml") if "alert" in rule]
    objectives = [objective.name for objective in read_objectives()]
    assert names == [f"{name}BudgetBurn{window}" for name in objectives for window in ("1h", "6h", "1d", "3d")]


def test_each_seed_name_is_an_indicator() -> None:
    """Every metric that the specification names is recorded under that name, or under its quantiles' names."""
    for metric in CATALOGUE.values():
        for name in filter(None, metric.seed.split(", ")):
            assert name in INDICATORS or f"{name}_p95" in INDICATORS, name


def test_records_are_named_once() -> None:
    """Two indicators under one name would be one series with two meanings."""
    records = [indicator.record for indicator in INDICATORS.values()]
    assert len(set(records)) == len(records)


def test_what_is_disabled_is_left_out() -> None:
    """One setting switches a rule off."""
    assert "WorkerOffline" in built()["alerts.rules.yaml"]
    assert "WorkerOffline" not in built(disabled=("WorkerOffline",))["alerts.rules.yaml"]


def test_runbooks_may_be_elsewhere() -> None:
    """Links lead to where the pages are published."""
    text = built(pages=Runbooks("https://runbooks.example/"))["alerts.rules.yaml"]
    assert "runbook_url: https://runbooks.example/queue-backlog.md" in text


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"condition": "queue.dept > 1", "runbook": "#runbook-stalled-job"}, "no indicator 'queue.dept'"),
        ({"condition": "jobs.failed.rate / jobs.made > 1"}, r"no indicator 'jobs\.made'"),
        ({"condition": "api.error_rate_5xx / jobs.created.rate > 1"}, "different labels"),
        ({"runbook": "#runbook-of-mine"}, "no runbook page for #runbook-of-mine"),
        ({}, "no runbook page for it"),
    ],
)
def test_rules_about_nothing_are_refused(changes: dict[str, str], wrong: str) -> None:
    """A rule that nobody could evaluate, or that leads nowhere, is no rule."""
    with pytest.raises(ValueError, match=wrong):
        alert_groups(mine(**changes), (), Runbooks())


def test_all_shipped_rules_are_known() -> None:
    """The scheduler can evaluate every one."""
    check_known([*read_alerts(), *read_more_alerts()])
