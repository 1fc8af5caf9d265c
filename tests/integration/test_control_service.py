"""The operator's verbs against the real scheduler and agents, with a real bucket, in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from inprocess import Service, quick_settings, running_service
from origin import Origin, content_sha256

from rayhaul import AsyncClient, JobFailed, JobStatus
from rayhaul.client.errors import Conflict, NotFound
from rayhaul.job import JobEvent
from rayhaul.settings import Settings
from rayhaul.wire import AgentJobReport
from serve_app.seaweed import Seaweed

SIZE = 6_000_000


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin


@pytest.fixture
def settings(store: Seaweed, tmp_path: Path) -> Settings:
    """Quick settings; a job that fails once is given up."""
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))
    once = settings.transfer.model_copy(update={"attempts_max": 1})
    return settings.model_copy(update={"transfer": once})


@pytest.fixture
async def service(tmp_path: Path, settings: Settings) -> AsyncIterator[Service]:
    async with running_service(tmp_path, settings) as service:
        yield service


@pytest.fixture
async def alice(service: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.url, service.alice) as client:
        yield client


@pytest.fixture
async def operator(service: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.url, service.operator) as client:
        yield client


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.05)


async def dead_letter(alice: AsyncClient, origin: Origin, name: str) -> str:
    """Return the id of a job that ran out of deliveries, for its source says that it is busy."""
    job = await alice.submit(origin.add(name, status=503))
    with pytest.raises(JobFailed) as failed:
        await alice.wait(job.id, timeout_s=60)
    assert failed.value.code in ("source_busy", "source_failed")
    return job.id


async def test_a_dead_letter_lives_again(alice: AsyncClient, service: Service, origin: Origin) -> None:
    """Replayed once its source is well the job completes with the right bytes; twice at once is one rerun (F55)."""
    job_id = await dead_letter(alice, origin, "busy.bin")
    assert [job.id for job in (await alice.dead_letters()).jobs] == [job_id]
    assert (await alice.queue()).dlq_depth == 1
    async with AsyncClient(service.url, service.bob) as bob:
        assert (await bob.dead_letters()).jobs == []
        for ask in (bob.replay(job_id), bob.discard(job_id)):
            with pytest.raises(NotFound):
                await ask
    origin.add("busy.bin", size=SIZE, seed=3)
    answers = await asyncio.gather(*(alice.replay(job_id) for _ in range(5)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BaseException)]
    assert (len(refused), {type(error) for error in refused}) == (4, {Conflict})
    job = await alice.wait(job_id, timeout_s=60)
    assert job.result is not None
    assert job.result.sha256 in (None, content_sha256(3, SIZE))
    assert (job.result.size_bytes, job.error) == (SIZE, None)
    events = [event.event for event in await alice.history(job_id)]
    assert events[events.index(JobEvent.DEADLETTERED) + 1 :].count(JobEvent.REQUEUED) == 1
    assert ((await alice.dead_letters()).jobs, (await alice.queue()).dlq_depth) == ([], 0)


async def test_a_dead_letter_is_deleted(alice: AsyncClient, origin: Origin) -> None:
    """It stays failed and is counted no more; a second time changes nothing, a replay comes too late."""
    job_id = await dead_letter(alice, origin, "busy.bin")
    for _ in range(2):
        assert (await alice.discard(job_id)).status is JobStatus.FAILED
    assert ((await alice.dead_letters()).jobs, (await alice.queue()).dlq_depth) == ([], 0)
    with pytest.raises(Conflict):
        await alice.replay(job_id)


async def test_the_valve_holds_a_priority_back(alice: AsyncClient, operator: AsyncClient, origin: Origin) -> None:
    """While low is paused its job waits and says why, and others run; then it runs too."""
    assert (await operator.pause_queue("low")).paused == ["low"]
    low = await alice.submit(origin.add("low.bin", size=1000), priority="low")
    normal = await alice.submit(origin.add("normal.bin", size=1000))
    assert (await alice.wait(normal.id, timeout_s=60)).status is JobStatus.COMPLETED

    async def has_metadata() -> bool:
        return (await alice.get(low.id)).metadata is not None

    # Metadata is fetched whatever is paused.
    await eventually(has_metadata)
    waiting = await operator.job_state(low.id)
    assert (waiting.job.status, waiting.leases, waiting.session) == (JobStatus.QUEUED, [], None)
    assert "low" in (waiting.waits_for or "")
    assert (await operator.queue()).depth["low"] == 1
    assert (await operator.resume_queue("low")).paused == []
    assert (await alice.wait(low.id, timeout_s=60)).status is JobStatus.COMPLETED
    assert (await operator.job_state(low.id)).waits_for is None


async def test_a_job_is_taken_from_an_agent(alice: AsyncClient, operator: AsyncClient, origin: Origin) -> None:
    """What an agent does for a stalled job can be seen, and stopped: uncharged, the job goes on and completes."""
    job = await alice.submit(origin.add("slow.bin", size=SIZE, seed=5, stall_after=0))
    found: list[AgentJobReport] = []

    async def held() -> bool:
        for agent in (await alice.get(job.id)).agents:
            report = await operator.agent_status(agent, job.id)
            if report.leases[0].doing is not None:
                found.append(report)
        return bool(found)

    await eventually(held)
    (lease,) = found[0].leases
    assert (lease.agent, lease.stripe.first_part, lease.epoch) == (found[0].agent, 1, 1)
    state = await operator.job_state(job.id)
    assert ([seen.lease_id for seen in state.leases], state.epoch) == ([lease.lease_id], 1)
    assert (await operator.stop_job(lease.agent, job.id)).status is JobStatus.QUEUED
    origin.resume()
    done = await alice.wait(job.id, timeout_s=60)
    assert done.result is not None
    assert (done.result.size_bytes, done.requeues, done.attempt) == (SIZE, 0, 1)
    assert JobEvent.REQUEUED in [event.event for event in await alice.history(job.id)]
    with pytest.raises(NotFound):
        await operator.agent_status(lease.agent, job.id)


async def test_a_drained_agent_is_replaced(alice: AsyncClient, operator: AsyncClient, origin: Origin) -> None:
    """It takes no more work and leaves; the cluster is as large as before and goes on with jobs."""

    async def online() -> list[str]:
        return [agent.agent for agent in await operator.agents() if agent.state == "online"]

    async def two() -> bool:
        return len(await online()) == 2

    await eventually(two)
    leaves = (await online())[0]
    assert (await operator.drain(leaves)).state == "draining"

    async def is_replaced() -> bool:
        names = await online()
        return leaves not in names and len(names) == 2

    await eventually(is_replaced)
    job = await alice.submit(origin.add("after.bin", size=1000))
    assert leaves not in (await alice.wait(job.id, timeout_s=60)).agents
    with pytest.raises(NotFound):
        await operator.drain("agent-none")
