"""The scheduler's turns: poisoned calls, failed commits, two schedulers, restarts, and what operators ask for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from control_rig import EVERYTHING, HandAgent, HandPool, Rig, rig_with, spec

from actors.ports import Accepted, Command, Submission
from rayhaul.errors import Conflict, Internal, InvalidRequest, NotFound, RayhaulError, Unavailable
from rayhaul.job import JobSpec, JobStatus, Priority, utc
from rayhaul.lease import Order
from rayhaul.ledger.base import ApiKey, Batch, Deposed, JobFilter, Role, Viewer
from rayhaul.ledger.deliveries import DisabledWebhook
from rayhaul.metrics import JOBS_CREATED, JOBS_FINISHED, POISONED_CALLS, Meter

SURROGATE = "\ud800"
ALICE = Viewer("alice")


async def answers_of(rig: Rig, specs: Sequence[JobSpec]) -> list[Accepted | BaseException]:
    return await rig.together(*(rig.put_in(each) for each in specs))


# --- poison in calls ---


@pytest.mark.parametrize("place", [0, 25, 50])
async def test_one_bad_submission_among_many(place: int) -> None:
    """A text that no column can hold costs its own caller the answer, and nobody else anything."""
    async with rig_with() as rig:
        await rig.begin(1)
        specs = [spec(tags={"n": str(n)}) for n in range(50)]
        specs.insert(place, spec(tags={"n": SURROGATE}))
        answers = await answers_of(rig, specs)
        bad = answers.pop(place)
        assert isinstance(bad, InvalidRequest), bad
        ids = [answer.job_ids[0] for answer in answers if isinstance(answer, Accepted)]
        assert len(set(ids)) == 50
        assert {await rig.status(job_id) for job_id in ids} == {JobStatus.QUEUED}
        assert rig.count(JOBS_CREATED) == 50
        assert rig.count(POISONED_CALLS) == 1


async def test_bad_and_good_by_turns() -> None:
    """Whoever else is poisoned, each caller gets its own answer, once."""
    async with rig_with() as rig:
        await rig.begin(1)
        answers = await answers_of(rig, [spec(tags={"n": SURROGATE if n % 3 == 0 else "x"}) for n in range(20)])
        assert [isinstance(answer, InvalidRequest) for answer in answers] == [n % 3 == 0 for n in range(20)]
        assert rig.count(JOBS_CREATED) == 13
        assert (await rig.scheduler.queue()).depth["normal"] == 13


@pytest.mark.parametrize("key", [SURROGATE, "a\x00b"])
async def test_bad_idempotency_key(key: str) -> None:
    """A key that can not be looked up is refused, and the others of the turn are not."""
    async with rig_with() as rig:
        await rig.begin(1)
        bad = replace(_submission(spec()), idempotency=(key, "f" * 64))
        first, second = await rig.together(rig.scheduler.submit(bad), rig.put_in(spec()))
        assert isinstance(second, Accepted)
        assert isinstance(first, InvalidRequest if key == SURROGATE else Accepted)


async def test_nothing_of_a_refused_submission_is_kept() -> None:
    """All or nothing: where one job of a submission is refused, its others are not made."""
    async with rig_with() as rig:
        await rig.begin(1)
        with pytest.raises(InvalidRequest):
            await rig.call(rig.put_in(spec(key="good"), spec(key="/bad/")))
        assert list(rig.book.jobs) == []


async def test_a_bug_in_one_call_hits_one_caller() -> None:
    """An error of ours that the ledger raises for one call's rows is that call's answer; all others stand."""
    async with rig_with() as rig:
        await rig.begin(1)
        seen: list[int] = []

        async def commit(batch: Batch) -> None:
            seen.append(len(batch.jobs_new))
            if any(job.spec.url.endswith("/bug") for job in batch.jobs_new):
                raise TypeError("a bug of ours")
            await rig.ledger.commit(batch)

        rig.seam.instead["commit"] = commit
        answers = await answers_of(rig, [spec(url=f"https://a.example/{n if n != 7 else 'bug'}") for n in range(20)])
        assert [n for n, answer in enumerate(answers) if not isinstance(answer, Accepted)] == [7]
        assert isinstance(answers[7], Internal)
        assert len(rig.book.jobs) == 19
        assert sum(n for n in seen) > 20, "the turn was taken in pieces"


async def test_a_bug_in_one_application_hits_one_caller() -> None:
    """So it is where the bug is in what the call does to the draft."""
    async with rig_with() as rig:
        await rig.begin(1)

        def apply(_: Any) -> None:
            raise KeyError("a bug of ours")

        good, bad, also_good = await rig.together(
            rig.put_in(spec()), rig.scheduler._loop.ask(apply), rig.put_in(spec())
        )
        assert isinstance(good, Accepted)
        assert isinstance(bad, Internal)
        assert isinstance(also_good, Accepted)


# --- poison in notices ---


async def test_one_bad_notice_among_good_ones() -> None:
    """The good notices of a report count, the bad one's job fails and is dead-lettered, the next report is clean."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        jobs = await rig.running(3)
        bad = agent.order_of(jobs[1])
        ids = [agent.tell_done(agent.order_of(jobs[0])), agent.tell_opened(bad, upload_id=SURROGATE)]
        ids.append(agent.tell_done(agent.order_of(jobs[2])))
        other = await rig.together(agent.say(), rig.put_in(spec()))
        assert isinstance(other[1], Accepted)
        assert [agent.counted[notice_id] for notice_id in ids] == [True, False, True]
        assert list((await rig.statuses(jobs)).values()) == ["completed", "failed", "completed"]
        assert await rig.dead() == [jobs[1]]
        assert await rig.events(jobs[1]) == ["created", "metadata", "started", "failed", "deadlettered"]
        reply = await agent.report()
        assert not agent.waiting
        assert not reply.revoked
        assert rig.book.dead_letters_count == 1


@pytest.mark.parametrize("big", [2**63, 2**80])
async def test_a_number_that_no_column_holds(big: int) -> None:
    """A part of more bytes than 64 bits count is poison of the same kind."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        jobs = await rig.running(2)
        first, second = (agent.order_of(job_id) for job_id in jobs)
        agent.tell_opened(first, session_id="session_a")
        agent.tell_opened(second, session_id="session_b")
        await agent.report()
        good = agent.tell_parts(first, "session_a", 1)
        bad = agent.tell_parts(second, "session_b", 1, size_bytes=big)
        await agent.report()
        assert (agent.counted[good], agent.counted[bad]) == (True, False)
        assert list((await rig.statuses(jobs)).values()) == ["downloading", "failed"]
        assert len(await rig.ledger.parts("session_a")) == 1


async def test_a_file_name_that_makes_no_key() -> None:
    """Metadata out of which no object key can be made fails its job, and not all that the agent has to say."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        jobs = await rig.submit(3)
        await rig.tick()
        probes = agent.probes
        agent.tell_found(probes[0])
        agent.tell_found(probes[1], filename=f"a{SURROGATE}b")
        agent.tell_found(probes[2])
        await agent.report()
        assert not agent.waiting
        await rig.tick()
        assert list((await rig.statuses(jobs)).values()) == ["downloading", "failed", "downloading"]


async def test_poison_of_a_paused_job() -> None:
    """A notice that the ledger can not take is refused also where its job was paused meanwhile."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.submit()
        await rig.tick()

        async def commit(batch: Batch) -> None:
            if any(job.metadata is not None for job in batch.jobs_changed):
                raise TypeError("a bug of ours")
            if any(job.status is JobStatus.FAILED for job in batch.jobs_changed):
                raise Unavailable("the disk is full")
            await rig.ledger.commit(batch)

        rig.seam.instead["commit"] = commit
        bad = agent.tell_found(agent.probes[0])
        with pytest.raises(Unavailable):
            await agent.report()
        rig.seam.instead.clear()
        await rig.call(rig.scheduler.command(ALICE, job_id, Command.PAUSE))
        await agent.report()
        assert agent.counted[bad] is False
        assert not agent.waiting


async def test_a_report_that_fails_for_another_reason_fails_no_job() -> None:
    """Where it is not the notices that bring a report down, their jobs are not taken for poison."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        lost, *jobs = await rig.running(3)

        async def commit(batch: Batch) -> None:
            if any(job.id == lost for job in batch.jobs_changed):
                raise TypeError("a bug of ours")
            await rig.ledger.commit(batch)

        rig.seam.instead["commit"] = commit
        rig.clock.now_s += 5.5
        # It does not hold the lost one any more: the scheduler has to hand it back, and can not.
        del agent.held[agent.order_of(lost).lease_id]
        for job_id in jobs:
            agent.tell_done(agent.order_of(job_id))
        said, other = await rig.together(agent.say(), rig.put_in(spec()))
        assert isinstance(said, RayhaulError)
        assert isinstance(other, Accepted), other
        del rig.seam.instead["commit"]
        await agent.report()
        assert list((await rig.statuses(jobs)).values()) == ["completed", "completed"]


# --- commits that fail ---


@pytest.mark.parametrize("stands", [False, True])
async def test_counters_are_not_doubled(*, stands: bool) -> None:
    """What a failed commit would have counted is counted once, by the commit that stands."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        agent.tell_done(agent.order_of(job_id))

        async def commit(batch: Batch) -> None:
            if stands:
                await rig.ledger.commit(batch)
            raise Unavailable("the disk is full")

        rig.seam.instead["commit"] = commit
        with pytest.raises(Unavailable):
            await agent.report()
        with pytest.raises(Unavailable):
            await rig.call(rig.put_in(spec()))
        assert not await rig.scheduler.ready()
        del rig.seam.instead["commit"]
        await agent.report()
        await agent.report()
        assert await rig.status(job_id) is JobStatus.COMPLETED
        assert rig.count(JOBS_FINISHED) == 1
        assert await rig.events(job_id) == ["created", "metadata", "started", "uploading", "completed"]
        assert await rig.scheduler.ready()


async def test_a_failed_commit_costs_no_lease() -> None:
    """Orders on their way when a commit failed are not taken for lost."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.submit()
        await rig.tick()
        agent.find_all()
        early = agent.compose  # the agent's next report is composed before the order arrives
        await agent.report()
        agent.deaf = True
        await rig.tick()
        rig.seam.fail["commit"] = Unavailable("the disk is full")
        with pytest.raises(Unavailable):
            await rig.call(rig.put_in(spec()))
        rig.seam.fail.clear()
        rig.clock.now_s += 1
        await rig.call(rig.scheduler.report(early()))
        job = await rig.job(job_id)
        assert (job.status, job.requeues) == (JobStatus.DOWNLOADING, 0)


async def test_what_a_failed_turn_decided_is_not_done_later() -> None:
    """A scheduler that is told to rest after it starts nothing: no look, and no agent in place of one that left."""
    async with rig_with(scaling={"agents_min": 2}) as rig:
        agent, other = await rig.begin(2)
        await rig.submit()
        rig.seam.fail["commit"] = Unavailable("the disk is full")
        with pytest.raises(Unavailable):
            await rig.call(other.say(leaving=True))
        rig.seam.fail.clear()
        await rig.scheduler.rest()
        asked_for = list(rig.pool.added)
        await rig.tick()
        assert (agent.probes, rig.pool.added) == ([], asked_for)


async def leased_again_without_its_parts(rig: Rig) -> tuple[HandAgent, str]:
    """Have a job's upload be gone on with while the ledger does not tell its parts: the order cannot be made."""
    (agent,) = await rig.begin(1)
    (job_id,) = await rig.running(1)
    agent.tell_opened(agent.order_of(job_id))
    await agent.report()
    await rig.call(rig.scheduler.stop_job(agent.name, job_id))
    rig.seam.fail["parts"] = Unavailable("no connection")
    return agent, job_id


async def test_orders_that_can_not_be_made_cost_no_turn() -> None:
    """A read that fails after the commit takes nothing back: its lease is sent again later, uncharged."""
    async with rig_with() as rig:
        agent, job_id = await leased_again_without_its_parts(rig)
        with suppress(Unavailable):
            await rig.tick()
        rig.seam.fail.clear()
        await rig.live(2)
        assert (await rig.job(job_id)).requeues == 0
        await rig.live(8)
        assert job_id in agent.job_ids


async def test_orders_that_can_not_be_made_for_long() -> None:
    """Nobody is blamed: the lease stays with its agent, which is sent it as soon as it can be."""
    async with rig_with() as rig:
        agent, job_id = await leased_again_without_its_parts(rig)
        await rig.live(300, step_s=5)
        rig.seam.fail.clear()
        await rig.live(1)
        assert agent.job_ids == [job_id]
        job = await rig.job(job_id)
        assert (job.epoch, job.requeues, rig.record(agent.name).missed) == (2, 0, 0)


async def test_an_agent_that_can_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders for the others leave in the same turn, and once; its own go out again once it is there, uncharged."""
    async with rig_with(agent={"slots": 1}) as rig:
        lost, other = await rig.begin(2)
        assign = HandPool.assign

        async def broken(pool: HandPool, agent: str, orders: Sequence[Order]) -> None:
            if agent == lost.name:
                raise Unavailable("no way there")
            await assign(pool, agent, orders)

        job_ids = await rig.submit(2)
        await rig.tick()
        lost.find_all()
        other.find_all()
        monkeypatch.setattr(HandPool, "assign", broken)
        await rig.together(lost.say(), other.say())
        await rig.tick()
        assert [agent for _, agent, _ in rig.pool.sent] == [other.name]
        await rig.scheduler.rest()
        await rig.tick(2)
        assert len(rig.pool.sent) == 1
        monkeypatch.undo()
        rig.scheduler._loop.is_resting = False
        await rig.live(8)
        assert [job_id for agent in (lost, other) for job_id in agent.job_ids] == job_ids
        assert [(await rig.job(job_id)).requeues for job_id in job_ids] == [0, 0]
        assert len(rig.pool.sent) == 2


# --- two schedulers ---


async def test_a_second_scheduler_takes_the_lead() -> None:
    """The first one's calls are refused, its commits do not stand, its loop ends; agents go on with the second."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        first = rig.scheduler
        await rig.restart()
        running = asyncio.create_task(first.run())
        with pytest.raises(Unavailable):
            await asyncio.wait_for(first.submit(_submission(spec())), 10)
        with pytest.raises(Deposed):
            await asyncio.wait_for(running, 10)
        assert len(await rig.ledger.jobs(EVERYTHING, _all())) == 1
        for call in (first.submit(_submission(spec())), first.report(agent.compose()), first.replay(job_id)):
            with pytest.raises(Unavailable):
                await call
        assert not await first.ready()
        agent.tell_done(agent.order_of(job_id))
        await agent.report()
        assert await rig.status(job_id) is JobStatus.COMPLETED


async def test_calls_that_wait_when_the_lead_is_lost() -> None:
    """Who came in during the last turn is told as well, and does not wait for ever."""
    async with rig_with() as rig:
        await rig.begin(1)
        first = rig.scheduler
        await rig.restart()
        entered, release = asyncio.Event(), asyncio.Event()
        rig.seam.hold["commit"] = (entered, release)
        running = asyncio.create_task(first.run())
        early = asyncio.create_task(first.submit(_submission(spec())))
        await entered.wait()
        late = asyncio.create_task(first.submit(_submission(spec())))
        await asyncio.sleep(0)
        release.set()
        with pytest.raises(Deposed):
            await running
        with pytest.raises(Unavailable):
            await early
        with pytest.raises(Unavailable):
            await asyncio.wait_for(late, 1)


async def test_a_deposed_scheduler_revokes_nothing() -> None:
    """An agent that asks the wrong one keeps what the right one gave it."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        first = rig.scheduler
        await rig.restart()
        await agent.report()
        (job_id,) = await rig.running(1)
        second, rig.scheduler = rig.scheduler, first
        try:
            reply = await agent.report()
        except Unavailable:
            pass
        else:
            assert not reply.revoked
        rig.scheduler = second
        await rig.live(10)
        assert (await rig.job(job_id)).requeues == 0


# --- restarts ---


async def test_a_restart_goes_on_where_it_was() -> None:
    """Leases that agents hold go on, jobs that wait start, uploads to abort are aborted, dead letters are counted."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        jobs = await rig.running(6)
        kept, cancelled = agent.job_ids[:2]
        agent.tell_opened(agent.order_of(cancelled))
        await agent.report()
        await rig.call(rig.scheduler.command(ALICE, cancelled, Command.CANCEL))
        assert len(agent.aborts) == 0
        await rig.restart()
        await rig.live(8)
        assert (await rig.job(kept)).requeues == 0
        assert kept in agent.job_ids
        assert len(agent.aborts) == 1
        # Its job is over and no longer in the scheduler's memory; the order is its work all the same.
        of_job = await rig.job(cancelled)
        assert agent.aborts[0].context.correlation_id == of_job.correlation_id
        assert agent.aborts[0].context.user_id == of_job.user_id
        assert len(agent.job_ids) == 4
        assert [job_id for job_id, _, _ in rig.pool.sent].count(kept) == 1
        assert len(set(jobs)) == 6


async def test_a_restart_before_the_orders_left() -> None:
    """Leases whose orders never left get the time that orders have to arrive, and then go out again."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        agent.deaf = True
        (job_id,) = await rig.submit()
        await rig.tick()
        agent.deaf = False
        await rig.live(8)
        agent.find_all()
        agent.deaf = True
        await agent.report()
        await rig.tick()
        assert await rig.status(job_id) is JobStatus.DOWNLOADING
        agent.deaf = False
        await rig.restart()
        await rig.live(1)
        assert (await rig.job(job_id)).requeues == 0, "it was not given the time an order takes to arrive"
        await rig.live(8)
        assert job_id in agent.job_ids


async def test_a_pause_survives_a_restart() -> None:
    """A paused priority starts nothing, before and after a restart; what runs goes on; others start."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (running,) = await rig.running(1, priority=Priority.LOW)
        view = await rig.call(rig.scheduler.set_paused(Priority.LOW, paused=True))
        assert view.paused == ["low"]
        (waiting,) = await rig.running(1, priority=Priority.LOW)
        (other,) = await rig.running(1, priority=Priority.HIGH)
        assert sorted(agent.job_ids) == sorted([running, other])
        await rig.restart()
        await rig.live(10)
        assert sorted(agent.job_ids) == sorted([running, other])
        assert (await rig.scheduler.queue()).paused == ["low"]
        state = await rig.scheduler.job_state(waiting)
        assert state.waits_for == "its priority: low is paused"
        await rig.call(rig.scheduler.set_paused(Priority.LOW, paused=False))
        await rig.tick()
        assert waiting in agent.job_ids


async def test_a_long_turn_blames_nobody() -> None:
    """A loop held up for ten minutes, or a clock that was set: nobody is offline, no lease handed back."""
    for jump_s in (600.0, 86_400.0, -600.0, -86_400.0):
        async with rig_with() as rig:
            (agent,) = await rig.begin(1)
            (job_id,) = await rig.running(1)
            await rig.live(3)
            rig.clock.now_s += jump_s
            await rig.tick()
            await rig.live(5)
            view = (await rig.scheduler.agents())[0]
            assert (view.state, view.leases_count) == ("online", 1), jump_s
            assert (await rig.job(job_id)).requeues == 0
            assert job_id in agent.job_ids


# --- what operators ask for ---


async def _dead_letter(rig: Rig, agent: HandAgent) -> str:
    (job_id,) = await rig.running(1, webhook="https://hook.example/")
    for _ in range(4):
        await rig.live(1)
        del agent.held[agent.order_of(job_id).lease_id]
        await rig.live(6)
    assert await rig.dead() == [job_id]
    return job_id


async def test_handed_back_too_often() -> None:
    """More than `requeues_max` hand-backs: failed, dead-lettered, and the webhook has its messages."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        job_id = await _dead_letter(rig, agent)
        job = await rig.job(job_id)
        assert job.error is not None
        assert (job.status, job.error.code, job.requeues) == (JobStatus.FAILED, "requeues_exhausted", 4)
        told = await rig.ledger.outbox(job.created_at.replace(year=2100), 10)
        assert [(record.job_id, record.event) for record in told] == [(job_id, "failed"), (job_id, "deadlettered")]
        assert [each for _, _, each in rig.pool.sent] == [1, 2, 3, 4]


@pytest.mark.parametrize("verb", ["replay", "discard"])
async def test_out_of_the_dead_letter_queue_once(verb: str) -> None:
    """A dead letter is replayed or discarded once; the second time, in the same turn or later, is a conflict."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        job_id = await _dead_letter(rig, agent)
        ask: Callable[[str], Awaitable[Any]] = getattr(rig.scheduler, verb)
        first, second = await rig.together(_asked(ask, job_id), _asked(ask, job_id))
        assert isinstance(second, Conflict)
        assert not isinstance(first, BaseException)
        assert (first.dead_lettered_at, first.status) == (None, "queued" if verb == "replay" else "failed")
        with pytest.raises(Conflict):
            await rig.call(_asked(ask, job_id))
        assert (await rig.scheduler.queue()).dead_letters_count == 0
        with pytest.raises(NotFound):
            await rig.call(_asked(ask, "job_none"))
        if verb == "replay":
            assert (first.attempt, first.requeues, first.metadata) == (0, 0, None)
            await rig.look()
            assert job_id in agent.job_ids


async def test_a_job_is_stopped_on_an_agent() -> None:
    """The lease is revoked and the job goes on in the queue, uncharged; a job that is not there is not found."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1)
        for name, missing in (("agent-9", job_id), ("agent-1", "job_none")):
            with pytest.raises(NotFound):
                await rig.call(rig.scheduler.stop_job(name, missing))
        job = await rig.call(rig.scheduler.stop_job("agent-1", job_id))
        assert (job.status, job.requeues, job.attempt) == (JobStatus.QUEUED, 0, 0)
        assert not agent.held
        await rig.tick()
        assert agent.order_of(job_id).epoch == 2


@pytest.mark.parametrize("command", Command)
async def test_somebody_elses_job_is_not_steered(command: Command) -> None:
    """The scheduler asks by itself who owns a job: for another user it is not there, and goes on as it was."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        (job_id,) = await rig.running(1, user="alice")
        with pytest.raises(NotFound):
            await rig.call(rig.scheduler.command(Viewer("bob"), job_id, command))
        assert agent.job_ids == [job_id]


async def test_not_before() -> None:
    """A job that is to begin later has its metadata at once, and starts when its time has come, not earlier."""
    async with rig_with() as rig:
        (agent,) = await rig.begin(1)
        begins = _moment(rig, 300)
        (job_id,) = await rig.running(1, not_before=begins)
        assert (await rig.job(job_id)).metadata is not None
        await rig.live(298)
        assert not agent.job_ids
        await rig.live(4)
        assert agent.job_ids == [job_id]


async def test_running_per_user_max() -> None:
    """A user has at most so many jobs running, over all agents and a restart; others are not held up by it."""
    async with rig_with(queue={"running_per_user_max": 2}, scaling={"agents_min": 2}) as rig:
        agents = await rig.begin(2)
        alice, bob = await rig.running(6, user="alice"), await rig.running(1, user="bob")

        def running(mine: Sequence[str]) -> list[str]:
            return [job_id for agent in agents for job_id in agent.job_ids if job_id in mine]

        assert (len(running(alice)), running(bob)) == (2, bob)
        await rig.restart()
        await rig.live(10)
        assert (len(running(alice)), running(bob)) == (2, bob)
        done = running(alice)[0]
        rig.holder(done).tell_done(rig.holder(done).order_of(done))
        await rig.live(2)
        assert len(running(alice)) == 2


async def test_a_key_is_made_and_revoked() -> None:
    """API keys go the way of all calls: durable when answered, revoked once."""
    async with rig_with() as rig:
        await rig.begin(1)
        now = _moment(rig, 0)
        key = ApiKey(key_id="k1", user_id="u", role=Role.USER, secret_sha256="00", name="n", created_at=now)
        await rig.call(rig.scheduler.create_key(key))
        assert await rig.ledger.key("k1") == key

        async def revoke() -> ApiKey:
            return await rig.scheduler.revoke_key("k1", now)

        successor = replace(key, key_id="k2")

        async def rotate(key_id: str) -> ApiKey:
            return await rig.scheduler.rotate_key(key_id, successor, now, timedelta(hours=1))

        turning = asyncio.create_task(rig.scheduler.run())
        retired = await asyncio.wait_for(rotate("k1"), 10)
        assert retired == replace(key, expires_at=now + timedelta(hours=1))
        assert [await rig.ledger.key(each) for each in ("k1", "k2")] == [retired, successor]
        await asyncio.wait_for(rig.scheduler.note_keys_used({"k1": now}), 10)
        assert await rig.ledger.key("k1") == replace(retired, last_used_at=now)
        revoked = await asyncio.wait_for(revoke(), 10)
        with pytest.raises(Conflict, match="revoked"):
            await rotate("k1")
        with pytest.raises(NotFound):
            await rotate("k0")
        await rig.scheduler.stop()
        await turning
        assert revoked.revoked_at == now


async def test_a_webhook_is_enabled() -> None:
    """It goes the way of all calls: the ledger knows when it is answered."""
    async with rig_with() as rig:
        await rig.begin(1)
        now, url = _moment(rig, 0), "https://hooks.example/x"
        webhook = DisabledWebhook(user_id="ann", url=url, receiver="hooks.example", disabled_at=now, last_at=now)
        await rig.ledger.note_disabled([webhook], [])
        await rig.call(rig.scheduler.enable_webhook("ann", url))
        assert await rig.ledger.disabled_since(Viewer("ann"), url) is None


async def test_a_start_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents are looked for, and those that are missing asked for, without a call and before the next turn is due."""
    monkeypatch.setattr("actors.loop.TURN_S", 3600.0)
    async with rig_with(scaling={"agents_min": 2}) as rig:
        await rig.restart()
        turning = asyncio.create_task(rig.scheduler.run())
        async with asyncio.timeout(10):
            while len(rig.pool.added) < 2:
                await asyncio.sleep(0.01)
        await rig.scheduler.stop()
        await turning
        assert rig.pool.added == ["agent-1", "agent-2"]


async def test_calls_after_the_end() -> None:
    """A scheduler that was stopped refuses calls; nobody waits for a turn that never comes."""
    async with rig_with() as rig:
        await rig.begin(1)
        turning = asyncio.create_task(rig.scheduler.run())
        await rig.scheduler.stop()
        await turning
        with pytest.raises(Unavailable):
            await asyncio.wait_for(rig.scheduler.submit(_submission(spec())), 1)


async def _asked(ask: Callable[[str], Awaitable[Any]], job_id: str) -> Any:
    return await ask(job_id)


def _submission(*specs: JobSpec) -> Submission:
    return Submission(user_id="alice", correlation_id="correlation", specs=specs)


def _moment(rig: Rig, in_s: float) -> datetime:
    return utc(rig.clock() + in_s)


def _all() -> JobFilter:
    return JobFilter(limit=1000)


# --- counters ---


async def test_counters_of_jobs_go_on_after_a_restart() -> None:
    """What is counted of jobs stands in the ledger with them: a new scheduler goes on where the old one stood."""
    async with rig_with() as rig:
        await rig.begin(1)
        cancelled, *_ = await rig.running(4)
        await rig.call(rig.scheduler.command(ALICE, cancelled, Command.CANCEL))
        before = (await rig.scheduler.counted()).counters
        assert before[JOBS_CREATED.name, ()] == 4
        assert before[JOBS_FINISHED.name, ("cancelled", "caller", "cancelled")] == 1
        rig.meter = Meter()
        await rig.restart()
        assert before.items() <= (await rig.scheduler.counted()).counters.items()
