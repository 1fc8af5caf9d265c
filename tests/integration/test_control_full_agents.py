"""Agents that have no room of their own for a job: it is another one's, or waits; nobody else is slowed for it."""

from collections.abc import Sequence

import pytest
from control_rig import HandAgent, Rig, rig_with

from rayhaul.errors import AgentFull, Failure, HostFull, SourceBusy
from rayhaul.job import JobStatus

FULL = AgentFull("The scratch disk of this agent has no room now.", retry_after_s=30).failure()


async def refuse(rig: Rig, agents: Sequence[HandAgent], job_id: str) -> HandAgent:
    """Have the job's agent say that it has no room; return it."""
    (agent,) = (agent for agent in agents if job_id in agent.job_ids)
    agent.tell_failed(agent.order_of(job_id), FULL)
    await rig.beat()
    return agent


async def test_it_goes_to_another_agent() -> None:
    """At once, uncharged, and told so; the host has all of its connections, and the agent its other jobs."""
    async with rig_with() as rig:
        agents = await rig.begin(2)
        (job_id,) = await rig.running()
        full = await refuse(rig, agents, job_id)
        await rig.tick()
        other = rig.holder(job_id)
        assert other is not full
        job = await rig.job(job_id)
        assert (job.attempt, job.requeues) == (1, 0)
        requeued = [record.payload for record in await rig.history(job_id) if record.event == "requeued"]
        assert [(told["agent"], told["code"], told["message"]) for told in requeued] == [
            (full.name, "internal", "The scratch disk of this agent has no room now.")
        ]
        (host,) = rig.book.hosts.records(rig.clock.now_s)
        assert (host.connections_max, host.pause_until_s) == (rig.settings.hosts.connections_max, None)
        # The agent is not avoided: of two that have as much to do it is one.
        await rig.running(2)
        assert full.transfers
        other.tell_done(other.order_of(job_id))
        await rig.beat()
        assert await rig.status(job_id) is JobStatus.COMPLETED


async def test_it_waits_where_all_are_full() -> None:
    """It says why; no attempt is used up, however long that is; then it is done, as the first one has room again."""
    async with rig_with(transfer={"attempts_max": 2}) as rig:
        agents = await rig.begin(2)
        (job_id,) = await rig.running()
        asked: list[float] = []
        end_s = rig.clock.now_s + 600
        while rig.clock.now_s < end_s:
            await rig.live(1)
            if any(job_id in agent.job_ids for agent in agents):
                asked.append(rig.clock.now_s)
                await refuse(rig, agents, job_id)
        job = await rig.job(job_id)
        assert (job.status, job.attempt, job.requeues) == (JobStatus.QUEUED, 0, 0)
        assert job.error is not None
        assert job.error.message == FULL.message
        # Both at once, then after 30 s, 60 s, and from then on every 120 s.
        assert 8 <= len(asked) <= 14
        await rig.live(130)
        assert any(job_id in agent.job_ids for agent in agents)


async def test_a_look_goes_to_another_agent() -> None:
    """So does a look at a file, and what it costs is the same: nothing."""
    async with rig_with() as rig:
        first, second = await rig.begin(2)
        (job_id,) = await rig.submit()
        await rig.tick()
        full, other = (first, second) if first.probes else (second, first)
        full.tell_not_found(full.probes[0], FULL)
        await rig.beat()
        await rig.tick()
        assert [order.context.job_id for order in other.probes] == [job_id]
        assert ((await rig.job(job_id)).attempt, len(full.probes)) == (0, 0)


@pytest.mark.parametrize("of_look", [True, False], ids=["look", "lease"])
async def test_a_host_that_has_no_room_for_more_is_waited_for(*, of_look: bool) -> None:
    """Nobody asked it: no attempt is used up, however often, and each time the job waits as long as the host said."""
    async with rig_with(transfer={"attempts_max": 2}) as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.submit() if of_look else await rig.running()
        await rig.tick()
        for _ in range(4):
            if of_look:
                agent.tell_not_found(agent.probes[0], HostFull(retry_after_s=90).failure())
            else:
                agent.tell_failed(agent.order_of(job_id), HostFull(retry_after_s=90).failure())
            await rig.beat()
            await rig.live(80)
            job = await rig.job(job_id)
            assert (job.status, job.attempt, agent.held) == (JobStatus.QUEUED, 0, {})
            await rig.live(20)
            assert [*agent.job_ids, *(order.context.job_id for order in agent.probes)] == [job_id]


@pytest.mark.parametrize(
    "failure", [FULL, HostFull().failure(), SourceBusy().failure()], ids=["full", "host full", "busy"]
)
async def test_only_what_says_nothing_of_the_job_costs_nothing(failure: Failure) -> None:
    """A source that is busy is so for every agent: that is an attempt."""
    async with rig_with() as rig:
        await rig.begin(2)
        (job_id,) = await rig.running()
        agent = rig.holder(job_id)
        agent.tell_failed(agent.order_of(job_id), failure)
        await rig.live(60)
        assert (await rig.job(job_id)).attempt == (2 if failure.code == SourceBusy.code and not failure.of_host else 1)
