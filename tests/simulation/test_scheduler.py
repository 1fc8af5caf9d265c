"""Scheduler and ledger under faults, many histories: nothing is lost, nothing is done twice, and it all ends."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from world import SLOTS, World

from rayhaul.errors import RayhaulError
from rayhaul.job import FINAL, JobEvent, JobStatus
from rayhaul.ledger.base import Role, Viewer
from rayhaul.ledger.store import open_ledger
from rayhaul.settings import LedgerSettings

ALL = Viewer("simulation", Role.OPERATOR)
#: More by hand: RAYHAUL_SIMULATION_SEEDS=500 pytest tests/simulation; one alone: RAYHAUL_SIMULATION_FIRST=17 …_SEEDS=1.
FIRST = int(os.environ.get("RAYHAUL_SIMULATION_FIRST", "1"))
SEEDS = int(os.environ.get("RAYHAUL_SIMULATION_SEEDS", "12"))


@contextmanager
def _scratch() -> Iterator[Path]:
    """A directory in memory where there is one: the simulation is not about the disk."""
    shm = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="rayhaul-simulation-", dir=shm if os.access(shm, os.W_OK) else None))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


async def _check_leases(world: World) -> None:
    """At every moment: one live lease a job at most, no agent above its slots, leases only for jobs that run."""
    state = await world.ledger.state()
    jobs = [lease.job_id for lease in state.leases]
    assert len(jobs) == len(set(jobs)), "a job has two leases"
    for agent in world.agents:
        assert sum(lease.agent == agent for lease in state.leases) <= SLOTS
    running = {job.id for job in state.open_jobs if job.status in (JobStatus.DOWNLOADING, JobStatus.UPLOADING)}
    assert set(jobs) == running, "leases and running jobs differ"
    opened = [session.job_id for session in state.sessions if session.state == "open"]
    assert len(opened) == len(set(opened)), "a job has two open uploads"


async def _check_ends(world: World) -> None:
    """In the end: every accepted job ended once, its history tells how, and the bucket agrees."""
    for job_id in world.accepted:
        job = await world.ledger.job(ALL, job_id)
        assert job.status in FINAL
        history = await world.ledger.history(ALL, job_id)
        assert [event.event for event in history].count(JobEvent.CREATED) == 1
        assert sum(event.event in (JobEvent.COMPLETED, JobEvent.FAILED) for event in history) == 1
        assert all(event.payload["correlationId"] == job.correlation_id for event in history)
        epochs = [event.payload["epoch"] for event in history if event.event is JobEvent.STARTED]
        assert all(later == earlier + 1 for earlier, later in pairwise(epochs)), "an epoch was given twice or skipped"
        if job.status is JobStatus.COMPLETED:
            assert job.result is not None
            assert world.bucket.published[job.result.key] == job_id
    state = await world.ledger.state()
    assert not state.leases
    assert not state.sessions, "an upload that nobody needs is still open"


async def _history(seed: int, directory: Path) -> World:
    ledger = open_ledger(LedgerSettings(), f"sqlite:///{directory / 'ledger.db'}")
    try:
        world = World(seed, ledger)
        await world.scheduler.start()
        for _ in range(60):
            if world.happens(0.15):
                await world.submit(world.rng.randint(1, 4))
            await world.step()
            await _check_leases(world)
        world.odds.clear()
        for _ in range(400):
            await world.step()
            with suppress(RayhaulError):
                await _check_leases(world)
            state = await world.ledger.state()
            if not (state.open_jobs or state.sessions):
                break
        assert world.accepted
        await _check_ends(world)
        return world
    finally:
        await ledger.close()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_history(seed: int) -> None:
    """One seed, one history with faults; the seed in the test's name replays it."""
    with _scratch() as directory:
        asyncio.run(_history(seed, directory))
