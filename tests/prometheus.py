"""A real Prometheus for tests: scrapes a service every two seconds, with the committed recording rules."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards.build import GENERATED

BINARY = shutil.which("prometheus")
WHY_NOT = "no `prometheus` on this machine; Debian's package of that name has it"
#: The job in Prometheus, which Grafana would put in the place of its variable.
JOB = "rayhaul"
_UP_TIMEOUT_S = 180


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str
    #: The window of rates, which Grafana would choose by the step.
    window: str

    def query(self, expr: str) -> Sequence[Any]:
        """Return the series that an expression has now: each with `metric` and `value` (time, text)."""
        return self._ask("query", query=self._filled(expr))

    def range(self, expr: str, *, start_s: float, end_s: float, step_s: float) -> Sequence[Any]:
        """Return the series between two times: each with `metric` and `values`."""
        return self._ask("query_range", query=self._filled(expr), start=str(start_s), end=str(end_s), step=str(step_s))

    def _filled(self, expr: str) -> str:
        return expr.replace("$__rate_interval", self.window).replace("$job", JOB)

    def _ask(self, verb: str, **parameters: str) -> Sequence[Any]:
        body = urllib.parse.urlencode(parameters).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/{verb}", body, timeout=30) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        series: Sequence[Any] = answer["data"]["result"]
        return series


@contextmanager
def running_prometheus(directory: Path, *, target: str, key: str, window: str = "5m") -> Iterator[Prometheus]:
    """Yield a Prometheus that scrapes `target` (host:port) with an API key."""
    assert BINARY is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    directory.mkdir(parents=True, exist_ok=True)
    rules = [str(path) for path in sorted(GENERATED.glob("*.rules.yaml"))]
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": rules,
        "scrape_configs": [
            {
                "job_name": JOB,
                "authorization": {"credentials": key},
                "static_configs": [{"targets": [target]}],
            }
        ],
    }
    # JSON is YAML.
    (directory / "prometheus.yml").write_text(json.dumps(config))
    command = [BINARY, f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}", window)
        _await_up(prometheus, process, directory / "log")
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def _await_up(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _UP_TIMEOUT_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()
        try:
            if prometheus.query("up == 1"):
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"Prometheus scrapes nothing: {log.read_text()}")
