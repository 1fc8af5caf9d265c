"""B3: scheduler and ledger alone. Real scheduler, real SQLite ledger with fsync, agents that are done at once.

Each size is two phases, timed apart: N jobs are submitted in batches while no agent reports, so that all N are queued;
then the agents come, and every job passes through probe, lease, commit and completion. A run has a process and a fresh
ledger of its own; a few jobs go before it, on another ledger, so that nothing is done for the first time. Writes
bench/results/b3.json.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from actors.decisions import Rules
from actors.ports import Submission
from actors.process import settle
from actors.scheduler import Scheduler
from bench import queue_alone
from bench.instant_agents import InstantAgents
from rayhaul.alert_file import read_scaling_rule
from rayhaul.ids import IdFactory
from rayhaul.job import JobSpec, JobStatus, Priority
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.metrics import LEDGER_COMMIT, Meter
from rayhaul.settings import Settings

RESULTS = Path(__file__).parent / "results"
#: With the default 32 slots each: what a small cluster has.
_AGENTS = 4
_USERS = 10
#: So many that none of them holds jobs back for want of connections.
_HOSTS = 16
_BATCH_JOBS = 1000
#: Batches a client sends at once.
_BATCHES_AT_ONCE = 4
#: Runs of a size: five of the quick ones, three of the others.
_RUNS = 3
_QUICK_RUNS = 5
_QUICK_JOBS = 10_000
_WARM_UP_JOBS = 200
_FSYNCS = 200


@dataclass(frozen=True, slots=True)
class Run:
    jobs_count: int
    submit_s: float
    work_s: float
    #: CPU of the whole process over both phases: loop, ledger threads, agents.
    cpu_s: float
    commits_count: int
    reports_count: int
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of the runs of one size."""

    jobs_count: int
    runs_count: int
    jobs_per_s: float
    submit_jobs_per_s: float
    work_jobs_per_s: float
    wall_us_per_job: float
    cpu_us_per_job: float
    jobs_per_commit: float
    rss_mib: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduler", description=__doc__)
    parser.add_argument("--jobs", type=_numbers, default=(1_000, 10_000, 100_000), help="sizes, separated by commas")
    parser.add_argument(
        "--queued", type=_numbers, default=(1_000, 10_000, 100_000, 1_000_000), help="sizes for the queue alone"
    )
    parser.add_argument("--date", help="goes into the results as it is")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="on the disk to measure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.directory) as directory:
        machine = _machine(Path(directory), arguments.date)
        print(" · ".join(f"{name} {value}" for name, value in machine.items()))
        rows = [_row(size, Path(directory)) for size in arguments.jobs]
    _print_table(rows)
    costs = [_alone(queue_alone.cost, size, users) for size in arguments.queued for users in (1, 1_000)]
    _print_table(costs)
    memory = _alone(queue_alone.memory, 1_000)
    _print_table([memory])
    found = {"machine": machine, "scheduler": _plain(rows), "queue": _plain(costs), "queueMemory": asdict(memory)}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "b3.json").write_text(json.dumps(found, indent=2) + "\n")


def _row(jobs_count: int, directory: Path) -> Row:
    runs = [_alone(run, jobs_count, directory) for _ in range(_QUICK_RUNS if jobs_count <= _QUICK_JOBS else _RUNS)]

    def median(value: Callable[[Run], float]) -> float:
        return round(statistics.median(map(value, runs)), 1)

    return Row(
        jobs_count=jobs_count,
        runs_count=len(runs),
        jobs_per_s=median(lambda r: jobs_count / (r.submit_s + r.work_s)),
        submit_jobs_per_s=median(lambda r: jobs_count / r.submit_s),
        work_jobs_per_s=median(lambda r: jobs_count / r.work_s),
        wall_us_per_job=median(lambda r: (r.submit_s + r.work_s) / jobs_count * 1e6),
        cpu_us_per_job=median(lambda r: r.cpu_s / jobs_count * 1e6),
        jobs_per_commit=median(lambda r: jobs_count / r.commits_count),
        rss_mib=median(lambda r: r.rss_mib),
    )


def _alone(work: Any, *arguments: Any) -> Any:
    """Call in a process of its own: nobody inherits another's heap."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def run(jobs_count: int, directory: Path) -> Run:
    _run_on_a_ledger(_WARM_UP_JOBS, directory)
    return _run_on_a_ledger(jobs_count, directory)


def _run_on_a_ledger(jobs_count: int, directory: Path) -> Run:
    path = directory / f"ledger-{os.getpid()}.db"
    settings = Settings()
    ledger = open_ledger(settings.ledger, f"sqlite:///{path}")
    try:
        return asyncio.run(_run(jobs_count, ledger, settings))
    finally:
        asyncio.run(ledger.close())
        for file in directory.glob(f"{path.name}*"):
            file.unlink()


async def _run(jobs_count: int, ledger: SqlLedger, settings: Settings) -> Run:
    new_id, meter = IdFactory(), Meter()
    agents = InstantAgents(settings, _AGENTS, new_id, jobs_count=jobs_count)
    rules = Rules(
        transfer=settings.transfer,
        liveness=settings.liveness,
        key_prefix="bench/",
        rng=Random(1),
        meter=meter,
        quota=settings.quota,
    )
    scheduler = Scheduler(
        ledger=ledger,
        pool=agents,
        settings=settings,
        bucket="bench",
        rules=rules,
        scaling_rule=read_scaling_rule(),
        clock=time.time,
        new_id=new_id,
    )
    await scheduler.start()
    # As the scheduler's actor does.
    settle()
    turning = asyncio.create_task(scheduler.run())
    cpu_began_s, began_s = time.process_time(), time.perf_counter()
    await _submit(scheduler, jobs_count)
    submitted_s = time.perf_counter()
    working = asyncio.create_task(agents.run(scheduler))
    waiting = asyncio.create_task(agents.done.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    done_s, cpu_done_s = time.perf_counter(), time.process_time()
    working.cancel()
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await working
    await scheduler.stop()
    await turning
    totals = (await ledger.state()).totals
    assert totals == {JobStatus.COMPLETED: jobs_count}, totals
    return Run(
        jobs_count=jobs_count,
        submit_s=submitted_s - began_s,
        work_s=done_s - submitted_s,
        cpu_s=cpu_done_s - cpu_began_s,
        commits_count=sum(meter.snapshot().histograms[LEDGER_COMMIT.name, ()].counts),
        reports_count=agents.reports_count,
        rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


async def _submit(scheduler: Scheduler, jobs_count: int) -> None:
    priorities = list(Priority)
    gate = asyncio.Semaphore(_BATCHES_AT_ONCE)

    async def submit(first: int) -> None:
        specs = tuple(
            JobSpec(
                url=f"https://origin-{number % _HOSTS}.example/releases/{number:09d}/data.bin",
                priority=priorities[number % len(priorities)],
            )
            for number in range(first, min(first + _BATCH_JOBS, jobs_count))
        )
        async with gate:
            await scheduler.submit(
                Submission(
                    user_id=f"user_{first // _BATCH_JOBS % _USERS}",
                    correlation_id=f"correlation-{first:09d}",
                    specs=specs,
                    idempotency=(f"key-{first}", f"{first:064x}"),
                )
            )

    async with asyncio.TaskGroup() as group:
        for first in range(0, jobs_count, _BATCH_JOBS):
            group.create_task(submit(first))


def _machine(directory: Path, date: str | None) -> dict[str, Any]:
    said = {"cores": os.cpu_count(), "python": platform.python_version(), "fsyncMs": _fsync_ms(directory)}
    return said if date is None else {**said, "date": date}


def _fsync_ms(directory: Path) -> float:
    """Return the median of what a page and its fsync take on this disk."""
    spent_s = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            began_s = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            spent_s.append(time.perf_counter() - began_s)
    return round(statistics.median(spent_s) * 1000, 2)


def _plain(rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def _print_table(rows: Sequence[Any]) -> None:
    table = [list(asdict(rows[0])), *([f"{value:,}" for value in asdict(row).values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(flush=True)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    main()
