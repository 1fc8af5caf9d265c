"""Reading log lines of ours and of Ray's, and choosing among them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from log_watch import valid

from rayhaul.log_lines import Line, Part, Wanted, part_of, read_lines

PART = Part(service="agent", handler="ray/raylet")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray writes the machine's time: here it is two hours ahead."""
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def read(*texts: str) -> list[Line]:
    found = list(read_lines(texts, PART))
    for line in found:
        valid(line)
    return found


@pytest.mark.parametrize(
    ("text", "level", "said"),
    [
        (
            '{"asctime":"2026-11-26 20:14:28,449","levelname":"W","message":"slow","component":"raylet","node":"n1"}',
            "warn",
            "slow node=n1",
        ),
        (
            '{"asctime": "2026-11-26 20:14:28,449", "levelname": "ERROR", "message": "no", "exc_text": "E"}',
            "error",
            "no\nE",
        ),
        ("[2026-11-26 20:14:28,449 I 9717 9733] (raylet) store.cc:573: debug dump", "info", "store.cc:573: debug dump"),
        ("[2026-11-26 20:14:28,449 C 99 99] core.cc:1: check failed", "error", "core.cc:1: check failed"),
        ("2026-11-26 20:14:28,449\tWARNING utils.py:319 -- modules", "warn", "utils.py:319 -- modules"),
        ("INFO 2026-11-26 20:14:28,449 serve 9963 -- on", "info", "serve 9963 -- on"),
    ],
)
def test_rays_lines(text: str, level: str, said: str) -> None:
    """Each of Ray's shapes becomes ours, in UTC."""
    assert read(text) == [
        {"ts": "2026-11-26T18:14:28.449Z", "level": level, "service": "agent", "handler": "ray/raylet", "msg": said}
    ]


def test_ours_stay_as_they_are() -> None:
    """What we wrote is not touched; Ray's marks around it are no lines."""
    ours = '{"ts": "2026-11-26T18:14:28.449Z", "level": "info", "service": "agent", "jobId": "job_1", "msg": "a"}'
    assert [line["msg"] for line in read(":job_id:01000000", ":actor_name:AgentActor", ours, "")] == ["a"]


def test_the_rest_of_a_trace_belongs_to_its_line() -> None:
    """Whatever has no beginning of a line continues the one before; without one, nobody knows its time."""
    first = "2026-11-26 20:14:28,449\tERROR a.py:1 -- broke"
    lost, found = read("lost", first, "Traceback:", "  password=hunter2", '{"half": ', "x" * 9000, "cut off")
    assert (lost["ts"], lost["msg"]) == ("1970-01-01T00:00:00.000Z", "lost")
    assert found["msg"].startswith('a.py:1 -- broke\nTraceback:\n  password=***\n{"half": \nxxx')
    assert len(found["msg"]) == 4000


def test_others_secrets_are_taken_out() -> None:
    """Nobody took them out when the line was written."""
    (line,) = read("2026-11-26 20:14:28,449\tINFO a.py:1 -- GET http://me:pw@h/p?token=x")
    assert line["msg"] == "a.py:1 -- GET http://h/p"


@pytest.mark.parametrize(
    ("name", "handler"),
    [
        ("worker-99a1-01000000-9963.err", "ray/worker"),
        ("worker-99a1-01000000-9963.err.1", "ray/worker"),
        ("worker-99a1-01000000-9963.out", None),
        ("serve/controller_9963.log", "ray/serve"),
        ("gcs_server.out", "ray/gcs_server"),
        ("raylet.out.3", "ray/raylet"),
        ("python-core-worker-99a1_9963.log", "ray/core_worker"),
        ("monitor.log", "ray/monitor"),
        ("dashboard_agent.log", "ray/node_agent"),
        ("dashboard_NodeHead.log", "ray/dashboard"),
        ("dashboard.log", "ray/dashboard"),
        ("events/event_GCS.log", None),
        ("debug_state.txt", None),
    ],
)
def test_files(name: str, handler: str | None) -> None:
    """A file's name says whose lines it holds."""
    part = part_of(name)
    assert (part.handler if part else None) == handler


def line(**fields: Any) -> Line:
    return {"ts": "2026-11-26T18:00:00.000Z", "level": "info", "service": "agent", "msg": "", **fields}


@pytest.mark.parametrize(
    ("wanted", "found", "is_taken"),
    [
        (Wanted(), line(), True),
        (Wanted(level="warn"), line(), False),
        (Wanted(level="warn"), line(level="error"), True),
        (Wanted(), line(handler="ray/raylet"), False),
        (Wanted(), line(handler="ray/raylet", level="warn"), True),
        (Wanted(level="error"), line(handler="ray/raylet", level="warn"), False),
        (Wanted(ray_level="debug"), line(handler="ray/raylet"), True),
        (Wanted(agent_id="agent-1"), line(agentId="agent-1"), True),
        (Wanted(agent_id="agent-1"), line(), False),
        (Wanted(job_id="job_1"), line(jobId="job_1"), True),
        (Wanted(job_id="job_1"), line(jobId="job_2"), False),
        (Wanted(job_id="job_1"), line(correlationId="c"), False),
        (Wanted(job_id="job_1", correlation_id="c"), line(correlationId="c"), True),
        (Wanted(job_id="job_1", correlation_id="c"), line(correlationId="c", jobId="job_2"), False),
        (Wanted(job_id="job_1", correlation_id="c"), line(), False),
        (Wanted(correlation_id="c"), line(correlationId="c", jobId="job_2"), True),
        (Wanted(correlation_id="c"), line(correlationId="d"), False),
        (Wanted(since=datetime(2026, 11, 26, 18, tzinfo=UTC)), line(), True),
        (Wanted(since=datetime(2026, 11, 26, 18, 0, 1, tzinfo=UTC)), line(), False),
    ],
)
def test_what_is_asked_for(wanted: Wanted, found: Line, *, is_taken: bool) -> None:
    """By level, time, agent, job and correlation id; Ray's own only where they warn, or are asked for."""
    assert wanted.takes(found) is is_taken
