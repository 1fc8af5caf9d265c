"""Drills on the ledger's disk: the power fails, the disk is full, and a ledger of the first release is in use."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from alembic import command
from drill_audit import Content
from drill_cluster import KIB, MIB, QUICK, patient, small_files
from drill_table import Audit, Begin
from origin import Origin

from rayhaul.job import JobStatus
from rayhaul.ledger import connect, migrate

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

COMMITTER = Path(__file__).with_name("drill_committer.py")
#: Rows of a ledger of the first release, as that release wrote them.
RELEASED = Path(__file__).with_name("first_release.json")
COMMITS = 60
_LINE = re.compile(r"\d+ +(?P<call>\w+)\((?P<rest>.*)")


@dataclass(frozen=True, slots=True)
class Acknowledged:
    job_id: str
    #: How much of the WAL was on disk for certain when the job was acknowledged.
    wal_bytes: int


def acknowledged(trace: str) -> list[Acknowledged]:
    """Read strace's record: what was written to the WAL, how much of it was synced, and what was told then."""
    written = synced = 0
    found = []
    for line in trace.splitlines():
        match = _LINE.match(line)
        if match is None or " = -1 " in line or line.endswith("<unfinished ...>"):
            continue
        call, rest = match["call"], match["rest"]
        if call == "pwrite64" and "ledger.db-wal>" in rest:
            *_, size, offset = rest.rpartition(")")[0].split(", ")
            written = max(written, int(size) + int(offset))
        elif call in ("fsync", "fdatasync") and "ledger.db-wal>" in rest:
            synced = written
        elif call == "write" and rest.startswith("1<") and (told := re.search(r'"(job_\w+)', rest)):
            found.append(Acknowledged(told[1], synced))
    return found


def committed(directory: Path, synchronous: str | None) -> list[Acknowledged]:
    """Let a process commit under strace, and kill it; its files are left as the page cache has them."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*sys.path, str(COMMITTER.parent), str(COMMITTER.parents[1] / "ledger")])
    }
    trace = directory / "trace"
    calls = "trace=pwrite64,fsync,fdatasync,write"
    arguments = [f"sqlite:///{directory / 'ledger.db'}", "100000", *filter(None, [synchronous])]
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", calls, sys.executable, str(COMMITTER), *arguments]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert child.stdout is not None
    with child.stdout:
        for number in range(COMMITS):
            line = child.stdout.readline()
            assert line, (number, child.stderr.read() if child.stderr else "")
        # The group: strace, and what it traces.
        os.killpg(child.pid, signal.SIGKILL)
        child.stdout.read()
    child.wait()
    if child.stderr is not None:
        child.stderr.close()
    return acknowledged(trace.read_text())[:COMMITS]


def lost_at_power_cuts(directory: Path, told: Sequence[Acknowledged], image: Path) -> tuple[int, int]:
    """Cut the power after each acknowledgement; return (jobs told of in all cuts together, those of them missing)."""
    jobs = missing = 0
    for index, cut in enumerate(told):
        shutil.rmtree(image, ignore_errors=True)
        image.mkdir()
        shutil.copy(directory / "ledger.db", image / "ledger.db")
        # A disk that lost its power holds what was synced; of the rest, nothing is promised.
        (image / "ledger.db-wal").write_bytes((directory / "ledger.db-wal").read_bytes()[: cut.wal_bytes])
        with closing(sqlite3.connect(image / "ledger.db")) as connection:
            there = {row[0] for row in connection.execute(_JOB_IDS)} if _has_tables(connection) else set()
        wanted = {one.job_id for one in told[: index + 1]}
        jobs += len(wanted)
        missing += len(wanted - there)
    return jobs, missing


_JOB_IDS = "SELECT id FROM jobs"


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'jobs'").fetchone() is not None


@pytest.mark.parametrize("synchronous", [None, "NORMAL"])
def test_f45_the_power_fails(tmp_path: Path, begin: Begin, synchronous: str | None) -> None:
    """The WAL is cut to what was synced when a job was acknowledged: it is there; with synchronous=NORMAL it is not."""
    what = "the WAL is cut to what was synced, after each of 60 acknowledgements"
    drill = begin("F45", what if synchronous is None else f"{what}, synchronous=NORMAL", null=synchronous is not None)
    directory = tmp_path / "running"
    directory.mkdir()
    told = committed(directory, synchronous)
    assert len(told) == COMMITS
    jobs, missing = lost_at_power_cuts(directory, told, tmp_path / "image")
    never = [
        one.job_id for one in told if lost_at_power_cuts(directory, [one], tmp_path / "image") != (1, 0)
    ]  # not there right after it was acknowledged
    drill.audit = Audit(jobs=COMMITS, lost=never, double=[], broken=[], statuses={})
    drill.remark(f"{COMMITS} power cuts, {jobs} looks at an acknowledged job, {missing} missing")
    assert (missing == 0) == (synchronous is None)


@contextmanager
def small_disk(where: Path, size_bytes: int) -> Iterator[Path]:
    where.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(where)], capture_output=True
    )
    if mount.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def test_f44_the_disk_is_full(tmp_path: Path, origin: Origin, begin: Begin) -> None:
    """The ledger's disk is full for a while: 503, nothing that was answered 201 is lost, and it recovers by itself."""
    drill = begin("F44", "the ledger's disk is full for 6 s")
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        url = f"sqlite:///{disk / 'ledger.db'}"
        with patient(tmp_path / "data", agents=2, **QUICK, RAYHAUL_LEDGER__URL=url) as found:
            wanted = found.submit(origin, small_files("full/before", 20))
            found.books.await_final(wanted, within_s=60)
            answers = []
            with found.http(30) as http:
                drill.strike()
                filler = disk / "filler"
                _fill(filler)
                until_s = time.monotonic() + 6
                number = 0
                while time.monotonic() < until_s:
                    content = Content(number, 10 * KIB)
                    asked = origin.add(f"full/{number}.bin", size=content.size_bytes, seed=content.seed)
                    # The WAL may have room of its own left: a long tag wants more.
                    body = {"url": asked, "tags": {"long": "x" * 200}}
                    answer = http.post("/jobs", json=body)
                    answers.append(answer.status_code)
                    if answer.status_code == 201:
                        wanted[answer.json()["id"]] = content
                    elif answer.status_code == 503:
                        drill.see("503")
                    number += 1
                filler.unlink()
                is_ready_by_itself = _becomes_ready(http)
            wanted |= found.submit(origin, small_files("full/after", 20))
            found.books.await_final(wanted, within_s=120)
            drill.recover()
            found.check(drill, wanted)
            drill.remark(f"answers meanwhile: {answers.count(503)} × 503, {answers.count(201)} × 201")
            assert set(answers) <= {201, 503}
            assert 503 in answers
            if not is_ready_by_itself:
                drill.remark("readyz stayed 503 until the next job was asked for")
            assert is_ready_by_itself


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(64 * KIB))
        except OSError:
            pass
        try:
            while True:
                filler.write(bytes(512))
        except OSError:
            pass


def _becomes_ready(http: httpx.Client, within_s: float = 15) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if http.get("/readyz").status_code == 200:
            return True
        time.sleep(0.2)
    return False


def test_f58_a_ledger_of_the_first_release(tmp_path: Path, origin: Origin, begin: Begin) -> None:
    """A ledger with the first release's tables and open jobs in it: `up` migrates it, and its jobs finish."""
    drill = begin("F58", "`up` on a ledger of the first release with jobs waiting and under way")
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    wanted = first_release(data_dir / "ledger.db", origin)
    drill.strike()
    with patient(data_dir, agents=2, **QUICK) as found:
        found.books.await_final(wanted, within_s=120)
        drill.recover()
        found.check(drill, wanted)
        drill.remark("agents of an older release: not meaningful, all processes of a cluster run the same code")


def first_release(path: Path, origin: Origin) -> dict[str, Content]:
    """Make a ledger of revision 0001 with the rows that release left behind when it was killed at work.

    Two jobs were under way with a part each, ten waited; the bucket of that time is gone.
    """
    connect.create_file(path)
    engine = connect.migrator(connect.parse_url(f"sqlite:///{path}"), wait_max_s=5)
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    text = RELEASED.read_text().replace("http://ORIGIN", origin.base_url)
    tables: dict[str, list[dict[str, object]]] = json.loads(text)
    with closing(sqlite3.connect(path)) as database, database:
        for table, rows in tables.items():
            for row in rows:
                marks = ", ".join("?" * len(row))
                database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
    wanted = {}
    for number, row in enumerate(sorted(tables["jobs"], key=lambda row: str(row["id"]))):
        size_bytes = 24 * MIB if number < 2 else 20 * KIB
        origin.add(f"{number}.bin", size=size_bytes, seed=number)
        wanted[str(row["id"])] = Content(number, size_bytes)
    assert [row["status"] for row in tables["jobs"]].count(JobStatus.DOWNLOADING) == 2
    return wanted
