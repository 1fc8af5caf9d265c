"""What `rayhaul top` makes of the cluster at one moment."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from rayhaul.cli.overview import AGENTS_SHOWN, JOBS_SHOWN, Firing, Overview, advice, jsonable, render
from rayhaul.job import JobStatus, Priority
from rayhaul.wire import CapacityView, Destination, JobView, ProgressView, QueueReport, ScalingView

AT = datetime(2026, 2, 18, 12, tzinfo=UTC)
MIB = 1024 * 1024
IDLE = QueueReport(depth={"high": 0, "normal": 0, "low": 0}, oldest_age_seconds=0, paused=[], dlq_depth=0)
DEEP = QueueReport(depth={"high": 1, "normal": 20, "low": 300}, oldest_age_seconds=75, paused=["low"], dlq_depth=2)
FIRING = Firing(
    name="QueueBacklog", severity="P1", state="firing", condition="queue.depth > 2000", runbook="queue-backlog"
)


def agent(name: str, pct: float = 10, state: str = "online", *, unfit: str | None = None) -> CapacityView:
    return CapacityView(
        agent=name,
        state=state,
        capacity_pct=pct,
        slots=32,
        slots_used=round(pct * 0.32),
        bytes_per_second=pct * MIB,
        heartbeat_age_seconds=0.4,
        leases=3,
        unfit=unfit,
    )


def job(name: str, bytes_per_s: float, eta_s: float | None = None) -> JobView:
    return JobView(
        id=f"job_{name}",
        status=JobStatus.DOWNLOADING,
        url=f"https://files.example/{name}",
        filename=name,
        priority=Priority.NORMAL,
        tags={},
        destination=Destination(bucket="b", key=name),
        metadata=None,
        progress=ProgressView(
            bytes=MIB,
            bytes_total=4 * MIB,
            bytes_per_second=bytes_per_s,
            eta_seconds=eta_s,
            parts_done=0,
            parts_total=None,
        ),
        attempt=1,
        requeues=0,
        checksum=None,
        result=None,
        error=None,
        agents=["agent-1"],
        correlation_id="corr-1234",
        user_id="alice",
        created_at=AT - timedelta(minutes=5),
        started_at=AT,
        completed_at=None,
        next_attempt_at=None,
    )


def overview(**changes: object) -> Overview:
    fields = {"url": "http://rayhaul", "at": AT, "queue": IDLE, "running": [], "agents": [agent("agent-1")]}
    return Overview(**(fields | changes))  # type: ignore[arg-type]


def shown(seen: Overview, lines_max: int | None = None) -> list[str]:
    screen = Console(width=160, no_color=True, highlight=False, markup=False)
    with screen.capture() as captured:
        screen.print(render(seen, lines_max))
    return captured.get().splitlines()


def test_slowest_first() -> None:
    """Jobs that do not move come first, the one with the longest way to go before the others; ten at most."""
    jobs = [job("fast", 9e6, 1), job("stuck", 0, None), job("slow", 10, 50), job("slower", 10, 900)]
    assert [found.filename for found in overview(running=jobs).slowest()] == ["stuck", "slower", "slow", "fast"]
    assert len(overview(running=jobs * 5).slowest()) == JOBS_SHOWN


def test_throughput() -> None:
    """What agents say they move, but for those that are gone; for a user who sees no agents, their jobs' sum."""
    agents = [agent("a", 10), agent("b", 20), agent("c", 40, "offline")]
    jobs = [job("x", 100.0), job("y", 0)]
    assert overview(agents=agents, running=jobs).bytes_per_s == 30 * MIB
    assert overview(agents=None, running=jobs).bytes_per_s == 100


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["Nothing to do. Try: rayhaul get URL"]),
        ({"running": [job("x", 1.0)]}, []),
        ({"agents": []}, ["No agent is online"]),
        ({"agents": [agent("a", state="offline")], "queue": DEEP}, ["No agent is online", "Held back: low", "2 dead"]),
        (
            {"queue": IDLE.model_copy(update={"parked": "AccessDenied", "depth": {"normal": 3}})},
            ["No job is started: AccessDenied. Try: rayhaul storage-check"],
        ),
        ({"agents": None}, ["Nothing to do."]),
    ],
    ids=["idle", "busy", "no agents", "trouble", "parked", "user"],
)
def test_advice(changes: dict[str, object], expected: list[str]) -> None:
    """What to do next is said, most urgent first, and nothing where all is well."""
    told = advice(overview(**changes))
    assert len(told) == len(expected)
    assert all(text.startswith(start) for text, start in zip(told, expected, strict=True))


def test_all_of_it_is_shown() -> None:
    """Alerts, queue, agents with their load, and jobs; strangers' texts steer no terminal."""
    agents = [agent("agent-1", 95), agent("agent-2", 50), agent("agent-3", 0, "unfit", unfit="disk full\x1b[2J")]
    lines = shown(overview(queue=DEEP, agents=agents, running=[job("film.mov", 2 * MIB, 90)], alerts=[FIRING]))
    text = "\n".join(lines)
    assert "145.0 MiB/s  1 running, 321 waiting" in lines[0]
    assert re.search(r"^QueueBacklog +P1 +firing +queue.depth > 2000 +queue-backlog", text, re.MULTILINE)
    assert re.search(r"^low +300 +paused", text, re.MULTILINE)
    assert re.search(r"^oldest +1:15", text, re.MULTILINE)
    agents_lines = [line for line in lines if line.startswith("agent-")]
    assert [line.split()[0] for line in agents_lines] == ["agent-3", "agent-1", "agent-2"]
    assert re.search(r"█{19}· +95% +30/32 +95.0 MiB/s", agents_lines[1])
    assert re.search(r"^job_film.mov +downloading +2.0 MiB/s +1:30 +25% +agent-1 +film.mov", text, re.MULTILINE)
    assert "\x1b" not in text


def test_what_scaling_decided_is_shown() -> None:
    """Each decision with what it was made from; a user, who may not see them, sees none."""
    decision = ScalingView(
        ts=AT - timedelta(seconds=90),
        reason="scale_out",
        wanted=5,
        online=3,
        pending=1,
        draining=0,
        load_pct=93.4,
        jobs_waiting=61,
    )
    text = "\n".join(shown(overview(decisions=[decision])))
    assert re.search(r"^scale_out +5 +3 and 1 coming +93% +61 +1:30 ago", text, re.MULTILINE)
    assert "SCALING" not in "\n".join(shown(overview(decisions=None)))
    assert jsonable(overview(decisions=[decision]))["scaling"] == [decision]


def test_it_fits_the_terminal() -> None:
    """With fewer lines fewer agents and jobs are shown, and how many there are besides is told."""
    seen = overview(
        queue=DEEP,
        agents=[agent(f"agent-{number}", number) for number in range(40)],
        running=[job(str(number), number) for number in range(40)],
        is_cut=True,
    )
    assert "40+ running" in shown(seen)[0]
    assert f"and {40 - AGENTS_SHOWN} more" in "\n".join(shown(seen))
    for lines_max in (24, 30, 50):
        assert len(shown(seen, lines_max)) <= lines_max


def test_json() -> None:
    """The document has all that is shown; the wire's own values stay as they are."""
    told = jsonable(overview(queue=DEEP, running=[job("x", 1.0)], alerts=[FIRING]))
    assert told["bytesPerSecond"] == 10 * MIB
    assert told["queue"] == DEEP
    assert told["slowest"] == [job("x", 1.0)]
    assert told["alerts"][0]["name"] == "QueueBacklog"
    assert len(told["advice"]) == 2
    assert jsonable(overview(agents=None))["agents"] is None
