"""Leases that their agents do not hold: who is charged for it, and who gets the next one."""

import pytest
from control_rig import HandAgent, Rig, rig_with

from actors.ports import Command
from rayhaul.errors import Conflict, SourceTruncated
from rayhaul.job import JobStatus, Priority
from rayhaul.ledger.base import Role, Viewer
from rayhaul.report import CommitAsked
from rayhaul.settings import LivenessSettings

OPERATOR = Viewer("operator", Role.OPERATOR)
REQUEUES_MAX = LivenessSettings().requeues_max


async def test_a_lease_that_never_arrives_charges_nobody() -> None:
    """An agent that gets nothing of what it is sent: jobs go on elsewhere, uncharged, and it is sent ever less."""
    async with rig_with(scaling={"agents_min": 2}) as rig:
        deaf, good = await rig.begin(2)
        jobs = await _known(rig, 4)
        deaf.deaf = True
        await rig.call(rig.scheduler.set_paused(Priority.NORMAL, paused=False))
        await rig.live(600, each=lambda: _finish_all(good))
        sent = [job_id for job_id, agent, _ in rig.pool.sent if agent == deaf.name]
        assert 1 <= len(sent) <= 12, "four slots at once, then ever fewer"
        assert {await rig.status(job_id) for job_id in jobs} == {JobStatus.COMPLETED}
        assert [(await rig.job(job_id)).requeues for job_id in jobs] == [0] * 4


async def test_an_only_agent_that_hears_again() -> None:
    """Orders lost for an hour fail no job; once they arrive, the agent is trusted as before."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await _known(rig, 1)
        agent.deaf = True
        await rig.call(rig.scheduler.set_paused(Priority.NORMAL, paused=False))
        await rig.live(3600, step_s=5)
        job = await rig.job(job_id)
        assert (job.requeues, job.status.value in {"queued", "downloading"}) == (0, True)
        assert rig.record(agent.name).missed > REQUEUES_MAX
        agent.deaf = False
        await rig.live(400)
        assert agent.job_ids == [job_id]
        assert rig.record(agent.name).missed == 0


async def test_what_an_agent_held_and_dropped_is_charged() -> None:
    """A lease that was seen with its agent and is gone from there is charged, so that it ends some day."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        for _ in range(REQUEUES_MAX + 1):
            await rig.live(10)
            agent.held.clear()
            await rig.live(10)
        assert await rig.dead() == [job_id]


@pytest.mark.parametrize("times", [1, REQUEUES_MAX + 2])
async def test_our_own_silence_charges_nobody(times: int) -> None:
    """Agents that stopped because we did not answer say so: their jobs go on at once, and are charged nothing."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        jobs = await rig.running(3)
        for _ in range(times):
            await rig.live(10)
            agent.fence()
            await rig.live(1)
            assert sorted(agent.job_ids) == sorted(jobs)
        assert [(await rig.job(job_id)).requeues for job_id in jobs] == [0] * 3
        assert {(await rig.job(job_id)).attempt for job_id in jobs} == {1}


async def test_what_is_being_published_can_not_be_cancelled() -> None:
    """Once a job may publish it is too late: 409. Handed back it can be cancelled again, and its upload is undone."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        order = agent.order_of(job_id)
        agent.tell_opened(order)
        agent.tell(CommitAsked(notice_id=rig.new_id("note"), lease_id=order.lease_id, epoch=order.epoch, job_id=job_id))
        await agent.report()
        assert await rig.status(job_id) is JobStatus.UPLOADING
        with pytest.raises(Conflict):
            await rig.call(rig.scheduler.command(OPERATOR, job_id, Command.CANCEL))
        await rig.call(rig.scheduler.command(OPERATOR, job_id, Command.REQUEUE))
        await rig.call(rig.scheduler.command(OPERATOR, job_id, Command.CANCEL))
        await rig.live(2)
        (abort,) = agent.aborts
        assert abort.upload_id


async def test_what_a_lost_agent_may_have_put_is_taken_back() -> None:
    """Nobody knows whether its PUT got through: after a cancel it is taken back, unless the job lives again."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        agent.tell_commit(agent.order_of(job_id))
        await agent.report()
        await rig.call(rig.scheduler.command(OPERATOR, job_id, Command.REQUEUE))
        await rig.call(rig.scheduler.command(OPERATOR, job_id, Command.CANCEL))
        await rig.live(2)
        job = await rig.job(job_id)
        (order,) = agent.aborts
        assert (order.upload_id, order.key, order.epoch) == ("", job.key, job.epoch)
        agent.held.clear()
        await rig.call(rig.scheduler.command(OPERATOR, job_id, Command.RETRY))
        await rig.live(10)
        (order,) = agent.aborts
        assert order.epoch is None


async def test_an_upload_that_is_not_what_was_published() -> None:
    """A stream that comes to nothing is put at once: the upload that an earlier try had opened is aborted, no more."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        agent.tell_opened(agent.order_of(job_id))
        await agent.report()
        agent.tell_failed(agent.order_of(job_id), SourceTruncated().failure())
        await agent.report()
        await rig.live(60)
        agent.tell_done(agent.order_of(job_id), size_bytes=0)
        await agent.report()
        await rig.live(2)
        (abort,) = agent.aborts
        assert (await rig.status(job_id), bool(abort.upload_id), abort.epoch) == (JobStatus.COMPLETED, True, None)


async def test_an_abort_that_an_agent_gave_up_is_ordered_again_soon() -> None:
    """An agent that could not abort an upload holds the order no more; another try comes after seconds."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        agent.tell_opened(agent.order_of(job_id))
        await agent.report()
        await rig.call(rig.scheduler.command(OPERATOR, job_id, Command.CANCEL))
        await rig.live(2)
        await rig.live(30)
        assert len(agent.aborts) == 1, "one that is in hand is left to it"
        agent.held.clear()
        await rig.live(7)
        assert len(agent.aborts) == 1


async def test_a_job_that_never_ran_has_nothing_in_the_bucket() -> None:
    """Nobody looks for what a job may have put that was cancelled before its first lease."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await _known(rig, 1)
        await rig.call(rig.scheduler.command(OPERATOR, job_id, Command.CANCEL))
        await rig.live(2)
        assert agent.aborts == []


async def _known(rig: Rig, jobs: int) -> list[str]:
    """Return jobs whose metadata is here, and which wait because their priority is paused."""
    await rig.call(rig.scheduler.set_paused(Priority.NORMAL, paused=True))
    return await rig.running(jobs)


def _finish_all(agent: HandAgent) -> None:
    for order in agent.transfers:
        agent.tell_done(order)
