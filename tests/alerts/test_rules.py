"""Each alert fires when it must, and only then, as Prometheus evaluates what is generated."""

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from alert_cases import CASES, META, WATCHED, absence_cases
from burn_cases import OBJECTIVES, burn_cases, window_cases
from promtool import case_text, check, failing, failing_together, is_there

from dashboards.build import GENERATED, built

pytestmark = pytest.mark.skipif(not is_there(), reason="promtool is not here: apt-get install prometheus")

_NUMBER = re.compile(r"[<>]=? (?P<number>[0-9.]+)$")
_FACTOR = re.compile(r"\((?P<factor>[0-9.]+) \* ")


def groups_of(name: str) -> list[Any]:
    groups: list[Any] = yaml.safe_load(built()[name])["groups"]
    return groups


def alerting() -> list[Any]:
    return groups_of("recording.rules.yaml") + groups_of("alerts.rules.yaml")


def changed(groups: Sequence[Any], change: Callable[[str], str]) -> list[Any]:
    """Return groups with the expression of each alert changed."""
    return [
        {**group, "rules": [{**r, "expr": change(r["expr"])} if "alert" in r else r for r in group["rules"]]}
        for group in groups
    ]


def times(by: float) -> Callable[[str], str]:
    def change(text: str) -> str:
        number = float(found["number"]) if (found := _NUMBER.search(text)) else 0.0
        # A threshold of 0 has no half.
        wrong = number * by if number else 4 * (by - 1)
        return _NUMBER.sub(lambda f: f[0].replace(f["number"], f"{wrong:g}"), text)

    return change


def test_promtool_likes_them() -> None:
    """Syntax, and no rule twice."""
    done = check(*sorted(GENERATED.glob("*.rules.yaml")))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_start_configuration_is_valid() -> None:
    """prometheus.yml is understood as far as it can be without its key file."""
    path = GENERATED.parent / "prometheus.yml"
    command = ["promtool", "check", "config", "--syntax-only", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_cases() -> None:
    """One that fires, one at the boundary, one that is silent; the watchdog knows only the first."""
    alerts = {r["alert"] for group in groups_of("alerts.rules.yaml") for r in group["rules"]} - {"IndicatorAbsent"}
    for alert in alerts:
        kinds = {case.kind for case in (*CASES, *META) if case.alert == alert}
        assert kinds >= ({"firing"} if alert == "Watchdog" else {"firing", "boundary", "silent"}), alert


def test_alerts_fire_and_are_silent(tmp_path: Path) -> None:
    """Every case comes out as it says."""
    assert failing(CASES, alerting(), tmp_path) == set()
    assert failing_together(META, alerting(), tmp_path) == set()


@pytest.mark.parametrize("by", [0.5, 1.5])
def test_a_wrong_threshold_is_found(tmp_path: Path, by: float) -> None:
    """With each threshold half as high or half as high again, each alert's own cases complain."""
    wrong = changed(alerting(), times(by))
    found = {text.split(",")[0] for text in failing(CASES, wrong, tmp_path)}
    assert found == {case.alert for case in CASES}


def test_the_blind_say_so(tmp_path: Path) -> None:
    """Each metric that is watched is missed when it is gone, and not before."""
    absent = [rule for group in groups_of("alerts.rules.yaml") for rule in group["rules"] if "absent(" in rule["expr"]]
    named = [{**rule, "alert": f"{rule['alert']}_{rule['labels']['metric']}"} for rule in absent]
    assert {rule["labels"]["metric"] for rule in absent} == set(WATCHED)
    assert failing_together(absence_cases(), [{"name": "absent", "rules": named}], tmp_path) == set()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_budgets_burn(tmp_path: Path, objective: str) -> None:
    """Each pair of windows fires just above its share of bad events, and not just under it."""
    groups = [group for group in groups_of("slos.rules.yaml") if group["name"].endswith(f"-{objective}")]
    cases = burn_cases(objective)
    assert {case.alert for case in cases} == {r["alert"] for r in groups[0]["rules"] if "alert" in r}
    assert failing(cases, groups, tmp_path) == set()


def test_a_wrong_burn_rate_is_found(tmp_path: Path) -> None:
    """With factors a tenth lower or higher the cases complain."""
    groups = [group for group in groups_of("slos.rules.yaml") if group["name"].endswith("-JobSuccess")]
    cases = [case for case in burn_cases("JobSuccess") if case.at_min < 20]
    for by in (0.9, 1.1):
        wrong = changed(groups, lambda text, by=by: _FACTOR.sub(lambda f: f"({float(f[1]) * by:g} * ", text))  # type: ignore[misc]
        found = {text.split(",")[0] for text in failing(cases, wrong, tmp_path)}
        assert found == {case.alert for case in cases}


def test_two_windows_are_better_than_one(tmp_path: Path) -> None:
    """A burst that passes is not paged, nor one that is over, nor three failures of three."""
    groups = [group for group in groups_of("slos.rules.yaml") if group["name"].endswith("-ApiAvailability")]
    assert failing(window_cases(), groups, tmp_path) == set()


def test_what_a_page_says(tmp_path: Path) -> None:
    """Labels and annotations as whoever is woken reads them."""
    rules, tests = tmp_path / "rules.yaml", tmp_path / "tests.yaml"
    rules.write_text(yaml.safe_dump({"groups": alerting()}))
    expected = {
        "exp_labels": {"severity": "P1", "job": "rayhaul"},
        "exp_annotations": {
            "summary": "queue.depth > 2000 for 2m; it is 2.5k.",
            "description": "Jobs waiting for an agent.",
            "runbook_url": "docs/runbooks/queue-backlog.md",
        },
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": 'rayhaul_queue_depth{job="rayhaul",priority="low"}', "values": "2500x9"}],
        "alert_rule_test": [{"eval_time": "5m", "alertname": "QueueBacklog", "exp_alerts": [expected]}],
    }
    tests.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run(["promtool", "test", "rules", str(tests)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_case_texts_tell_cases_apart() -> None:
    """A complaint names one case."""
    texts = [case_text(case) for case in (*CASES, *(c for name in OBJECTIVES for c in burn_cases(name)))]
    assert len(set(texts)) == len(texts)
