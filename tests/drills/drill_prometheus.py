"""A real Prometheus and a real Alertmanager (Debian's) that watch a cluster with the configuration we ship.

Laws of this file:
1. The rules are those that the builder makes of the alert files; the one thing changed is time: each duration is
   divided by TIME_SCALE, and scrapes are more often.
2. What fires and what is resolved is asked of Alertmanager, and told by it to a receiver of ours.
"""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from drill_cluster import Patient
from embedded import eventually, free_port

import dashboards
from dashboards.rules import Runbooks, alert_groups, objective_groups, recording_groups
from rayhaul.alert_file import read_alerts, read_more_alerts, read_objectives
from rayhaul.policy.alert_rules import AlertRule, rule_data

#: A drill has no five minutes: they are 15 s here.
TIME_SCALE = 20
#: Not divided by as much: a scrape has to be answered within its interval, by a machine that has its hands full.
_SCRAPE = {"scrape_interval": "2s", "evaluation_interval": "1s"}
_SHIPPED = Path(dashboards.__path__[0])
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?P<number>\d+)(?P<unit>[smhd])")


def scaled(duration: str) -> str:
    """Return a duration divided by TIME_SCALE, in whole milliseconds."""
    found = _DURATION.fullmatch(duration)
    assert found is not None, duration
    return f"{max(1, round(int(found['number']) * _UNITS_S[found['unit']] * 1000 / TIME_SCALE))}ms"


def scaled_rules() -> Sequence[AlertRule]:
    """Return the seven with their windows scaled, in whole seconds as the grammar has them."""
    return [replace(rule, window_s=max(1, round(rule.window_s / TIME_SCALE))) for rule in read_alerts()]


def write_alerts(path: Path) -> None:
    """Write the scaled alert file, for the scheduler to scale by."""
    path.write_text(yaml.safe_dump({"alerts": [rule_data(rule) for rule in scaled_rules()]}))


def rule_files() -> Mapping[str, Any]:
    """Return what the builder makes: file name -> groups, scaled. The names of records keep their windows."""
    pages = Runbooks()
    built = {
        "recording": recording_groups(),
        "alerts": alert_groups(read_alerts(), read_more_alerts(), pages),
        "slos": objective_groups(read_objectives(), pages),
    }
    return {f"{name}.rules.yaml": {"groups": [_scaled_group(group) for group in of]} for name, of in built.items()}


def _scaled_group(group: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**group, "rules": [_scaled(rule) for rule in group["rules"]]}


def _scaled(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    ranges = re.sub(r"\[(\w+)\]", lambda found: f"[{scaled(found[1])}]", rule["expr"])
    return {**rule, "expr": ranges, **({"for": scaled(rule["for"])} if "for" in rule else {})}


@dataclass(frozen=True, slots=True)
class Notified:
    """A message of Alertmanager to its receiver."""

    alert: str
    status: str
    receiver: str


class Receiver:
    """Stands where pagers and ticket systems do: takes what Alertmanager posts."""

    def __init__(self) -> None:
        self.notified: list[Notified] = []
        notified = self.notified

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for alert in told["alerts"]:
                    notified.append(Notified(alert["labels"]["alertname"], alert["status"], told["receiver"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Monitoring:
    def __init__(self, prometheus_url: str, alertmanager_url: str, receiver: Receiver) -> None:
        self._prometheus = httpx.Client(base_url=prometheus_url, timeout=10)
        self._alertmanager = httpx.Client(base_url=alertmanager_url, timeout=10)
        self.receiver = receiver

    def close(self) -> None:
        self._prometheus.close()
        self._alertmanager.close()

    def is_ready(self) -> bool:
        try:
            answers = [self._prometheus.get("/-/ready"), self._alertmanager.get("/-/ready")]
        except httpx.HTTPError:
            return False
        return all(answer.status_code == 200 for answer in answers)

    def query(self, expression: str) -> list[Any]:
        """Return what an expression gives now: a list of series."""
        answer = self._prometheus.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json()["data"]["result"]
        return found

    def rules(self) -> list[Any]:
        groups = self._prometheus.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def fires(self, alert: str) -> bool:
        """Whether Alertmanager holds the alert as active now."""
        answer = self._alertmanager.get("/api/v2/alerts", params={"filter": f'alertname="{alert}"'})
        assert answer.status_code == 200, answer.text
        return bool(answer.json())

    def await_firing(self, alert: str, *, within_s: float) -> None:
        eventually(lambda: self.fires(alert), within_s=within_s, what=f"{alert} fires at Alertmanager")

    def await_resolved(self, alert: str, *, within_s: float) -> None:
        eventually(lambda: not self.fires(alert), within_s=within_s, what=f"{alert} is resolved at Alertmanager")

    def await_told(self, alert: str, status: str, *, within_s: float) -> Notified:
        """Return the message about the alert that the receiver got."""

        def found() -> Notified | None:
            matching = (told for told in self.receiver.notified if (told.alert, told.status) == (alert, status))
            return next(matching, None)

        eventually(
            lambda: found() is not None, within_s=within_s, what=f"the receiver is told that {alert} is {status}"
        )
        told = found()
        assert told is not None
        return told


def _prometheus_config(patient: Patient, directory: Path, alertmanager_port: int) -> Any:
    """Return the shipped configuration with our addresses, and its times scaled."""
    config = yaml.safe_load((_SHIPPED / "prometheus.yml").read_text())
    config["global"] = _SCRAPE
    config["rule_files"] = [str(directory / "*.rules.yaml")]
    config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]
    (cluster,) = (job for job in config["scrape_configs"] if job["job_name"] == "rayhaul")
    key_path = directory / "api-key"
    key_path.write_text(patient.cluster.key)
    cluster["authorization"]["credentials_file"] = str(key_path)
    cluster["static_configs"] = [{"targets": [patient.cluster.url.removeprefix("http://")]}]
    config["scrape_configs"] = [cluster]
    return config


def _alertmanager_config(receiver: Receiver) -> Any:
    config = yaml.safe_load((_SHIPPED / "alertmanager.yml").read_text())

    config["route"] = _hurried(config["route"])
    for each in config["receivers"]:
        for webhook in each["webhook_configs"]:
            webhook["url"] = f"{receiver.url}/{each['name']}"
            webhook["send_resolved"] = True
    return config


def _hurried(route: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a route, and those below it, with its times scaled."""
    times = {name: scaled(value) for name, value in route.items() if _DURATION.fullmatch(str(value))}
    below = [_hurried(more) for more in route.get("routes", ())]
    return {**route, **times, **({"routes": below} if below else {})}


@contextmanager
def watching(patient: Patient, directory: Path) -> Iterator[Monitoring]:
    """Yield Prometheus and Alertmanager that watch a cluster; skip the drill where they are not installed."""
    programs = [shutil.which(name) for name in ("prometheus", "prometheus-alertmanager")]
    if None in programs:
        pytest.skip("needs Debian's prometheus and prometheus-alertmanager: apt-get install them")
    receiver = Receiver()
    prometheus_port, alertmanager_port = free_port(), free_port()
    (directory / "prometheus.yml").write_text(yaml.safe_dump(_prometheus_config(patient, directory, alertmanager_port)))
    (directory / "alertmanager.yml").write_text(yaml.safe_dump(_alertmanager_config(receiver)))
    for name, groups in rule_files().items():
        (directory / name).write_text(yaml.safe_dump(groups, sort_keys=False))
    commands = [
        [
            str(programs[0]),
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{prometheus_port}",
            # Alerts are sent again this often, times four they live at Alertmanager when nobody does.
            "--rules.alert.resend-delay=3s",
        ],
        [
            str(programs[1]),
            f"--config.file={directory / 'alertmanager.yml'}",
            f"--storage.path={directory / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{alertmanager_port}",
            "--cluster.listen-address=",
        ],
    ]
    started: list[subprocess.Popen[bytes]] = []
    logs = [directory / f"{Path(command[0]).name}.log" for command in commands]
    monitoring = Monitoring(f"http://127.0.0.1:{prometheus_port}", f"http://127.0.0.1:{alertmanager_port}", receiver)
    try:
        for command, path in zip(commands, logs, strict=True):
            with path.open("wb") as log:
                started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

        def is_up() -> bool:
            for process, path in zip(started, logs, strict=True):
                assert process.poll() is None, path.read_text()
            return monitoring.is_ready()

        eventually(is_up, within_s=60, what="Prometheus and Alertmanager are ready")
        yield monitoring
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(20)
        monitoring.close()
        receiver.close()
