"""What the command line prints: sizes, times, progress lines, and nothing that steers a terminal."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rayhaul.cli.connect import Exit, exit_of
from rayhaul.cli.leases import leases_table, parts_of
from rayhaul.cli.output import facts_table, jobs_table, jsonable, percent, plain
from rayhaul.cli.progress import LINE_S, Lines
from rayhaul.client import errors
from rayhaul.units import duration, size
from rayhaul.wire import EventView, JobView, LeaseReport, ProgressView, StripeView

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def progress(done: int = 0, total: int | None = None) -> ProgressView:
    return ProgressView(
        bytes=done, bytes_total=total, bytes_per_second=2048, eta_seconds=61, parts_done=0, parts_total=None
    )


def job(**changes: Any) -> JobView:
    fields: dict[str, Any] = {
        "id": "job_01m85e8rv9gy4km82smqz6eqrj",
        "status": "downloading",
        "url": "https://files.example/a/film.mov",
        "filename": None,
        "priority": "normal",
        "tags": {},
        "destination": {"bucket": "b", "key": None},
        "metadata": None,
        "progress": progress(512, 1024),
        "attempt": 1,
        "requeues": 0,
        "checksum": None,
        "result": None,
        "error": None,
        "agents": [],
        "correlation_id": "corr-1234",
        "user_id": "ann",
        "created_at": NOW - timedelta(hours=2),
        "started_at": None,
        "completed_at": None,
        "next_attempt_at": None,
    }
    return JobView.model_validate(fields | changes)


def event(name: str, payload: dict[str, Any], status: str = "downloading") -> EventView:
    fields = {"seq": None if name == "progress" else 7, "ts": NOW, "event": name, "job_id": "job_1"}
    return EventView.model_validate(
        fields | {"user_id": "ann", "correlation_id": "corr-1234", "status": status, "payload": payload}
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (2**40, "1.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_size(count: int | None, text: str) -> None:
    """Sizes are powers of two with their right names; the largest unit is the last."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0, "0 s"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3600, "1:00:00"),
        (172_799, "47:59:59"),
        (190_000, "2 d 4 h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    """Times are as exact as they are near."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [(0, 10, "0%"), (999, 1000, "99%"), (1000, 1000, "100%"), (5, None, ""), (0, 0, ""), (11, 10, "100%")],
)
def test_percent(done: int, total: int | None, text: str) -> None:
    """Only what is all there is 100%."""
    assert percent(progress(done, total)) == text


@given(text=st.text())
def test_plain(text: str) -> None:
    """Whatever comes in, what goes out is printable and as long; what was printable stays."""
    shown = plain(text)
    assert shown.isprintable()
    assert len(shown) == len(text)
    assert not text.isprintable() or shown == text


@pytest.mark.parametrize("columns", [40, 80, 119, 120, 200])
def test_ids_stay_whole(columns: int) -> None:
    """However narrow the terminal, a job's id can be copied from the table."""
    console = Console(width=columns)
    with console.capture() as captured:
        console.print(
            jobs_table([job(filename="a very long name of a file that has to go somewhere.mov")], NOW, columns)
        )
    shown = captured.get()
    assert "job_01m85e8rv9gy4km82smqz6eqrj" in shown
    if columns >= 80:
        assert "downloading" in shown
        assert "a very" in shown


def test_table_shows_progress() -> None:
    """A row has percent, size, speed, time left and age."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(jobs_table([job()], NOW, 200))
    assert captured.get().splitlines()[1].split() == [
        *("job_01m85e8rv9gy4km82smqz6eqrj", "downloading", "50%", "1.0", "KiB", "2.0", "KiB/s"),
        *("1:01", "2:00:00", "film.mov"),
    ]


@pytest.mark.parametrize(("first", "end", "text"), [(1, 9, "1-8"), (4, 5, "4")])
def test_parts_of_a_stripe(first: int, end: int, text: str) -> None:
    """A stripe is half-open inside, and named by its first and last part to people."""
    assert parts_of(StripeView(first_part=first, end_part=end)) == text


@pytest.mark.parametrize(
    ("told", "row"),
    [
        (progress(512, 1024), ["lease_1", "agent-1", "7", "1-8", "50%", "2.0", "KiB/s", "1:01"]),
        (progress(512), ["lease_1", "agent-1", "7", "1-8", "512", "B", "2.0", "KiB/s", "1:01"]),
        (None, ["lease_1", "agent-1", "7", "1-8", "1:01"]),
    ],
)
def test_leases(told: ProgressView | None, row: list[str]) -> None:
    """A lease has a row whatever its agent has told, in bytes where the size is not known."""
    fields: dict[str, Any] = {"lease_id": "lease_1", "agent": "agent-1", "epoch": 7, "granted_at": NOW}
    stripe = StripeView(first_part=1, end_part=9)
    lease = LeaseReport(**fields, stripe=stripe, progress=told, idle_seconds=61, doing="waits\x1b")
    console = Console(width=200)
    with console.capture() as captured:
        console.print(leases_table([lease]))
    words = captured.get().splitlines()[1].split()
    assert (words[: len(row)], words[-1]) == (row, "waits\ufffd")


def test_facts_without_a_value_are_left_out() -> None:
    """What is not known takes no line, and nothing that is shown steers the terminal."""
    console = Console(width=80)
    with console.capture() as captured:
        console.print(facts_table([("one", "1\x1b"), ("two", ""), ("three", "3")]))
    assert [line.split() for line in captured.get().splitlines()] == [["one", "1\ufffd"], ["three", "3"]]


def test_json_is_the_wire() -> None:
    """Models inside other values are written as the wire has them."""
    written = json.loads(json.dumps(jsonable({"jobs": [job()], "link": None})))
    assert written["jobs"][0]["progress"]["bytesTotal"] == 1024
    assert written["jobs"][0]["createdAt"] == "2026-01-02T01:04:05.000Z"


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Steps are told at once, progress now and then, and nothing of it on stdout."""
    now_s = [100.0]
    lines = Lines({"job_1": "a"}, lambda: now_s[0])
    lines.begin("job_1")
    lines.show(event("created", {}, "queued"))
    lines.show(event("metadata", {"filename": "film\x1b.mov"}, "queued"))
    for moved in (1, 2, 3):
        lines.show(event("progress", progress(moved * 1024, 4096).model_dump(by_alias=True)))
    now_s[0] += LINE_S
    lines.show(event("progress", progress(4096, 4096).model_dump(by_alias=True)))
    lines.show(event("progress", {"of": "a newer server"}))
    lines.show(event("requeued", {"code": "source_busy", "message": "The source asks to slow down."}, "queued"))
    lines.end(job(id="job_1", status="cancelled", filename="film.mov"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "job_1 a",
        "job_1 film\ufffd.mov metadata",
        "job_1 film\ufffd.mov 1.0 KiB of 4.0 KiB, 25%, 2.0 KiB/s, 1:01 left",
        "job_1 film\ufffd.mov 4.0 KiB of 4.0 KiB, 100%, 2.0 KiB/s, 1:01 left",
        "job_1 film\ufffd.mov requeued source_busy: The source asks to slow down.",
        "job_1 film.mov cancelled",
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NoCluster("x"), Exit.UNREACHABLE),
        (errors.ConnectionFailed("x"), Exit.UNREACHABLE),
        (errors.AccessDenied("forbidden", 403, "x"), Exit.DENIED),
        (errors.BadRequest("invalid_request", 422, "x"), Exit.USAGE),
        (errors.BadRequest("egress_denied", 422, "x"), Exit.FAILED),
        (errors.JobCancelled(job()), Exit.CANCELLED),
        (errors.JobFailed(job()), Exit.FAILED),
        (errors.WaitTimeout("job_1", 3), Exit.FAILED),
    ],
)
def test_exit_codes(error: errors.ClientError, code: Exit) -> None:
    """Each kind of error ends the command with the code that scripts look for."""
    assert exit_of(error) == code
