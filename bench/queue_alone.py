"""What the waiting queue costs by itself: time of an operation and memory of a job, up to a million queued."""

import gc
import statistics
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from time import process_time

from rayhaul.job import Job, JobSpec, Priority, utc
from rayhaul.policy.queueing import Waiting, WaitingQueue

_NOW_S = 2e9
#: As many as an agent has slots: about what a turn takes.
_TAKEN_AT_ONCE = 32
#: Operations timed at least, however few jobs are queued.
_OPERATIONS_MIN = 100_000
_RUNS = 3
_MEMORY_JOBS = 100_000


@dataclass(frozen=True, slots=True)
class QueueCost:
    """CPU time of one operation in microseconds, medians of some runs, while `jobs_count` jobs stay queued."""

    jobs_count: int
    users_count: int
    push_us: float
    take_us: float
    discard_us: float


@dataclass(frozen=True, slots=True)
class QueueMemory:
    """Bytes of one waiting job: as the queue keeps it (its id's text not counted), and of the Job in the book."""

    in_queue_bytes: int
    job_bytes: int


def cost(jobs_count: int, users_count: int) -> QueueCost:
    runs = [_run(_waiting(jobs_count, users_count)) for _ in range(_RUNS)]
    return QueueCost(
        jobs_count, users_count, *(round(statistics.median(column), 2) for column in zip(*runs, strict=True))
    )


def memory(users_count: int) -> QueueMemory:
    waiting = _waiting(_MEMORY_JOBS, users_count)
    queue = WaitingQueue()
    jobs: dict[str, Job] = {}

    def fill() -> None:
        for number, each in enumerate(waiting):
            # A number of its own for each, as `datetime.timestamp` gives.
            queue.push(each._replace(since_s=number + 0.5), _NOW_S)

    def keep() -> None:
        for number in range(_MEMORY_JOBS):
            job = _job(number)
            jobs[job.id] = job

    return QueueMemory(_allocated_bytes(fill) // _MEMORY_JOBS, _allocated_bytes(keep) // _MEMORY_JOBS)


def _run(waiting: Sequence[Waiting]) -> tuple[float, float, float]:
    repeats = -(-_OPERATIONS_MIN // len(waiting))
    queues = [WaitingQueue() for _ in range(repeats)]

    def push_all() -> None:
        for queue in queues:
            for each in waiting:
                queue.push(each, _NOW_S)

    def discard_some() -> None:
        for queue in queues:
            for job_id in gone:
                queue.discard(job_id)

    push_us = _us(push_all, repeats * len(waiting))
    take_us = _take_us(queues[0], waiting[-1].since_s + 1)
    gone = Random(1).sample([each.job_id for each in waiting], min(len(waiting) // 2, _OPERATIONS_MIN))
    return push_us, take_us, _us(discard_some, repeats * len(gone))


def _take_us(queue: WaitingQueue, since_s: float) -> float:
    """Take jobs, with a new one coming for each that goes."""
    spent_s, count = 0.0, 0
    while count < _OPERATIONS_MIN:
        began_s = process_time()
        taken = queue.take(_NOW_S, _TAKEN_AT_ONCE)
        spent_s += process_time() - began_s
        for each in taken:
            count += 1
            queue.push(each._replace(since_s=since_s + count), _NOW_S)
    return spent_s / count * 1e6


def _us(work: Callable[[], None], operations: int) -> float:
    began_s = process_time()
    work()
    return (process_time() - began_s) / operations * 1e6


def _allocated_bytes(work: Callable[[], None]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def _waiting(jobs_count: int, users_count: int) -> Sequence[Waiting]:
    users = [f"user_{number}" for number in range(users_count)]
    priorities = list(Priority)
    return [
        Waiting(1e9 + number // 1000, f"job_{number:026d}", users[number % users_count], priorities[number % 3])
        for number in range(jobs_count)
    ]


def _job(number: int) -> Job:
    return Job(
        id=f"job_{number:026d}",
        user_id=f"user_{number % 100}",
        correlation_id=f"{number:036d}",
        spec=JobSpec(url=f"https://origin.example/releases/{number:09d}/data.bin"),
        created_at=utc(1e9 + number),
    )
