"""Finding lines in a node's log files, and joining those of many nodes."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import actors.log_files
from actors.log_files import LocalLogs, NodeLines, joined, read_directory
from rayhaul.log_lines import Line, Wanted

NOW = datetime(2026, 11, 26, 18, tzinfo=UTC)


def line(number: int, **fields: Any) -> Line:
    when = (NOW + timedelta(seconds=number)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"ts": when, "level": "info", "service": "agent", **fields, "msg": f"line {number}"}


def write(directory: Path, name: str, *lines: Line, torn: str = "") -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(":job_id:01\n" + "".join(f"{json.dumps(one)}\n" for one in lines) + torn)
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    return path


def said(found: NodeLines) -> list[str]:
    return [str(one["msg"]) for one in found.lines]


def test_all_files_in_the_order_of_time(tmp_path: Path) -> None:
    """Of every process, living or not, its set-aside file too; what is half written waits."""
    write(tmp_path, "worker-a-01-7.err", line(1), line(4), torn='{"ts": "2026')
    write(tmp_path, "worker-b-01-8.err", line(2))
    write(tmp_path, "worker-b-01-8.err.1", line(0))
    write(tmp_path, "worker-b-01-8.out", line(3))
    write(tmp_path, "debug_state.txt", line(3))
    found = read_directory(tmp_path, Wanted(), 100)
    assert said(found) == ["line 0", "line 1", "line 2", "line 4"]
    assert not found.is_cut


def test_the_newest_are_kept(tmp_path: Path) -> None:
    """More than asked for: the newest, and that there were more."""
    write(tmp_path, "worker-a-01-7.err", *(line(number) for number in range(0, 20, 2)))
    write(tmp_path, "worker-b-01-8.err", *(line(number) for number in range(1, 20, 2)))
    found = read_directory(tmp_path, Wanted(), 3)
    assert said(found) == ["line 17", "line 18", "line 19"]
    assert found.is_cut


def test_reading_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too much, the end of the file that was written to last."""
    old = write(tmp_path, "worker-a-01-7.err", line(1))
    os.utime(old, (0, 0))
    write(tmp_path, "worker-b-01-8.err", *(line(number) for number in range(100)))
    monkeypatch.setattr(actors.log_files, "_BYTES_MAX", 250)
    found = read_directory(tmp_path, Wanted(), 100)
    assert said(found) == ["line 98", "line 99"]
    assert found.is_cut


def test_a_job(tmp_path: Path) -> None:
    """By its id, and by the request that asked for it; Ray's files are not even opened."""
    write(
        tmp_path,
        "worker-a-01-7.err",
        line(1, jobId="job_1", correlationId="c1"),
        line(2, jobId="job_11", correlationId="c1"),
        line(3, correlationId="c1"),
        line(4, correlationId="c2"),
    )
    (tmp_path / "serve").mkdir()
    write(tmp_path, "serve/controller_1.log", line(5, jobId="job_1"))
    assert said(read_directory(tmp_path, Wanted(job_id="job_1", correlation_id="c1"), 9)) == ["line 1", "line 3"]


def test_old_files_are_left_alone(tmp_path: Path) -> None:
    """What was last written to before the time that is asked for has nothing to say."""
    write(tmp_path, "worker-a-01-7.err", line(0), line(10_000))
    later = Wanted(since=NOW + timedelta(seconds=1))
    assert said(read_directory(tmp_path, later, 9)) == []
    os.utime(tmp_path / "worker-a-01-7.err", ((NOW + timedelta(hours=3)).timestamp(),) * 2)
    assert said(read_directory(tmp_path, later, 9)) == ["line 10000"]


def node(where: str, *numbers: int, is_cut: bool = False) -> NodeLines:
    return NodeLines(where=where, lines=[line(number) for number in numbers], is_cut=is_cut)


def test_joining() -> None:
    """One order over all nodes; two of Ray's nodes on one machine see the same files, which count once."""
    found = joined([node("a", 1, 4), node("b", 2, 3), node("a", 1, 4)], 3, nodes_count=4)
    assert [one["msg"] for one in found.lines] == ["line 2", "line 3", "line 4"]
    assert (found.is_cut, found.nodes_count, found.nodes_silent) == (True, 4, 1)
    assert not joined([node("a", 1)], 3, nodes_count=1).is_cut
    assert joined([node("a", 1, is_cut=True)], 3, nodes_count=1).is_cut


async def test_local(tmp_path: Path) -> None:
    """Without Ray: one directory, or none."""
    write(tmp_path, "worker-a-01-7.err", line(1))
    found = await LocalLogs(tmp_path).read(Wanted(), 5)
    assert (len(found.lines), found.nodes_count) == (1, 1)
    assert not (await LocalLogs().read(Wanted(), 5)).lines
