"""The queue in the scheduler's hands: limits hold under faults, places are used again at once, and waiting is idle."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine

import pytest
from history import FAIR_STEPS_MAX
from setups import Setup
from surroundings import PROBE_SLOTS, SLOTS
from weather import Odds
from world import World

from rayhaul.job import Job, JobSpec, JobStatus, utc
from rayhaul.lease import ProbeOrder, TransferOrder

RUNNING_MAX = 2
#: Faults that leave the scheduler and the limits as they are.
ROUGH = {"order_lost": 0.1, "report_lost": 0.1, "agent_dies": 0.02, "agent_cut_off": 0.01, "source_busy": 0.1}


def _live(setup: Setup, life: Callable[[World], Coroutine[None, None, None]]) -> None:
    asyncio.run(life(World(setup)))


def _running(world: World) -> Counter[str]:
    rows = world.reference.rows
    return Counter(rows.jobs[job_id].user_id for job_id in {lease.job_id for lease in rows.leases.values()})


@pytest.mark.parametrize("seed", range(1, 4))
def test_limit_under_faults(seed: int) -> None:
    """Whatever is lost or dies, nobody runs more jobs than the limit, the book counts right, and all jobs end."""

    async def life(world: World) -> None:
        await world.begin()
        most: Counter[str] = Counter()
        for turn in range(FAIR_STEPS_MAX):
            if turn % 12 == 0 and turn < 60:
                world.people.submit(6, user="ann")
                world.people.submit(3, user="bob")
            if turn == 60:
                world.heal()
            await world.step()
            running = _running(world)
            assert world.scheduler._book.running == running
            most |= running
            if turn > 60 and not world.reference.rows.open:
                break
        assert not world.reference.rows.open
        assert most == {"ann": RUNNING_MAX, "bob": RUNNING_MAX}, "the limit was never reached"
        assert not world.scheduler._book._user_of_running

    _live(Setup(seed=seed, odds=Odds.only(**ROUGH), agents=3, running_per_user_max=RUNNING_MAX), life)


def test_places_are_used_again_at_once() -> None:
    """A place is free in the very turn that hears of its end: while enough wait, the agent has its hands full."""

    async def life(world: World) -> None:
        await world.begin()
        for _ in range(10):
            await world.step()
        world.people.submit(60, user="ann")
        full: Counter[type] = Counter()
        for _ in range(80):
            book = world.scheduler._book
            enough = {ProbeOrder: len(book.unprobed) >= PROBE_SLOTS, TransferOrder: len(book.waiting) >= SLOTS}
            await world.step()
            assert len(book.probing) <= 2 * PROBE_SLOTS, "probes whose outcome was heard long ago are kept"
            in_hand = Counter(type(hand.order) for hand in world.network.agents["agent-1"].held.values())
            for kind, places in ((ProbeOrder, PROBE_SLOTS), (TransferOrder, SLOTS)):
                assert in_hand[kind] <= places
                if enough[kind]:
                    assert in_hand[kind] == places, f"{places - in_hand[kind]} places for a {kind.__name__} are empty"
                    full[kind] += 1
        assert min(full[ProbeOrder], full[TransferOrder]) > 10

    _live(Setup(seed=1, odds=Odds.only(), agents=1, agents_more=0), life)


def test_waiting_for_an_agent_is_idle() -> None:
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
        world.reference.rows.jobs["job_1"] = world.reference.rows.open["job_1"] = asked
        await world.begin()
        loop = world.scheduler._loop
        assert loop._idle_s() == pytest.approx(0.5)
        world.around.now_s += 10
        await world.scheduler.tick()
        assert loop._idle_s() == 1.0

    _live(Setup(seed=1, odds=Odds.only(), agents=0), life)
