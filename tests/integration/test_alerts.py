"""Alerts from end to end: the scheduler reads, the API shows, the client and the command line tell."""

from collections.abc import Sequence
from pathlib import Path

from cli_call import called
from cli_process import bare_environ
from control_rig import rig_with
from plane import Site, listening, site_at

from rayhaul import AsyncClient
from rayhaul.alert_file import read_alerts
from rayhaul.metrics import ALERTS_FIRING
from rayhaul.policy.alerting import Alert, AlertState, beginning, evaluate

T0 = 1_800_000_000.0


def fired() -> Sequence[Alert]:
    """Return the seven, two of which have something to say."""
    alerts = beginning(read_alerts())
    for second in range(0, 125, 5):
        known = {"queue.depth": 2500.0 if second else 1.0, "jobs.failed.rate": 3.0, "jobs.created.rate": 0.0}
        alerts = evaluate(alerts, known, T0 + second)
    return alerts


def key(site: Site, user: str) -> str:
    return site.auth[user]["Authorization"].partition(" ")[2]


async def test_the_scheduler_reads_by_itself() -> None:
    """An agent falls silent: offline after a minute, told of after another, resolved when it is back. No Prometheus."""
    async with rig_with() as rig:
        rig.alert_rules = read_alerts()
        agent, _ = await rig.begin(2)

        async def state() -> AlertState:
            return {alert.rule.name: alert.state for alert in await rig.scheduler.alerts()}["WorkerOffline"]

        await rig.live(10)
        assert await state() is AlertState.INACTIVE
        agent.mute = True
        await rig.live(100)
        assert await state() is AlertState.PENDING
        await rig.live(35)
        assert await state() is AlertState.FIRING
        assert rig.meter.snapshot().gauges[ALERTS_FIRING.name, ("WorkerOffline",)] == 1
        agent.mute = False
        await rig.live(10)
        assert await state() is AlertState.INACTIVE
        assert rig.meter.snapshot().gauges[ALERTS_FIRING.name, ("WorkerOffline",)] == 0


async def test_the_api_shows_every_rule(tmp_path: Path) -> None:
    """Rules as the file has them, with state, value and page; what is infinite is no JSON number."""
    async with site_at(tmp_path) as site:
        site.plane.known_alerts = fired()
        answer = await site.http.get("/alerts", headers=site.auth["alice"])
        assert answer.status_code == 200
        shown = {alert["name"]: alert for alert in answer.json()["alerts"]}
        assert list(shown) == [rule.name for rule in read_alerts()]
        assert shown["QueueBacklog"] == {
            "name": "QueueBacklog",
            "condition": "queue.depth > 2000",
            "window": "2m",
            "severity": "P1",
            "runbook": "docs/runbooks/queue-backlog.md",
            "action": None,
            "state": "pending",
            "since": "2027-01-15T08:00:05.000Z",
            "value": 2500.0,
        }
        assert shown["HighJobFailureRate"]["state"] == "pending"
        assert shown["HighJobFailureRate"]["value"] is None
        assert shown["WorkerCapacityHigh"]["action"] == "auto-scale"
        assert shown["WorkerCapacityHigh"]["runbook"] == "docs/runbooks/worker-capacity-high.md"


async def test_client_and_command_line(tmp_path: Path) -> None:
    """Exit code 1 where one fires, and nothing about those that are quiet unless asked."""
    async with site_at(tmp_path) as site, listening(site.app) as url:
        environ = {**bare_environ(tmp_path), "RAYHAUL_URL": url, "RAYHAUL_API_KEY": key(site, "alice")}
        site.plane.known_alerts = beginning(read_alerts())
        quiet = await called(environ, "alerts")
        assert (quiet.code, quiet.stdout) == (0, "no alert fires\n")
        site.plane.known_alerts = evaluate(fired(), {"queue.depth": 2600.0}, T0 + 126)
        loud = await called(environ, "alerts")
        assert loud.code == 1
        assert loud.stdout.splitlines()[1].split()[:3] == ["QueueBacklog", "firing", "P1"]
        assert "WorkerOffline" not in loud.stdout
        assert "WorkerOffline" in (await called(environ, "alerts", "--all")).stdout
        async with AsyncClient(url, key(site, "alice")) as client:
            found = await client.alerts()
        assert [alert.name for alert in found.alerts if alert.state == "firing"] == ["QueueBacklog"]
