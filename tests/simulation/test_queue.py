"""The queue in the scheduler's hands: limits hold under faults, places are used again at once, and waiting is idle."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from world import SLOTS, World

from rayhaul.job import Job, JobSpec, JobStatus, utc
from rayhaul.lease import ProbeOrder, TransferOrder
from rayhaul.ledger.base import Batch, LedgerState
from rayhaul.ledger.store import open_ledger
from rayhaul.settings import LedgerSettings, QueueSettings

RUNNING_MAX = 2
PROBE_SLOTS = 4


def _live(directory: Path, life: Callable[[World], Coroutine[None, None, None]], *, seed: int, agents: int) -> None:
    async def run() -> None:
        ledger = open_ledger(LedgerSettings(), f"sqlite:///{directory / 'ledger.db'}")
        try:
            await life(World(seed, ledger, agents=agents))
        finally:
            await ledger.close()

    asyncio.run(run())


def _running(state: LedgerState) -> Counter[str]:
    user_of = {job.id: job.user_id for job in state.open_jobs}
    return Counter(user_of[job_id] for job_id in {lease.job_id for lease in state.leases})


@pytest.mark.parametrize("seed", range(1, 4))
def test_limit_under_faults(tmp_path: Path, seed: int) -> None:
    """Whatever is lost or dies, nobody runs more jobs than the limit, the book counts right, and all jobs end."""

    async def life(world: World) -> None:
        limited = {"queue": QueueSettings(running_per_user_max=RUNNING_MAX)}
        world.settings = world.settings.model_copy(update=limited)
        world.scheduler = world._new_scheduler()
        await world.scheduler.start()
        most: Counter[str] = Counter()
        for turn in range(600):
            if turn % 12 == 0 and turn < 60:
                await world.submit(6, user="ann")
                await world.submit(3, user="bob")
            if turn == 60:
                world.odds.clear()
            await world.step()
            state = await world.ledger.state()
            running = _running(state)
            assert all(count <= RUNNING_MAX for count in running.values()), running
            if not world.scheduler._book_in_doubt:
                assert world.scheduler._book.running == running
            most |= running
            if turn > 60 and not state.open_jobs:
                break
        assert not state.open_jobs
        assert most == {"ann": RUNNING_MAX, "bob": RUNNING_MAX}, "the limit was never reached"
        assert not world.scheduler._book._user_of_running

    _live(tmp_path, life, seed=seed, agents=3)


def test_places_are_used_again_at_once(tmp_path: Path) -> None:
    """A place is free in the very turn that hears of its end: while enough wait, the agent has its hands full."""

    async def life(world: World) -> None:
        world.odds.clear()
        await world.scheduler.start()
        await world.step()
        await world.submit(60)
        full: Counter[type] = Counter()
        for _ in range(80):
            book = world.scheduler._book
            enough = {ProbeOrder: len(book.unprobed) >= PROBE_SLOTS, TransferOrder: len(book.waiting) >= SLOTS}
            await world.step()
            assert len(book.probing) <= 2 * PROBE_SLOTS, "probes whose outcome was heard long ago are kept"
            in_hand = Counter(type(work.order) for work in world.agents["agent-1"].work.values())
            for kind, places in ((ProbeOrder, PROBE_SLOTS), (TransferOrder, SLOTS)):
                assert in_hand[kind] <= places
                if enough[kind]:
                    assert in_hand[kind] == places, f"{places - in_hand[kind]} places for a {kind.__name__} are empty"
                    full[kind] += 1
        assert min(full.values()) > 10

    _live(tmp_path, life, seed=1, agents=1)


def test_waiting_for_an_agent_is_idle(tmp_path: Path) -> None:
    """A job whose time has come while no agent is there does not keep the loop turning."""

    async def life(world: World) -> None:
        asked = Job(
            id="job_1",
            user_id="ann",
            correlation_id="correlation",
            spec=JobSpec(url="https://origin.example/file"),
            created_at=utc(world.now_s),
            status=JobStatus.QUEUED,
            next_attempt_at=utc(world.now_s + 0.5),
        )
        await world.ledger.commit(Batch(jobs_new=[asked]))
        world.odds.clear()
        await world.scheduler.start()
        assert world.scheduler._idle_s() == pytest.approx(0.5)
        world.now_s += 10
        await world.scheduler.tick()
        assert world.scheduler._idle_s() == 1.0

    _live(tmp_path, life, seed=1, agents=0)
