"""One large job on several agents: who is asked, who gets what, who publishes, and what follows when one is lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from control_rig import EVERYTHING, HandAgent, Rig, rig_with

from actors.ports import Command
from rayhaul.errors import AgentLost, Failure, SourceBusy, SourceChanged
from rayhaul.job import JobEvent, JobStatus
from rayhaul.lease import Lease, SessionState, TransferOrder
from rayhaul.metrics import FENCED_WRITES
from rayhaul.report import Swept
from rayhaul.settings import MIB

PART = 5 * MIB
PARTS = 8


@asynccontextmanager
async def scene(agents: int = 3, **groups: dict[str, Any]) -> AsyncIterator[tuple[Rig, list[HandAgent]]]:
    known: dict[str, dict[str, Any]] = {"transfer": {"part_bytes_min": PART, "stripe_parts_min": 1}}
    async with rig_with(window_s=None, **known | groups) as rig:
        yield rig, await rig.begin(agents)


async def large(rig: Rig, **changes: Any) -> str:
    """Submit a job of eight parts and bring it to its first agent."""
    (job_id,) = await rig.submit(connections=1, **changes)
    await rig.tick()
    for agent in rig.pool.lives.values():
        for order in agent.probes:
            agent.tell_found(order, size_bytes=PARTS * PART)
    await rig.beat()
    await rig.beat()
    return job_id


async def opened(rig: Rig, job_id: str) -> tuple[HandAgent, TransferOrder]:
    """Let the first agent open the upload; whoever can help is looked for."""
    first = rig.holder(job_id)
    first.tell_opened(first.order_of(job_id))
    await rig.beat()
    await rig.tick()
    return first, first.order_of(job_id)


async def widened(rig: Rig, job_id: str) -> list[tuple[HandAgent, TransferOrder]]:
    """Bring the job to three agents: the first gives up what it is asked for."""
    first, order = await opened(rig, job_id)
    (asked,) = first.asked
    first.tell_trimmed(order, asked.end_part)
    await rig.beat()
    found = [(agent, agent.order_of(job_id)) for agent in rig.pool.lives.values() if job_id in agent.job_ids]
    return sorted(found, key=lambda held: held[1].first_part)


async def leases(rig: Rig) -> list[Lease]:
    return sorted((await rig.ledger.state()).leases, key=lambda lease: lease.first_part)


def session_of(rig: Rig, job_id: str) -> str:
    session = rig.book.open_session(job_id)
    assert session is not None
    return session.session_id


async def send(rig: Rig, agent: HandAgent, order: TransferOrder, *numbers: int) -> None:
    agent.tell_parts(order, session_of(rig, order.context.job_id), *numbers)
    await rig.beat()


async def send_all(rig: Rig, agent: HandAgent, order: TransferOrder, end_part: int | None = None) -> None:
    """Send all parts of a stripe and say so."""
    await send(rig, agent, order, *range(order.first_part, end_part or order.end_part))
    agent.tell_stripe(order)
    await rig.beat()


async def test_from_one_agent_to_three_and_back_to_one() -> None:
    """The first opens the upload and gives up its tail, two join, and the last one to finish publishes."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        (first, one), (second, two), (third, three) = await widened(rig, job_id)
        stands = [(lease.agent, lease.first_part, lease.end_part, lease.epoch) for lease in await leases(rig)]
        assert stands == [(first.name, 1, 4, 1), (second.name, 4, 7, two.epoch), (third.name, 7, 9, three.epoch)]
        assert {two.epoch, three.epoch} == {2, 3}
        assert two.session is not None
        assert (await rig.job(job_id)).agents == (first.name, second.name, third.name)

        await send_all(rig, first, one, end_part=4)
        await send_all(rig, third, three)
        assert await rig.status(job_id) is JobStatus.DOWNLOADING
        await send_all(rig, second, two)
        last = second.order_of(job_id)
        assert (last.first_part, last.end_part, last.epoch) == (1, PARTS + 1, 4)
        assert [part.number for part in last.parts_done] == list(range(1, PARTS + 1))
        runs = (await rig.ledger.parts_of_job(EVERYTHING, job_id)).runs
        brought = [(run.agent, run.first_part, run.end_part) for run in runs]
        assert brought == [(first.name, 1, 4), (second.name, 4, 7), (third.name, 7, PARTS + 1)]
        second.tell_commit(last)
        await rig.beat()
        assert await rig.status(job_id) is JobStatus.UPLOADING
        second.tell_done(last)
        await rig.beat()
        assert await rig.status(job_id) is JobStatus.COMPLETED
        assert await leases(rig) == []
        assert (await rig.events(job_id)).count("started") == 4


async def test_progress_is_the_sum_of_all_stripes() -> None:
    """What each tells of its own, and what is recorded of parts that nobody has in hand."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        (first, one), (second, two), (third, three) = await widened(rig, job_id)
        await send_all(rig, third, three)
        first.tells[one.lease_id] = {"bytes_done": 2 * PART, "bytes_per_s": 3.0, "parts_done": 2}
        second.tells[two.lease_id] = {"bytes_done": 7, "bytes_per_s": 4.0, "parts_done": 0}
        await rig.beat()
        progress = (await rig.scheduler.progress(0)).jobs[job_id]
        assert (progress.bytes_done, progress.bytes_per_s) == (4 * PART + 7, 7.0)
        assert (progress.parts_done, progress.parts_total) == (4, PARTS)
        state = await rig.scheduler.job_state(job_id)
        done = {lease.agent: lease.progress.bytes_done for lease in state.leases if lease.progress is not None}
        assert done == {first.name: 2 * PART, second.name: 7}


@pytest.mark.parametrize("notice", ["commit", "done"])
async def test_a_stripe_publishes_nothing(notice: str) -> None:
    """Neither leave nor completion is given to one who has only a part, and not to the oldest lease."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        (first, one), *_ = await widened(rig, job_id)
        told = first.tell_commit(one) if notice == "commit" else first.tell_done(one)
        await rig.beat()
        assert first.counted[told] is False
        assert rig.count(FENCED_WRITES) == 1
        assert await rig.status(job_id) is JobStatus.DOWNLOADING


async def test_who_finishes_before_it_is_heard_publishes_alone() -> None:
    """The request for its tail comes too late: it has all parts, and nobody else got any."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        first, order = await opened(rig, job_id)
        assert first.asked
        await send(rig, first, order, *range(1, PARTS + 1))
        first.tell_commit(order)
        first.tell_done(order)
        await rig.beat()
        assert await rig.status(job_id) is JobStatus.COMPLETED
        assert len(rig.pool.sent) == 1


async def test_who_does_not_answer_is_asked_again() -> None:
    """A request may be lost; nothing is leased before it is answered."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        first, _ = await opened(rig, job_id)
        await rig.live(2)
        assert len(first.asked) == 1
        await rig.live(3)
        assert len(first.asked) == 2
        assert len(await leases(rig)) == 1


async def test_a_twin_is_told_that_it_is_one() -> None:
    """The last part crawls and is sent by another agent as well: that one reads before it sends."""
    async with scene(agents=2) as (rig, _):
        job_id = await large(rig)
        first, one = await opened(rig, job_id)
        assert not one.is_twin
        first.tells[one.lease_id] = {"bytes_per_s": 50.0 * MIB}
        await send(rig, first, one, *range(1, PARTS))
        first.tells[one.lease_id] = {"bytes_per_s": MIB / 10}
        await rig.live(20)
        first.tell_trimmed(one, first.asked[-1].end_part)
        await rig.live(2)
        (twin,) = [agent.order_of(job_id) for agent in rig.pool.lives.values() if agent is not first and agent.job_ids]
        assert (twin.first_part, twin.end_part, twin.is_twin) == (PARTS, PARTS + 1, True)


async def test_waiting_jobs_come_first() -> None:
    """A job is widened only with slots that nobody waits for, and a quarter of them is left free."""
    async with scene(agents=2, agent={"slots": 2}) as (rig, _):
        job_id = await large(rig)
        others = await rig.running(4)
        first, _ = await opened(rig, job_id)
        assert not first.asked
        for agent in rig.pool.lives.values():
            for order in agent.transfers:
                if order.context.job_id in others:
                    agent.tell_done(order)
        await rig.beat()
        await rig.beat()
        assert not first.asked or rig.book.waiting.ready_count() == 0
        for agent in rig.pool.lives.values():
            for order in agent.transfers:
                if order.context.job_id in others:
                    agent.tell_done(order)
        await rig.live(2)
        assert first.asked


@pytest.mark.parametrize(("told", "is_shared"), [({}, True), ({"etag": 'W/"1"', "last_modified": None}, False)])
async def test_a_crc32c_keeps_no_job_on_one_agent(told: dict[str, Any], *, is_shared: bool) -> None:
    """It is combined of parts in any order. Versions are told apart by something else."""
    async with scene() as (rig, _):
        (job_id,) = await rig.submit(connections=1)
        await rig.tick()
        for agent in rig.pool.lives.values():
            for order in agent.probes:
                agent.tell_found(order, size_bytes=PARTS * PART, crc32c="4waSgw==", **told)
        await rig.beat()
        await rig.beat()
        first, leased = await opened(rig, job_id)
        assert leased.checksum == "crc32c:4waSgw=="
        assert bool(first.asked) == is_shared


async def test_stripes_are_all_told_what_they_have_to_know_of_the_source() -> None:
    """Where fresh links come from, and the checksum by which edges with ETags of their own may be combined."""
    hook, checksum = "https://hook.example/fresh", "crc64nvme:AAAAAAAAAAA="
    async with scene() as (rig, _):
        job_id = await large(rig, refresh_webhook=hook, checksum=checksum)
        orders = [order for _, order in await widened(rig, job_id)]
        assert [(order.refresh_webhook, order.checksum) for order in orders] == [(hook, checksum)] * 3


async def test_a_sweep_leaves_the_upload_of_stripes_alone() -> None:
    """Whoever holds the stripes by now, and however old the upload is; a second one beside it goes."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        (first, one), (second, two), _ = await widened(rig, job_id)
        await send_all(rig, first, one, end_part=two.first_part)
        session = rig.book.open_session(job_id)
        assert session is not None
        old = replace(session, state=SessionState.ABORTING, created_at=session.created_at - timedelta(hours=2))
        seen = [replace(old, session_id=rig.new_id("ses"), upload_id=name) for name in (session.upload_id, "stray")]
        second.tell(Swept(notice_id=rig.new_id("note"), order_id="sweep_1", uploads=tuple(seen)))
        await rig.beat()
        await rig.tick()
        aborts = [order.upload_id for agent in rig.pool.lives.values() for order in agent.aborts]
        assert aborts == ["stray"]
        stands = rig.book.open_session(job_id)
        assert stands is not None
        assert stands.upload_id == session.upload_id


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"checksum": f"sha256:{'0' * 64}"}, {}),
        ({"compute_sha256": True}, {}),
        ({}, {"digest": f"sha256:{'0' * 64}"}),
        ({"connections": 32}, {}),
    ],
    ids=[
        "read in order",
        "read in order for the receipt",
        "read in order for the source's digest",
        "all connections that the origin is to bear",
    ],
)
async def test_jobs_that_stay_on_one_agent(facts: dict[str, Any], told: dict[str, Any]) -> None:
    """Nobody is asked."""
    async with scene() as (rig, _):
        (job_id,) = await rig.submit(**{"connections": 1, **facts})
        await rig.tick()
        for agent in rig.pool.lives.values():
            for order in agent.probes:
                agent.tell_found(order, size_bytes=100 * PART, **told)
        await rig.beat()
        await rig.beat()
        first, _ = await opened(rig, job_id)
        await rig.live(5)
        assert not first.asked


async def test_a_lost_agent_s_parts_go_to_another() -> None:
    """The others go on; only what is missing is leased again, and a loss so early is charged."""
    async with scene(agents=4) as (rig, _):
        job_id = await large(rig)
        held = await widened(rig, job_id)
        lost, stripe = held[1]
        await send(rig, lost, stripe, stripe.first_part)
        rig.enter(lost.name)
        await rig.beat()
        job = await rig.job(job_id)
        assert (job.status, job.requeues) == (JobStatus.DOWNLOADING, 1)
        assert lost.name not in {lease.agent for lease in await leases(rig)}
        await rig.live(5)
        taken = [lease for lease in await leases(rig) if lease.first_part == stripe.first_part + 1]
        assert [lease.end_part for lease in taken] == [stripe.end_part]
        assert taken[0].agent not in {agent.name for agent, _ in held if agent is not lost}
        # Who asks why it took so long is told, once.
        begun = [record.payload for record in await rig.history(job_id) if record.event is JobEvent.STARTED]
        assert {payload["leaseId"]: payload["setback"] for payload in begun if "setback" in payload} == {
            taken[0].lease_id: f"{lost.name}: {lost.name} restarted"
        }


async def test_setbacks_are_told_with_whatever_stripe_comes_next() -> None:
    """Also long after, where nobody was left to take the parts but who has the rest."""
    async with scene(agents=2) as (rig, _):
        job_id = await large(rig)
        (first, one), (second, two) = await widened(rig, job_id)
        second.tell_failed(two, SourceBusy("it is busy").failure())
        await rig.live(5)
        assert two.lease_id not in second.held
        second.alive = False
        await rig.live(200)
        await send_all(rig, first, one, end_part=first.asked[0].end_part)
        *_, again, last = [record.payload for record in await rig.history(job_id)]
        assert (again["agent"], again["setback"]) == (second.name, f"{second.name}: it is busy")
        assert (last["agent"], last["setback"]) == (first.name, f"{second.name}: {second.name} is silent")


async def test_a_lost_agent_that_had_it_for_long_is_not_charged_to_the_job() -> None:
    """A job that many work on for hours outlives many of them."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        held = await widened(rig, job_id)
        await rig.live(40)
        rig.enter(held[2][0].name)
        await rig.beat()
        job = await rig.job(job_id)
        assert (job.status, job.requeues) == (JobStatus.DOWNLOADING, 0)


@pytest.mark.parametrize(
    ("failure", "goes_on"),
    [(SourceBusy().failure(), True), (SourceChanged().failure(), False), (AgentLost().failure(), True)],
    ids=["busy", "another file", "lost"],
)
async def test_a_stripe_that_fails(failure: Failure, *, goes_on: bool) -> None:
    """What befell one leaves the others alone, unless it says that the file is another one."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        held = await widened(rig, job_id)
        session_id = session_of(rig, job_id)
        agent, order = held[1]
        agent.tell_failed(order, failure)
        await rig.beat()
        job = await rig.job(job_id)
        if goes_on:
            assert (job.status, job.attempt, len(await leases(rig))) == (JobStatus.DOWNLOADING, 1, 2)
            return
        assert (job.status, job.metadata, await leases(rig)) == (JobStatus.QUEUED, None, [])
        session = await rig.ledger.session(session_id)
        assert session is not None
        assert session.state is not SessionState.OPEN
        await rig.beat()
        assert not any(job_id in agent.job_ids for agent in rig.pool.lives.values())


async def test_a_stripe_that_keeps_failing_is_left_to_the_others() -> None:
    """Each time it waits longer; after some times nobody is given it any more, until the rest is done."""
    async with scene(agents=2) as (rig, _):
        job_id = await large(rig)
        (first, one), _ = await widened(rig, job_id)
        failed = 0
        for _ in range(200):
            for agent in rig.pool.lives.values():
                for order in agent.transfers:
                    if agent is not first:
                        agent.tell_failed(order, SourceBusy().failure())
                        failed += 1
            await rig.live(1)
        assert 3 <= failed <= 6
        await send_all(rig, first, one, end_part=first.asked[0].end_part)
        rest = first.order_of(job_id)
        assert (rest.first_part, rest.end_part) == (1, PARTS + 1), "what is missing is now the first one's"


@pytest.mark.parametrize("command", [Command.PAUSE, Command.CANCEL, Command.REQUEUE])
async def test_commands_reach_all_agents(command: Command) -> None:
    """Every stripe is revoked."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        held = await widened(rig, job_id)
        await send(rig, *held[0], 1)
        await rig.call(rig.scheduler.command(EVERYTHING, job_id, command))
        assert not any(agent.transfers for agent, _ in held)
        if command is not Command.REQUEUE:
            assert await leases(rig) == []
            return
        await rig.beat()
        (again,) = await leases(rig)
        assert (again.first_part, again.end_part) == (1, PARTS + 1), "a new run begins on one agent"
        assert [part.number for part in rig.holder(job_id).order_of(job_id).parts_done] == [1]


async def test_a_scheduler_that_dies_knows_what_is_recorded() -> None:
    """What is leased again after its death is what is missing, and the last one still publishes."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        (first, one), (second, two), (third, three) = await widened(rig, job_id)
        await send(rig, second, two, 4, 6)
        await rig.restart()
        await send_all(rig, third, three)
        second.tell_failed(two, SourceBusy().failure())
        await rig.live(5)
        left = third.order_of(job_id)
        assert (left.first_part, left.end_part) == (5, 6)
        await send_all(rig, third, left)
        await send_all(rig, first, one, end_part=4)
        last = first.order_of(job_id)
        first.tell_commit(last)
        first.tell_done(last)
        await rig.beat()
        assert await rig.status(job_id) is JobStatus.COMPLETED


async def test_last_parts_that_crawl_are_sent_by_two() -> None:
    """The slow one is told that it is not alone; whoever is first counts, and the other one is stopped."""
    async with scene(agents=2) as (rig, _):
        job_id = await large(rig)
        first, order = await opened(rig, job_id)
        first.asked.clear()
        first.tells[order.lease_id] = {"bytes_per_s": 50.0 * MIB, "bytes_done": 7 * PART, "parts_done": 7}
        await send(rig, first, order, *range(1, PARTS))
        first.tells[order.lease_id] = {"bytes_per_s": 10.0, "bytes_done": 7 * PART, "parts_done": 7}
        await rig.live(15)
        assert [asked.end_part for asked in first.asked][:1] == [PARTS + 1]
        first.tell_trimmed(order, PARTS + 1)
        await rig.beat()
        (second,) = (agent for agent in rig.pool.lives.values() if agent is not first)
        twin = second.order_of(job_id)
        assert (twin.first_part, twin.end_part) == (PARTS, PARTS + 1)
        await send_all(rig, second, twin)
        assert not first.transfers, "the slow one is stopped"
        last = second.order_of(job_id)
        second.tell_commit(last)
        second.tell_done(last)
        await rig.beat()
        assert await rig.status(job_id) is JobStatus.COMPLETED


async def test_an_operator_stops_one_stripe() -> None:
    """The job goes on with the others, and does not come back to that agent at once."""
    async with scene() as (rig, _):
        job_id = await large(rig)
        held = await widened(rig, job_id)
        agent = held[1][0]
        job = await rig.call(rig.scheduler.stop_job(agent.name, job_id))
        assert job.status is JobStatus.DOWNLOADING
        await rig.live(10)
        assert not agent.transfers


async def test_a_job_s_bandwidth_is_shared_by_its_stripes() -> None:
    """One agent has all of it, three have a third each and never more together; under the cluster's limit as well."""
    async with scene(transfer={"part_bytes_min": PART, "stripe_parts_min": 1, "bandwidth_bytes_per_s_max": 600}) as (
        rig,
        agents,
    ):
        job_id = await large(rig, bandwidth_bytes_per_s=900)
        first = rig.holder(job_id)

        assert {rate.limit: rate.bytes_per_s for rate in first.order_of(job_id).rates} == {
            f"job:{job_id}": 900,
            "cluster": 600,
        }
        await widened(rig, job_id)
        for _ in range(4):
            await rig.beat()
            for limit, most in ((f"job:{job_id}", 900), ("cluster", 600)):
                assert sum(agent.paces._paces[limit].bytes_per_s for agent in agents) <= most
        assert [agent.paces._paces[f"job:{job_id}"].bytes_per_s for agent in agents] == [300, 300, 300]
        assert [agent.paces._paces["cluster"].bytes_per_s for agent in agents] == [200, 200, 200]
