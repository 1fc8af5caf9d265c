"""Alert rules as they stand in dashboards/alerts.yaml, evaluated on a cluster's /metrics while it is hurt."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import yaml
from drill_cluster import Patient, readings

import dashboards
from rayhaul.policy.alert_rules import AlertRule, parse_rules
from rayhaul.policy.windows import Window, is_firing, observe

#: What Prometheus does every 15 s is done here more often, as the windows are shorter.
_SCRAPE_S = 0.5
#: A drill has no minutes: a window of 1 min is 2 s here, and so on.
WINDOW_SCALE = 1 / 30

#: Names of the rules' metrics -> how they are read from /metrics.
_READ: Mapping[str, Callable[[Mapping[str, float]], float | None]] = {
    "queue.depth": lambda seen: seen.get("rayhaul_queue_depth"),
    "queue.dlq.depth": lambda seen: seen.get("rayhaul_queue_dlq_depth"),
    "worker.offline_count": lambda seen: seen.get("rayhaul_worker_offline_count"),
    "worker.capacity_pct": lambda seen: seen.get("rayhaul_worker_capacity_pct_avg"),
}


def rule(name: str) -> AlertRule:
    """Return a rule of the alerts file with its window scaled down."""
    text = (Path(dashboards.__path__[0]) / "alerts.yaml").read_text()
    found = {rule.name: rule for rule in parse_rules(yaml.safe_load(text))}[name]
    return replace(found, window_s=max(1, round(found.window_s * WINDOW_SCALE)))


class AlertWatch:
    """Scrapes and evaluates one rule in a thread of its own."""

    def __init__(self, patient: Patient, name: str) -> None:
        self._patient = patient
        self._rule = rule(name)
        self._window = Window(condition=self._rule.condition, window_s=self._rule.window_s, gap_s_max=20 * _SCRAPE_S)
        self._firing = threading.Event()
        self._resolved = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{name}")
        #: The highest value seen.
        self.highest = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def await_firing(self, *, within_s: float) -> None:
        assert self._firing.wait(within_s), f"{self._rule.name} did not fire within {within_s} s ({self.highest=})"

    def await_resolved(self, *, within_s: float) -> None:
        assert self._resolved.wait(within_s), f"{self._rule.name} was not resolved within {within_s} s"

    def _run(self) -> None:
        while not self._stop.wait(_SCRAPE_S):
            try:
                with self._patient.http(5) as http:
                    answer = http.get("/metrics")
            except httpx.HTTPError:
                continue
            if answer.status_code != 200:
                continue
            seen = readings(answer.text)
            condition = self._rule.condition
            named = {name: value for name, read in _READ.items() if (value := read(seen)) is not None}
            value = condition.value(named)
            self.highest = max(self.highest, value or 0.0)
            now_s = time.monotonic()
            self._window = observe(self._window, value, now_s)
            if is_firing(self._window, now_s):
                self._firing.set()
                self._resolved.clear()
            elif self._firing.is_set() and value is not None and not condition.holds(value):
                self._resolved.set()
