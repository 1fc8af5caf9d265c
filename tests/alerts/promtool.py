"""Running promtool on cases: each is asked of ALERTS, the series in which Prometheus keeps what fires."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from alert_cases import Case

_FAILED = re.compile(r'# (?P<case>[^"]+)\\?", time:')
#: The scrape job of the cases' series. Rules keep jobs apart, so that a hundred cases are one run.
_JOB = 'job="rayhaul"'


def is_there() -> bool:
    return shutil.which("promtool") is not None


def check(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = ["promtool", "check", "rules", "--lint=all", "--lint-fatal", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def failing(cases: Sequence[Case], groups: Sequence[Any], directory: Path) -> set[str]:
    """Run each case as a cluster of its own, all at once; return those, by `case_text`, that came out otherwise."""
    jobs = [f'job="case{number}"' for number in range(len(cases))]
    series = {
        name.replace(_JOB, job): values
        for case, job in zip(cases, jobs, strict=True)
        for name, values in case.series.items()
    }
    asked = [_asked(case, f", {job}") for case, job in zip(cases, jobs, strict=True)]
    return _run([_test(series, asked)], groups, directory)


def failing_together(cases: Sequence[Case], groups: Sequence[Any], directory: Path) -> set[str]:
    """Run the cases on the series of all of them: for rules that are about a job of that name, or about none."""
    series = {name: values for case in cases for name, values in case.series.items()}
    return _run([_test(series, [_asked(case, "") for case in cases])], groups, directory)


def case_text(case: Case) -> str:
    return f"{case.alert}, {case.kind}"


def _run(tests: Sequence[Any], groups: Sequence[Any], directory: Path) -> set[str]:
    """Raises: AssertionError where promtool fails for another reason than a case."""
    rules, path = directory / "rules.yaml", directory / "tests.yaml"
    rules.write_text(yaml.safe_dump({"groups": list(groups)}))
    data = {
        "rule_files": [str(rules)],
        "evaluation_interval": "1m",
        # What is recorded first is read in the same minute.
        "group_eval_order": [group["name"] for group in groups],
        "tests": tests,
    }
    path.write_text(yaml.safe_dump(data))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=300)
    told = done.stdout + done.stderr
    found = set(_FAILED.findall(told))
    assert bool(found) == (done.returncode != 0), told
    return found


def _asked(case: Case, chosen: str) -> Any:
    firing = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing"{chosen}}}) or vector(0)'
    return {
        # The comment comes back in promtool's complaint.
        "expr": f"{firing} # {case_text(case)}",
        "eval_time": f"{round(case.at_min * 60)}s",
        "exp_samples": [{"labels": "{}", "value": case.firing}],
    }


def _test(series: Any, asked: Sequence[Any]) -> Any:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": list(asked),
    }
