"""Where a job's time went: stages from histories of every kind, and how they are drawn."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from documents import block
from rich.console import Console

from rayhaul.cli.trace import draw, place
from rayhaul.job import FINAL, TRANSITIONS, JobEvent, JobStatus
from rayhaul.waterfall import Stage, StageName, Waterfall, waterfall

_STYLING = re.compile(r"\x1b\[[0-9;]*m")

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@dataclass(frozen=True, slots=True)
class Event:
    ts: datetime
    event: str
    status: JobStatus
    payload: Mapping[str, Any]


def history(*steps: tuple[float, str] | tuple[float, str, Mapping[str, Any]]) -> Sequence[Event]:
    """Return events at so many seconds, with the status each leads to."""
    status = JobStatus.QUEUED
    events = []
    for seconds, name, *payload in steps:
        if name in set(JobEvent) - {JobEvent.CREATED}:
            status = TRANSITIONS[status].get(JobEvent(name), status)
        events.append(Event(at(seconds), name, status, payload[0] if payload else {}))
    return events


def told(found: Waterfall | None) -> list[tuple[object, ...]]:
    """Return each stage as (name, began, ended, then what else there is)."""
    assert found is not None
    return [
        (
            stage.name.value,
            (stage.began_at - T0).total_seconds(),
            None if stage.ended_at is None else (stage.ended_at - T0).total_seconds(),
            *(fact for fact in (stage.attempt, stage.agent, stage.cut_by, stage.code) if fact is not None),
        )
        for stage in found.stages
    ]


def one(agent: str, attempt: int = 1) -> Mapping[str, Any]:
    return {"agent": agent, "attempt": attempt, "epoch": attempt}


def again(seconds: float, code: str, attempt: int = 1) -> Mapping[str, Any]:
    return {"code": code, "attempt": attempt, "nextAttemptAt": at(seconds).isoformat()}


@pytest.mark.parametrize(
    ("events", "stages"),
    [
        pytest.param(
            history(
                (0, "created"),
                (1, "metadata"),
                (3, "started", one("a")),
                (7, "uploading", {"agent": "a"}),
                (8, "completed"),
            ),
            [
                ("metadata", 0, 1),
                ("queued", 1, 3),
                ("downloading", 3, 7, 1, "a"),
                ("uploading", 7, 8, "a"),
            ],
            id="as it should be",
        ),
        pytest.param(
            history(
                (0, "created"),
                (1, "metadata"),
                (2, "started", one("a")),
                (4, "requeued", again(6, "source_busy")),
                (9, "started", one("b", 2)),
                (12, "uploading", {"agent": "b"}),
                (13, "completed"),
            ),
            [
                ("metadata", 0, 1),
                ("queued", 1, 2),
                ("downloading", 2, 4, 1, "a", "requeued", "source_busy"),
                ("waiting", 4, 6),
                ("queued", 6, 9),
                ("downloading", 9, 12, 2, "b"),
                ("uploading", 12, 13, "b"),
            ],
            id="a second attempt, later than it was due",
        ),
        pytest.param(
            history(
                (0, "created"),
                (1, "metadata"),
                (2, "started", one("a")),
                (5, "requeued", {"code": "agent_lost", "agent": "a"}),
                (6, "started", one("b")),
            ),
            [
                ("metadata", 0, 1),
                ("queued", 1, 2),
                ("downloading", 2, 5, 1, "a", "requeued", "agent_lost"),
                ("queued", 5, 6),
                ("downloading", 6, None, 1, "b"),
            ],
            id="handed back and still running",
        ),
        pytest.param(
            history(
                (0, "created"),
                (1, "metadata"),
                (2, "started", one("a")),
                (4, "started", one("b")),
                (7, "uploading", {"agent": "b"}),
                (8, "completed"),
            ),
            [
                ("metadata", 0, 1),
                ("queued", 1, 2),
                ("downloading", 2, 7, 1, "a"),
                ("downloading", 4, 7, 1, "b"),
                ("uploading", 7, 8, "b"),
            ],
            id="two agents at once",
        ),
        pytest.param(
            history(
                (0, "created"),
                (1, "metadata"),
                (2, "started", one("a")),
                (3, "paused"),
                (60, "resumed"),
                (61, "started", one("a")),
                (62, "cancelled"),
            ),
            [
                ("metadata", 0, 1),
                ("queued", 1, 2),
                ("downloading", 2, 3, 1, "a", "paused"),
                ("paused", 3, 60),
                ("queued", 60, 61),
                ("downloading", 61, 62, 1, "a", "cancelled"),
            ],
            id="paused, resumed, cancelled",
        ),
        pytest.param(
            history(
                (0, "created"),
                (1, "requeued", again(3, "source_timeout")),
                (5, "requeued", again(9, "source_timeout", 2)),
                (10, "failed", {"code": "source_timeout"}),
                (10, "deadlettered", {"code": "source_timeout"}),
                (100, "requeued", {"code": "replay"}),
                (101, "metadata"),
                (102, "started", one("a")),
            ),
            [
                ("metadata", 0, 1, "requeued", "source_timeout"),
                ("waiting", 1, 3),
                ("metadata", 3, 5, "requeued", "source_timeout"),
                ("waiting", 5, 9),
                ("metadata", 9, 10, "failed", "source_timeout"),
                ("over", 10, 100),
                ("metadata", 100, 101),
                ("queued", 101, 102),
                ("downloading", 102, None, 1, "a"),
            ],
            id="no metadata, dead-lettered, replayed",
        ),
        pytest.param(
            history(
                (0, "created"),
                (1, "metadata"),
                (2, "started", one("a")),
                (3, "requeued", again(4, "source_changed")),
                (6, "metadata"),
            ),
            [
                ("metadata", 0, 1),
                ("queued", 1, 2),
                ("downloading", 2, 3, 1, "a", "requeued", "source_changed"),
                ("waiting", 3, 4),
                ("metadata", 4, 6),
                ("queued", 6, None),
            ],
            id="looked at anew",
        ),
        pytest.param(
            history((0, "created"), (1, "metadata"), (2, "started", one("a")), (3, "requeued", again(8, "sink_busy"))),
            [
                ("metadata", 0, 1),
                ("queued", 1, 2),
                ("downloading", 2, 3, 1, "a", "requeued", "sink_busy"),
                ("waiting", 3, 8),
                ("queued", 8, None),
            ],
            id="due and not begun yet",
        ),
        pytest.param(
            history((0, "created"), (1, "from_the_future", {"agent": 7})), [("metadata", 0, None)], id="unknown events"
        ),
        pytest.param(
            history((0, "created"), (1, "requeued", {"code": 5, "nextAttemptAt": "soon"}), (2, "cancelled")),
            [("metadata", 0, 1, "requeued", 5), ("metadata", 1, 2, "cancelled")],
            id="payloads of another shape",
        ),
    ],
)
def test_stages(events: Sequence[Event], stages: list[tuple[object, ...]]) -> None:
    assert told(waterfall(events, at(50))) == stages


def test_the_whole() -> None:
    """A job that has ended took from its creation to its last change; one that goes on, until now."""
    ended = waterfall(
        history((0, "created"), (2, "failed", {"code": "egress_denied"}), (5, "deadlettered")), now=at(1000)
    )
    assert ended is not None
    assert (ended.status, ended.ended_at, ended.seconds(at(1000))) == ("failed", at(2), 2)
    running = waterfall(history((0, "created"), (2, "metadata")), now=at(1000))
    assert running is not None
    assert (running.status, running.ended_at, running.seconds(at(1000))) == ("queued", None, 1000)
    assert waterfall([], now=at(0)) is None


@pytest.mark.parametrize("seed", range(200))
def test_no_moment_is_missing(seed: int) -> None:
    """Whatever the history: the stages follow each other without a gap, from creation to the end or to now."""
    rng = Random(seed)
    seconds, status = 0.0, JobStatus.QUEUED
    steps: list[tuple[float, str, Mapping[str, Any]]] = [(0.0, "created", {})]
    for _ in range(rng.randrange(12)):
        arrows = sorted(set(TRANSITIONS[status]))
        if not arrows:
            break
        event = rng.choice(arrows)
        seconds += rng.choice((0.0, 0.001, 1.0, 60.0))
        status = TRANSITIONS[status][event]
        payload = {"code": rng.choice(("source_busy", "source_changed")), "agent": "a", "attempt": 1}
        if rng.random() < 0.5:
            payload["nextAttemptAt"] = at(seconds + rng.choice((-1, 0, 1, 90))).isoformat()
        steps.append((seconds, event, payload))
    now = at(seconds + 30)
    found = waterfall(history(*steps), now)
    assert found is not None
    assert (found.status, found.ended_at is None) == (status, status not in FINAL)
    reached = found.began_at
    for stage in found.stages:
        assert stage.began_at == reached or (stage.name is StageName.DOWNLOADING and stage.began_at < reached)
        assert (stage.ended_at or now) >= reached
        reached = stage.ended_at or now
    assert reached == (found.ended_at or now)


def drawn(found: Waterfall, now: datetime, columns: int) -> list[str]:
    written = io.StringIO()
    screen = Console(file=written, width=columns, force_terminal=True, no_color=True, highlight=False, markup=False)
    draw(screen, "job_1", found, now)
    return [_STYLING.sub("", line).rstrip() for line in written.getvalue().splitlines()]


def test_the_document_s_picture() -> None:
    """What docs/tracing.md shows is what is drawn of such a job, on a terminal of 100 columns."""
    events = history(
        (0, "created"),
        (0.4, "metadata"),
        (10, "started", one("agent-1")),
        (40, "requeued", again(45, "source_truncated")),
        (47, "started", one("agent-2", 2)),
        (60, "started", one("agent-3", 2)),
        (99, "uploading", {"agent": "agent-2"}),
        (100, "completed"),
    )
    found = waterfall(events, at(500))
    assert found is not None
    shown = block("a waterfall").replace("job_01kb…", "job_1")
    assert drawn(found, at(500), 100) == shown.splitlines()


@pytest.mark.parametrize("columns", [72, 80, 200])
def test_bars_fill_the_terminal(columns: int) -> None:
    """Bars begin where their stage does and end where the next one begins; each can be seen; no line is wrapped."""
    events = history(
        (0, "created"),
        (0.01, "metadata"),
        (10, "started", one("agent-1")),
        (40, "requeued", again(45, "source_truncated")),
        (45, "started", one("agent-2", 2)),
        (99, "uploading", {"agent": "agent-2"}),
        (100, "completed"),
    )
    found = waterfall(events, at(500))
    assert found is not None
    head, blank, titles, *rows = drawn(found, at(500), columns)
    assert head == "completed job_1: in 1:40, 2 attempts"
    assert (blank, titles.split()) == ("", ["STAGE", "TOOK"])
    assert len(rows) == len(found.stages) == 6
    assert all(len(row) <= columns for row in rows)
    assert [row.split("█")[0].split()[0] for row in rows] == [stage.name for stage in found.stages]
    assert "requeued: source_truncated" in rows[2]
    first, last = (row.index("█") for row in (rows[0], rows[-1]))
    assert all("█" in row for row in rows)
    assert first < rows[1].index("█") + 1 <= rows[2].index("█") < rows[4].index("█") < last


def test_a_bar_is_in_its_place() -> None:
    """Scaled to the whole, rounded, never of no length and never beyond the end."""

    def bar(began_s: float, ended_s: float | None) -> tuple[int, int]:
        stage = Stage(name=StageName.QUEUED, began_at=at(began_s), ended_at=None if ended_s is None else at(ended_s))
        found = Waterfall(status=JobStatus.QUEUED, began_at=T0, ended_at=None, stages=(stage,))
        return place(found, stage, at(100), 50)

    assert bar(0, 100) == (0, 50)
    assert bar(50, 75) == (25, 12)
    assert bar(99.99, 100) == (49, 1)
    assert bar(100, 100) == (49, 1)
    assert bar(20, None) == (10, 40)
    assert bar(0, 0) == (0, 1)
    nothing = Stage(name=StageName.METADATA, began_at=T0)
    assert place(
        Waterfall(status=JobStatus.QUEUED, began_at=T0, ended_at=None, stages=(nothing,)), nothing, T0, 50
    ) == (0, 1)
