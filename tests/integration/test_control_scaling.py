"""How many agents there are: bounds, the rule of the alert file, draining, and agents that are there in name only."""

from collections.abc import Sequence

import pytest
from control_rig import EVERYTHING, Rig, rig_with

from actors.ports import Command
from rayhaul.capacity import AgentState
from rayhaul.errors import NotFound
from rayhaul.job import JobStatus, utc


async def let_leave(rig: Rig) -> list[str]:
    """Let agents that drain and hold nothing say goodbye and exit; return their names."""
    gone = [agent for agent in rig.pool.lives.values() if agent.alive and agent.draining and not agent.held]
    for agent in gone:
        await agent.report(leaving=True)
        rig.leave(agent)
    return [agent.name for agent in gone]


def names(rig: Rig) -> Sequence[str]:
    return sorted(rig.pool.known)


# --- bounds ---


@pytest.mark.parametrize(
    ("known", "agents_min", "added"),
    [
        ([], 3, ["agent-1", "agent-2", "agent-3"]),
        (["agent-2"], 3, ["agent-1", "agent-3"]),
        (["agent-1", "agent-2", "agent-3"], 3, []),
        ([], 0, []),
    ],
)
async def test_bounds_at_start(known: list[str], agents_min: int, added: list[str]) -> None:
    """A scheduler that starts brings the agents up to the minimum, by the lowest free numbers, once."""
    async with rig_with(scaling={"agents_min": agents_min}) as rig:
        rig.pool.known |= set(known)
        await rig.restart()
        await rig.tick(5)
        assert rig.pool.added == added
        for _ in range(40):
            rig.clock.now_s += 1
            await rig.tick()
        assert rig.pool.added == added


async def test_more_than_the_maximum() -> None:
    """Too many: those that are not here yet are withdrawn first, the highest numbers of them, then idle ones drain."""
    async with rig_with(scaling={"agents_min": 1, "agents_max": 2}) as rig:
        rig.pool.known |= {f"agent-{number}" for number in range(1, 6)}
        first, second, third = (rig.enter(f"agent-{number}") for number in (1, 2, 3))
        await rig.restart()
        await rig.together(first.say(), second.say(), third.say())
        await rig.tick()
        assert rig.pool.withdrawn == ["agent-5", "agent-4"]
        await rig.live(3)
        assert sum(agent.draining for agent in (first, second, third)) == 1


async def test_the_first_agent_for_jobs_that_wait() -> None:
    """With no agent at all, a job that waits brings one; with none waiting the last one leaves."""
    async with rig_with(scaling={"agents_min": 0, "scale_in_window_s": 20, "cooldown_s": 5, "smoothing_s": 0}) as rig:
        await rig.restart()
        await rig.tick(3)
        assert rig.pool.added == []
        (job_id,) = await rig.submit()
        await rig.tick()
        assert rig.pool.added == ["agent-1"]
        agent = rig.enter("agent-1")
        await rig.beat()
        await rig.look()
        agent.tell_done(agent.order_of(job_id))
        await rig.live(60)
        assert await rig.status(job_id) is JobStatus.COMPLETED
        assert set(rig.pool.drained) == {"agent-1"}


# --- agents that are there and of no use ---


async def test_unfit_agents_are_not_replaced_for_ever() -> None:
    """Where every new agent is unfit as well (one full disk for all), no more than the maximum are started."""
    async with rig_with(scaling={"agents_min": 1, "agents_max": 3}) as rig:
        await rig.begin(1)

        def befall() -> None:
            for name in set(rig.pool.known) - set(rig.pool.lives):
                rig.enter(name)
            for agent in rig.pool.lives.values():
                agent.unfit = "disk full"

        await rig.live(1500, step_s=4, each=befall)
        assert len(names(rig)) <= 3


async def test_an_unfit_agent_is_replaced_within_the_bounds() -> None:
    """It is waited for; after five minutes another one is asked for, once; when it is fit again both work."""
    async with rig_with(scaling={"agents_min": 1, "agents_max": 2}) as rig:
        (agent,) = await rig.begin(1)
        agent.unfit = "disk full"
        await rig.live(295)
        assert names(rig) == ["agent-1"]
        await rig.live(10)
        assert names(rig) == ["agent-1", "agent-2"]
        second = rig.enter("agent-2")
        agent.unfit = None
        await rig.live(10)
        assert rig.pool.added == ["agent-1", "agent-2"]
        assert all(rig.record(each.name).takes_leases for each in (agent, second))


@pytest.mark.parametrize("why", ["drained", "unfit"])
async def test_what_can_not_be_carried_out_is_decided_once(why: str) -> None:
    """Where the bounds want an agent and the maximum has no room for it, the scheduler waits, and does not spin."""
    async with rig_with(scaling={"agents_min": 1, "agents_max": 1}) as rig:
        (agent,) = await rig.begin(1)
        await rig.running(1)
        if why == "drained":
            await rig.call(rig.scheduler.drain("agent-1"))
        else:
            agent.unfit = "disk full"
            await rig.live(305)
        await rig.beat()
        before = await rig.ledger.scaling(1000)
        await rig.tick(50)
        assert len(await rig.ledger.scaling(1000)) - len(before) <= 1
        assert names(rig) == ["agent-1"]


async def test_offline_agents_are_pending() -> None:
    """Ray starts a lost agent again by itself: it is not replaced, and it counts as pending."""
    async with rig_with(scaling={"agents_min": 2}) as rig:
        first, _ = await rig.begin(2)
        first.mute = True
        await rig.live(90)
        assert rig.record("agent-1").state is AgentState.OFFLINE
        assert rig.pool.added == ["agent-1", "agent-2"]
        gauges = rig.meter.snapshot().gauges
        assert gauges["rayhaul_agents_pending", ()] == 1
        assert gauges["rayhaul_agents_wanted", ()] == 2


async def test_an_agent_that_hangs_for_good_is_replaced() -> None:
    """A process that is there and never speaks again, which Ray does not notice, does not keep its place for ever."""
    async with rig_with(scaling={"agents_min": 1}) as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        agent.mute = True
        await rig.live(1800, step_s=4)
        assert rig.pool.added != ["agent-1"] or rig.pool.withdrawn == ["agent-1"]
        assert await rig.status(job_id) is JobStatus.QUEUED


async def test_a_name_that_stays_after_the_goodbye() -> None:
    """An agent that said goodbye and whose name stays in Ray's list is replaced all the same."""
    async with rig_with(scaling={"agents_min": 1}) as rig:
        (agent,) = await rig.begin(1)
        await rig.call(rig.scheduler.drain("agent-1"))
        await rig.live(3)
        assert rig.pool.added == ["agent-1", "agent-2"]
        second = rig.enter("agent-2")
        await agent.report(leaving=True)
        agent.alive = False
        await rig.live(30)
        await rig.call(rig.scheduler.drain("agent-2"))
        await rig.live(5)
        await second.report(leaving=True)
        rig.leave(second)
        await rig.live(30)
        assert "agent-1" in rig.pool.withdrawn, "what stays after its goodbye is cleared away"
        assert rig.pool.added[2:], "nobody works, and nobody was asked for"


async def test_a_name_that_is_used_again_at_once() -> None:
    """An agent asked for under a name that has just said goodbye is counted: one is missing, one is started."""
    async with rig_with(scaling={"agents_min": 0}) as rig:
        await rig.restart()
        await rig.tick(2)
        await rig.submit()
        await rig.tick()
        agent = rig.enter("agent-1")
        await rig.beat()
        await rig.look()
        await rig.call(rig.scheduler.drain("agent-1"))
        agent.tell_done(agent.transfers[0])
        await agent.report()
        await agent.report(leaving=True)
        rig.leave(agent)
        rig.clock.now_s += 2
        await rig.tick()
        await rig.submit()
        for _ in range(5):
            rig.clock.now_s += 1
            await rig.tick()
        assert len(names(rig)) == 1


# --- draining ---


async def test_drain() -> None:
    """A drained agent gets no more, finishes what it has, leaves, and is replaced where the bounds need it."""
    async with rig_with(scaling={"agents_min": 1}) as rig:
        (agent,) = await rig.begin(1)
        (running,) = await rig.running(1)
        view = await rig.call(rig.scheduler.drain("agent-1"))
        assert view.state is AgentState.DRAINING
        (waiting,) = await rig.submit()
        await rig.live(5)
        assert agent.job_ids == [running]
        assert rig.pool.added == ["agent-1", "agent-2"]
        second = rig.enter("agent-2")
        await rig.look()
        assert second.job_ids == [waiting]
        agent.tell_done(agent.order_of(running))
        await rig.beat()
        assert await let_leave(rig) == ["agent-1"]
        await rig.live(30)
        assert [view.agent for view in await rig.scheduler.agents()] == ["agent-2"]
        assert await rig.status(running) is JobStatus.COMPLETED
        assert (await rig.job(running)).requeues == 0
        with pytest.raises(NotFound):
            await rig.call(rig.scheduler.drain("agent-9"))


async def test_a_drain_order_that_was_lost() -> None:
    """An agent that does not say that it drains is told again."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        agent.deaf = True
        await rig.call(rig.scheduler.drain("agent-1"))
        await rig.live(6)
        assert not agent.draining
        agent.deaf = False
        await rig.live(6)
        assert rig.record("agent-1").draining
        told = len(rig.pool.drained)
        await rig.live(10)
        assert len(rig.pool.drained) == told


@pytest.mark.parametrize("restarted", [False, True])
async def test_draining_for_too_long(*, restarted: bool) -> None:
    """After `drain_s` what is left is stopped and handed back, uncharged; also when the scheduler restarts."""
    async with rig_with(scaling={"agents_min": 1, "drain_s": 60}) as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        await rig.call(rig.scheduler.drain("agent-1"))
        await rig.live(5)
        if restarted:
            await rig.restart()
        second = rig.enter("agent-2")
        await rig.live(50)
        assert agent.job_ids == [job_id]
        await rig.live(70)
        assert agent.job_ids == []
        assert second.job_ids == [job_id]
        job = await rig.job(job_id)
        assert (job.requeues, job.attempt) == (0, 1)


async def test_a_drained_agent_that_crashes() -> None:
    """Its next life drains as well: what an operator asked for is not forgotten with the process."""
    async with rig_with(scaling={"agents_min": 1}) as rig:
        await rig.begin(1)
        (job_id,) = await rig.running(1)
        await rig.call(rig.scheduler.drain("agent-1"))
        again = rig.enter("agent-1")
        await rig.live(6)
        assert again.draining
        assert again.job_ids == []
        assert (await rig.job(job_id)).requeues == 1


async def test_asking_twice_does_not_put_the_end_off() -> None:
    """Draining what drains already leaves its deadline where it was."""
    async with rig_with(scaling={"agents_min": 1, "drain_s": 60}) as rig:
        (agent,) = await rig.begin(1)
        await rig.running(1)
        for _ in range(4):
            await rig.call(rig.scheduler.drain("agent-1"))
            await rig.live(30)
        assert agent.job_ids == []


# --- by the rule ---

QUICK = {"cooldown_s": 10, "scale_in_window_s": 20, "smoothing_s": 0, "agents_min": 1, "agents_max": 4}


def arrive(rig: Rig) -> None:
    for name in set(rig.pool.known) - set(rig.pool.lives):
        rig.enter(name)
    for agent in rig.pool.lives.values():
        agent.find_all()


async def test_out_and_in_by_the_rule() -> None:
    """Over 90 % for the rule's window: more agents, up to the maximum. Idle: drained one by one, least loaded first."""
    async with rig_with(window_s=10, scaling=QUICK) as rig:
        (first,) = await rig.begin(1)
        jobs = await rig.submit(16)
        began_s = rig.clock.now_s

        def until_more() -> None:
            arrive(rig)

        await rig.live(9, each=until_more)
        assert names(rig) == ["agent-1"]
        await rig.live(80, each=until_more)
        assert names(rig) == ["agent-1", "agent-2", "agent-3", "agent-4"]
        assert rig.clock.now_s - began_s < 120
        assert (await rig.job(jobs[0])).requeues == 0
        held = {name: len(agent.job_ids) for name, agent in rig.pool.lives.items()}
        assert sum(held.values()) == 16
        # All but two jobs of the first end.
        for agent in rig.pool.lives.values():
            for order in agent.transfers[2 if agent is first else 0 :]:
                agent.tell_done(order)
        left: list[str] = []
        for _ in range(200):
            await rig.live(1, each=until_more)
            left += await let_leave(rig)
        assert left == ["agent-2", "agent-3", "agent-4"]
        assert len(first.job_ids) == 2
        assert all([(await rig.job(job_id)).requeues == 0 for job_id in jobs])


async def test_a_clock_set_back_does_not_stop_scaling() -> None:
    """The cooldown is over when its time has passed, and not when the clock is where it was."""
    async with rig_with(window_s=10, scaling=QUICK) as rig:
        await rig.begin(1)
        await rig.submit(16)
        await rig.live(14, each=lambda: arrive(rig))
        assert names(rig) == ["agent-1", "agent-2"]
        rig.clock.now_s -= 86_400
        await rig.live(120, each=lambda: arrive(rig))
        assert len(names(rig)) == 4


async def test_pending_agents_are_withdrawn_first() -> None:
    """When the load is gone before the new agents are there, those are given up, and nobody drains."""
    async with rig_with(window_s=5, scaling=QUICK) as rig:
        (first,) = await rig.begin(1)
        await rig.submit(16)
        await rig.live(8, each=first.find_all)
        assert len(names(rig)) == 2
        for job_id in list(rig.book.jobs):
            await rig.call(rig.scheduler.command(EVERYTHING, job_id, Command.CANCEL))
        await rig.live(60)
        assert rig.pool.withdrawn == ["agent-2"]
        assert rig.pool.drained == []
        assert names(rig) == ["agent-1"]


async def test_a_job_for_tomorrow_keeps_no_agent() -> None:
    """Jobs that can not start now (later, or their priority is paused) neither wake an agent nor keep the last one."""
    async with rig_with(window_s=5, scaling={**QUICK, "agents_min": 0}) as rig:
        await rig.restart()
        await rig.tick(2)
        await rig.submit(not_before=utc(rig.clock() + 86_400))
        await rig.tick()
        rig.enter("agent-1")
        await rig.live(5, each=lambda: arrive(rig))
        for _ in range(120):
            await rig.live(1)
            await let_leave(rig)
        assert names(rig) == []
        assert rig.pool.added == ["agent-1"]
