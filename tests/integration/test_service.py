"""The whole service in one process: jobs from the HTTP API to the bucket, with the turns they can take."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from inprocess import PART_BYTES, Service, quick_settings, running_service
from origin import Origin, content_sha256

from rayhaul import AsyncClient
from rayhaul.job import FINAL, JobStatus
from rayhaul.metrics import FENCED_WRITES, Meter, Snapshot
from rayhaul.settings import EgressSettings, HostsSettings, LivenessSettings, Settings, SourceSettings
from rayhaul.wire import JobView
from serve_app.seaweed import Seaweed
from tasks.sink import Sink

MIB = 1024 * 1024
#: A job with two connections has no others to spare for a second agent.
ON_ONE_AGENT = HostsSettings(connections_max=2)
#: What a look at a file asks for.
LOOK = (0, SourceSettings().peek_bytes)


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as running:
        yield running


@pytest.fixture
def settings(store: Seaweed, tmp_path: Path) -> Settings:
    """Quick settings, with a key prefix of this test's own."""
    return quick_settings(store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))


@pytest.fixture
async def service(tmp_path: Path, settings: Settings) -> AsyncIterator[Service]:
    async with running_service(tmp_path, settings) as running:
        yield running


@pytest.fixture
async def alice(service: Service) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(service.url, service.alice) as client:
        yield client


async def eventually(holds: Callable[[], Awaitable[bool]], *, within_s: float = 60) -> None:
    async with asyncio.timeout(within_s):
        while not await holds():
            await asyncio.sleep(0.02)


async def finished(client: AsyncClient, job_id: str) -> JobView:
    """Wait for a job's end, whatever it is."""

    async def over() -> bool:
        return (await client.get(job_id)).status in FINAL

    await eventually(over, within_s=40)
    return await client.get(job_id)


async def downloading(client: AsyncClient, job_id: str, parts_min: int) -> None:
    async def moving() -> bool:
        job = await client.get(job_id)
        assert job.status not in FINAL, job.error
        return job.progress.parts_done >= parts_min

    await eventually(moving)


async def open_uploads(settings: Settings) -> int:
    async with Sink(settings.s3, meter=Meter(), connections_max=1) as sink:
        return len(await sink.list_uploads(settings.s3.prefix))


async def no_uploads(settings: Settings) -> None:
    """The bucket has no multipart upload of this test, at once or very soon."""

    async def none() -> bool:
        return await open_uploads(settings) == 0

    await eventually(none)


async def object_sha256(client: AsyncClient, job_id: str) -> str:
    link = await client.download_link(job_id)
    async with aiohttp.ClientSession() as session, session.get(link.url) as response:
        assert response.status == 200
        return hashlib.sha256(await response.read()).hexdigest()


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 6 * PART_BYTES + 7])
async def test_from_url_to_bucket(alice: AsyncClient, origin: Origin, settings: Settings, size: int) -> None:
    """A file of any size arrives byte for byte, and its history tells the way."""
    job = await alice.submit(origin.add("file.bin", size=size, seed=2), checksum=f"sha256:{content_sha256(2, size)}")
    job = await alice.wait(job.id, timeout_s=30)
    assert job.result is not None
    assert job.result.key == f"{settings.s3.prefix}{job.id}/file.bin"
    assert await object_sha256(alice, job.id) == content_sha256(2, size)
    events = [event.event for event in await alice.history(job.id)]
    assert events == ["created", "metadata", "started", "uploading", "completed"]
    await no_uploads(settings)


async def test_missing_file(alice: AsyncClient, origin: Origin, settings: Settings) -> None:
    """404: failed at once, by the source's fault, with nothing left in the bucket and nothing in the DLQ."""
    job = await alice.submit(origin.add("gone.bin", size=9 * MIB, status=404))
    failed = await finished(alice, job.id)
    assert failed.error is not None
    assert (failed.status, failed.error.code, failed.error.retryable) == ("failed", "source_not_found", False)
    assert failed.attempt == 1
    assert [event.event for event in await alice.history(job.id)] == ["created", "failed"]
    assert (await alice.queue()).dlq_depth == 0
    await no_uploads(settings)


async def test_a_source_that_never_delivers(tmp_path: Path, settings: Settings, origin: Origin) -> None:
    """Every body is cut: attempts run out, the job fails into the DLQ, and its upload is aborted."""
    transfer = settings.transfer.model_copy(update={"attempts_max": 2, "part_attempts_max": 2})
    async with running_service(tmp_path, settings.model_copy(update={"transfer": transfer})) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            job = await alice.submit(origin.add("cut.bin", size=3 * PART_BYTES, truncate_after=MIB))
            failed = await finished(alice, job.id)
            assert failed.error is not None
            assert (failed.status, failed.error.code) == ("failed", "source_truncated")
            assert failed.attempt == 2
            events = [event.event for event in await alice.history(job.id)]
            assert events.count("started") == 2
            assert events[-2:] == ["failed", "deadlettered"]
            assert (await alice.queue()).dlq_depth == 1
            await no_uploads(settings)


async def test_cancel_in_the_middle(alice: AsyncClient, origin: Origin, settings: Settings, service: Service) -> None:
    """Cancelled while parts move: the transfer stops, the upload is aborted, cancelling again changes nothing."""
    url = origin.add("slow.bin", size=12 * PART_BYTES, rate_bytes_per_s=20 * MIB)
    job = await alice.submit(url, connections=2)
    await downloading(alice, job.id, parts_min=1)
    assert await open_uploads(settings) == 1
    assert (await alice.cancel(job.id)).status is JobStatus.CANCELLED
    assert (await alice.cancel(job.id)).status is JobStatus.CANCELLED
    await no_uploads(settings)

    async def idle() -> bool:
        return all(view.leases_count == view.capacity.slots_used == 0 for view in await service.scheduler.agents())

    await eventually(idle)
    assert [event.event for event in await alice.history(job.id)][-1] == "cancelled"


async def test_pause_and_resume(alice: AsyncClient, origin: Origin, service: Service) -> None:
    """A paused job keeps its parts: resumed, it fetches only what is missing."""
    url = origin.add("long.bin", size=10 * PART_BYTES, seed=6, rate_bytes_per_s=25 * MIB)
    job = await alice.submit(url, connections=2)
    await downloading(alice, job.id, parts_min=3)
    assert (await alice.pause(job.id)).status is JobStatus.PAUSED

    async def quiet() -> bool:
        return not await busy_slots(service)

    await eventually(quiet)
    before = len(origin.seen("long.bin"))
    session = next(s for s in (await service.ledger.state()).sessions if s.job_id == job.id)
    kept = len(await service.ledger.parts(session.session_id))
    assert kept >= 1
    await asyncio.sleep(0.3)
    assert len(origin.seen("long.bin")) == before, "a paused job went on"
    await alice.resume(job.id)
    await alice.wait(job.id, timeout_s=30)
    assert await object_sha256(alice, job.id) == content_sha256(6, 10 * PART_BYTES)
    assert len(origin.seen("long.bin")) - before == 10 - kept


async def busy_slots(service: Service) -> bool:
    """Whether any agent holds a lease, by its own last report."""
    return any(view.capacity.slots_used for view in await service.scheduler.agents())


async def test_agent_killed(alice: AsyncClient, origin: Origin, service: Service) -> None:
    """An agent dies in the middle: others go on, with its parts that are in the bucket as well."""
    url = origin.add("big.bin", size=12 * PART_BYTES, seed=7, rate_bytes_per_s=25 * MIB)
    job = await alice.submit(url, connections=2)
    await downloading(alice, job.id, parts_min=3)
    agent = (await alice.get(job.id)).agents[0]
    await service.agents.kill(agent)
    await service.agents.add(agent)
    done = await alice.wait(job.id, timeout_s=30)
    assert done.requeues == 1
    assert await object_sha256(alice, job.id) == content_sha256(7, 12 * PART_BYTES)
    fetched = [seen.range[0] for seen in origin.seen("big.bin") if seen.range and seen.range != LOOK]
    assert len(fetched) < 2 * 12, "it began anew"


@pytest.mark.parametrize("lost", [False, True], ids=["all stay", "one is lost"])
async def test_one_file_on_three_agents(tmp_path: Path, settings: Settings, origin: Origin, *, lost: bool) -> None:
    """Three agents move one file into one upload, also where one of them dies in the middle; its bytes are right."""
    transfer = settings.transfer.model_copy(update={"stripe_parts_min": 1})
    settings = settings.model_copy(update={"transfer": transfer})
    size = 24 * PART_BYTES - 5
    url = origin.add("wide.bin", size=size, seed=11, rate_bytes_per_s=8 * MIB)
    async with (
        running_service(tmp_path, settings, agents=3) as service,
        AsyncClient(service.url, service.alice) as alice,
    ):
        job = await alice.submit(url, connections=2)

        async def on_three() -> bool:
            state = await service.scheduler.job_state(job.id)
            return len({lease.agent for lease in state.leases}) == 3

        await eventually(on_three, within_s=120)
        if lost:
            await downloading(alice, job.id, parts_min=4)
            await service.agents.kill("agent-2")
            await service.agents.add("agent-2")
        done = await alice.wait(job.id, timeout_s=240)
        assert set(done.agents) == {"agent-1", "agent-2", "agent-3"}
        assert (done.progress.bytes, done.progress.parts_done) == (size, 24)
        assert await object_sha256(alice, job.id) == content_sha256(11, size)
        await no_uploads(settings)
        assert (await service.ledger.state()).leases == []
    fetched = [seen.range for seen in origin.seen("wide.bin") if seen.range and seen.range != LOOK]
    assert len(fetched) <= 24 + 6, "only what was lost, or crawled near the end, is fetched again"


async def test_file_changes_on_the_way(alice: AsyncClient, origin: Origin, settings: Settings) -> None:
    """Another version appears in the middle: nothing of the first is published, the second arrives whole."""
    url = origin.add("moving.bin", size=8 * PART_BYTES, seed=8, changes_after=4)
    job = await alice.submit(url, connections=1)
    done = await alice.wait(job.id, timeout_s=30)
    assert await object_sha256(alice, done.id) not in ("", content_sha256(8, 8 * PART_BYTES))
    history = await alice.history(job.id)
    assert "source_changed" in [event.payload.get("code") for event in history]
    assert [event.event for event in history].count("metadata") == 2
    await no_uploads(settings)


async def test_redirect_into_the_private_network(tmp_path: Path, settings: Settings, origin: Origin) -> None:
    """A redirect to a metadata address: refused by the guard, failed by the caller's fault, not tried again."""
    allow = EgressSettings(allow=(origin.host_port,))
    async with running_service(tmp_path, settings.model_copy(update={"egress": allow})) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            url = origin.add("trap.bin", redirect_to="http://169.254.169.254/latest/meta-data/")
            failed = await finished(alice, (await alice.submit(url)).id)
            assert failed.error is not None
            assert (failed.error.code, failed.error.fault) == ("egress_denied", "caller")
            assert len(origin.seen("trap.bin")) == 1


async def test_a_zombie_is_fenced(tmp_path: Path, settings: Settings, origin: Origin) -> None:
    """An agent that is cut off loses its lease and works on; when it is heard again, nothing of it counts."""
    liveness = LivenessSettings(heartbeat_s=0.1, offline_s=1, self_fence_s=1000)
    settings = settings.model_copy(update={"liveness": liveness, "hosts": ON_ONE_AGENT})
    async with running_service(tmp_path, settings) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            url = origin.add("held.bin", size=16 * PART_BYTES, seed=9, rate_bytes_per_s=6 * MIB)
            job = await alice.submit(url, connections=2)
            await downloading(alice, job.id, parts_min=1)
            zombie = (await alice.get(job.id)).agents[0]
            service.agents.mute(zombie)

            async def taken_over() -> bool:
                now = await alice.get(job.id)
                return now.status is JobStatus.DOWNLOADING and now.agents != [zombie]

            async def has_stale_news() -> bool:
                return bool(service.agents._agents[zombie]._outbox.notices())

            await eventually(taken_over)
            await eventually(has_stale_news)
            service.agents.unmute(zombie)

            async def refused() -> bool:
                counted = (await service.scheduler.metrics("test", Snapshot())).counters
                return sum(value for (name, _), value in counted.items() if name == FENCED_WRITES.name) > 0

            await eventually(refused)
            done = await alice.wait(job.id, timeout_s=40)
            assert (done.requeues, done.agents) == (1, [name for name in ("agent-1", "agent-2") if name != zombie])
            assert await object_sha256(alice, job.id) == content_sha256(9, 16 * PART_BYTES)


async def test_an_agent_that_is_cut_off_stops_by_itself(tmp_path: Path, settings: Settings, origin: Origin) -> None:
    """Without an answer for `self_fence_s` an agent ends its transfers, long before it counts as lost."""
    liveness = LivenessSettings(heartbeat_s=0.1, offline_s=60, self_fence_s=0.5)
    settings = settings.model_copy(update={"liveness": liveness, "hosts": ON_ONE_AGENT})
    async with running_service(tmp_path, settings) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            url = origin.add("cut.bin", size=16 * PART_BYTES, rate_bytes_per_s=2 * MIB)
            job = await alice.submit(url, connections=2)

            async def reading() -> bool:
                return len(origin.seen("cut.bin")) >= 3 and origin.connections_open >= 2

            await eventually(reading)
            service.agents.mute((await alice.get(job.id)).agents[0])

            async def silent() -> bool:
                return origin.connections_open == 0

            await eventually(silent, within_s=10)
            now = await alice.get(job.id)
            assert (now.status, now.requeues) == (JobStatus.DOWNLOADING, 0)


async def test_scheduler_starts_anew(tmp_path: Path, settings: Settings, origin: Origin) -> None:
    """The service stops in the middle and starts on the same ledger: the job goes on from its parts."""
    url = origin.add("kept.bin", size=12 * PART_BYTES, seed=10, rate_bytes_per_s=25 * MIB)
    async with running_service(tmp_path, settings) as service, AsyncClient(service.url, service.alice) as alice:
        job_id = (await alice.submit(url, connections=2)).id
        await downloading(alice, job_id, parts_min=4)
    async with running_service(tmp_path, settings) as service:
        async with AsyncClient(service.url, service.operator) as operator:
            await operator.wait(job_id, timeout_s=40)
            assert await object_sha256(operator, job_id) == content_sha256(10, 12 * PART_BYTES)
    fetched = [seen.range[0] for seen in origin.seen("kept.bin") if seen.range and seen.range != LOOK]
    assert len(fetched) < 2 * 12, "it began anew"
    await no_uploads(settings)


async def test_same_key_fifty_times_at_once(service: Service, origin: Origin) -> None:
    """Fifty submissions with one Idempotency-Key at once make one job."""
    url = origin.add("once.bin", size=10)
    async with AsyncClient(service.url, service.alice) as alice:
        jobs = await asyncio.gather(*(alice.submit(url, idempotency_key="the-one") for _ in range(50)))
        assert len({job.id for job in jobs}) == 1
        assert len((await alice.list()).jobs) == 1


async def test_headers_that_are_no_text(alice: AsyncClient, origin: Origin) -> None:
    """An origin whose headers hold any bytes harms nobody: its job ends, and the list can still be read."""
    raw = (
        b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: "\xff\xfe"\r\nContent-Type: \xff/x\r\nLast-Modified: \xfe\r\n'
        b'Content-Disposition: attachment; filename="\xff\xfe.bin"\r\nConnection: close\r\n\r\nx'
    )
    job = await finished(alice, (await alice.submit(origin.add("odd.bin", raw=raw))).id)
    assert job.status is JobStatus.COMPLETED, job.error
    assert job.metadata is not None
    assert job.metadata.etag == '"\u00ff\u00fe"'
    assert [listed.id for listed in (await alice.list()).jobs] == [job.id]
    await alice.wait((await alice.submit(origin.add("next.bin", size=5))).id, timeout_s=20)
