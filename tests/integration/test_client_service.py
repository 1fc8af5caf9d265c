"""The client against the real service: scheduler, agents, ledger, API and a real bucket, in this process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from inprocess import Service, quick_settings, running_service
from origin import Origin, content_bytes

from rayhaul import AsyncClient, Client, JobFailed, JobStatus
from rayhaul.client.errors import AccessDenied, BadRequest, Conflict, NotFound
from rayhaul.job import JobEvent
from rayhaul.wire import EventView
from serve_app.seaweed import Seaweed

SIZE = 12_000_000


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin


@pytest.fixture
async def service(tmp_path: Path, store: Seaweed) -> AsyncIterator[Service]:
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))
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


async def test_from_url_to_file(alice: AsyncClient, origin: Origin, tmp_path: Path) -> None:
    """A job is submitted, followed, waited for and saved, and the bytes are the source's."""
    url = origin.add("data.bin", size=SIZE, seed=3, stall_after=1_000_000)
    heard: list[EventView] = []

    def hear(event: EventView) -> None:
        heard.append(event)
        if event.event == JobEvent.PROGRESS:
            origin.resume()

    job = await alice.submit(url, key="saved/data.bin", tags={"team": "film"}, correlation_id="corr-of-mine")
    done = await alice.wait(job.id, timeout_s=60, on_event=hear)
    assert done.result is not None
    assert (done.result.size_bytes, done.correlation_id, done.tags) == (SIZE, "corr-of-mine", {"team": "film"})
    names = [event.event for event in heard]
    kept = [event for event in heard if event.seq is not None]
    assert (names[0], names[-1]) == (JobEvent.CREATED, JobEvent.COMPLETED)
    assert JobEvent.PROGRESS in names
    assert kept == await alice.history(job.id) == [event async for event in alice.events(job.id)]
    assert [event async for event in alice.events(job.id, kept[-2].seq)] == kept[-1:]
    assert [event async for event in alice.events(job.id, kept[-1].seq)] == []
    path = await alice.download(job.id, tmp_path / "saved.bin")
    assert path.read_bytes() == content_bytes(3, 0, SIZE)


async def test_many(alice: AsyncClient, origin: Origin) -> None:
    """A list goes in batches, twice under one key and yet once; pages show it, newest first."""
    urls = [origin.add(f"{index}.bin", size=1000, seed=index) for index in range(5)]
    accepted = await alice.submit_many(urls, batch_size=2, idempotency_key="my-list")
    assert await alice.submit_many(urls, batch_size=2, idempotency_key="my-list") == accepted
    async with asyncio.TaskGroup() as group:
        for job_id in accepted:
            group.create_task(alice.wait(job_id, timeout_s=60))
    assert [job.id async for job in alice.iter_jobs(status=JobStatus.COMPLETED, page_size=2)] == accepted[::-1]


async def test_failure_says_why(alice: AsyncClient, origin: Origin) -> None:
    """What the source refuses comes back as an error with a code, and can be tried again."""
    job = await alice.submit(origin.base_url + "/missing.bin")
    with pytest.raises(JobFailed) as failed:
        await alice.wait(job.id, timeout_s=60)
    assert failed.value.code == "source_not_found"
    assert [event.event async for event in alice.events(job.id)][-1] in (JobEvent.FAILED, JobEvent.DEADLETTERED)
    origin.add("missing.bin", size=10)
    assert (await alice.retry(job.id)).status is JobStatus.QUEUED
    assert (await alice.wait(job.id, timeout_s=60)).status is JobStatus.COMPLETED


async def test_steering(alice: AsyncClient, origin: Origin) -> None:
    """A job is paused, goes on, is cancelled, twice; what its state does not allow is refused."""
    job = await alice.submit(origin.add("slow.bin", size=SIZE, stall_after=0))
    async for event in alice.events(job.id):
        if event.event == JobEvent.STARTED:
            break
    assert (await alice.pause(job.id)).status is JobStatus.PAUSED
    with pytest.raises(Conflict):
        await alice.pause(job.id)
    assert (await alice.resume(job.id)).status is not JobStatus.PAUSED
    for _ in range(2):
        assert (await alice.cancel(job.id)).status is JobStatus.CANCELLED


async def test_refusals(alice: AsyncClient, service: Service) -> None:
    """Refused requests say what was wrong, and where."""
    with pytest.raises(BadRequest) as refused:
        await alice.submit("https://files.example/a", checksum="sha256:short")
    assert refused.value.code == "invalid_request"
    assert [wrong["field"] for wrong in refused.value.fields] == ["checksum"]
    with pytest.raises(BadRequest) as denied:
        await alice.submit("http://169.254.169.254/latest/meta-data/")
    assert (denied.value.code, denied.value.status) == ("egress_denied", 422)
    with pytest.raises(NotFound):
        await alice.wait("job_00000000000000000000000000")
    with pytest.raises(AccessDenied) as forbidden:
        await alice.agents()
    assert forbidden.value.code == "forbidden"
    async with AsyncClient(service.url) as stranger:
        with pytest.raises(AccessDenied):
            await stranger.list()


async def test_operator(operator: AsyncClient, service: Service) -> None:
    """An operator sees agents and queue, and makes and ends keys."""
    assert await operator.ready()
    # Those that have reported by now.
    seen = {agent.agent for agent in await operator.agents()}
    assert seen
    assert seen <= set(await service.agents.names())
    assert set((await operator.queue()).depth) == {"low", "normal", "high"}
    made = await operator.create_key("carol", name="laptop")
    async with AsyncClient(service.url, made.key) as carol:
        assert (await carol.list()).jobs == []
    await operator.revoke_key(made.id)
    (kept,) = [key for key in await operator.keys() if key.id == made.id]
    assert (kept.user_id, kept.role, kept.name) == ("carol", "user", "laptop")
    assert kept.revoked_at is not None


async def test_blocking(service: Service, origin: Origin, tmp_path: Path) -> None:
    """The blocking client does it all as well."""
    url = origin.add("data.bin", size=SIZE, seed=5)

    def work() -> bytes:
        with Client(service.url, service.alice) as client:
            job = client.submit(url)
            names = [event.event for event in client.events(job.id)]
            assert names[-1] == JobEvent.COMPLETED
            return client.download(client.wait(job.id).id, tmp_path / "saved.bin").read_bytes()

    assert await asyncio.to_thread(work) == content_bytes(5, 0, SIZE)
