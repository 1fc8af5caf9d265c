"""Jobs with mirrors, from the API to the bucket: what is tried when a source fails, and what is told of it."""

import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from inprocess import PART_BYTES, Service, quick_settings, running_service
from origin import Origin, content_sha256

from rayhaul import AsyncClient, JobFailed
from rayhaul.job import JobStatus
from rayhaul.settings import AgentSettings
from serve_app.seaweed import Seaweed

SIZE = 4 * PART_BYTES


@pytest.fixture
async def service(tmp_path: Path, store: Seaweed) -> AsyncIterator[Service]:
    s3 = store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"})
    async with running_service(tmp_path, quick_settings(s3), agents=2) as running:
        yield running


async def fetched(client: AsyncClient, job_id: str, directory: Path) -> str:
    """Return the SHA-256 of what stands in the bucket."""
    path = directory / job_id
    await client.download(job_id, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def test_jobs_whose_sources_fail(service: Service, tmp_path: Path) -> None:
    """A source that never had the file, one that dies half-way, and one that dies before anything of it is in: the last
    one gives way to a mirror of which nothing is known, for the whole file. Receipt and history tell who brought what.
    """
    async with Origin() as main, Origin() as mirror, AsyncClient(service.url, service.alice) as alice:
        # Slower than the other, so that the other is asked again.
        same = mirror.add("same", size=SIZE, seed=7, rate_bytes_per_s=2 * PART_BYTES)
        other = mirror.add("other", size=SIZE, seed=8)
        gone = await alice.submit(f"{main.base_url}/gone?t=s3cr3t", mirrors=[other], headers={"X-Key": "k"})
        dying = await alice.submit(
            main.add("dying", size=SIZE, seed=7, status=404, status_after=3), mirrors=[same], connections=1
        )
        dead = await alice.submit(main.add("dead", size=SIZE, seed=7, status=404, status_after=1), mirrors=[other])
        for job in (gone, dying, dead):
            assert (await alice.wait(job.id, timeout_s=100)).status is JobStatus.COMPLETED
        assert {seen.headers.get("x-key") for seen in mirror.requests} == {None}
        for job, seed in ((gone, 8), (dying, 7), (dead, 8)):
            assert await fetched(alice, job.id, tmp_path) == content_sha256(seed, SIZE)
        receipt = await alice.receipt(gone.id)
        assert [(source.url, source.bytes) for source in receipt.sources] == [(other, SIZE)]
        assert sum(source.bytes for source in (await alice.receipt(dying.id)).sources) == SIZE
        (done,) = [event for event in await alice.history(dying.id) if event.event == "completed"]
        first, second = done.payload["sources"]
        assert (first["url"], first["leftOut"]) == (f"{main.base_url}/dying", "source_not_found")
        assert first["bytes"] + second["bytes"] == SIZE
        assert first["bytes"] > 0 < second["bytes"]
        (again,) = [event for event in await alice.history(dead.id) if event.event == "requeued"]
        assert again.payload["code"] == "source_not_found"
        assert {"url": other, "bytes": 0, "leftOut": "doubtful"} in again.payload["sources"]


async def test_a_job_whose_sources_are_all_gone(service: Service) -> None:
    """It fails at once, by the source's fault, and names them all, without secrets."""
    async with Origin() as main, Origin() as mirror, AsyncClient(service.url, service.alice) as alice:
        job = await alice.submit(f"{main.base_url}/a?t=s3cr3t", mirrors=[f"{mirror.base_url}/b?t=s3cr3t"])
        with pytest.raises(JobFailed):
            await alice.wait(job.id, timeout_s=60)
        failed = await alice.get(job.id)
        assert failed.error is not None
        assert (failed.status, failed.error.code) == (JobStatus.FAILED, "source_not_found")
        assert all(origin.host_port in failed.error.message for origin in (main, mirror))
        assert "s3cr3t" not in failed.error.message


async def test_an_agents_bandwidth_holds(tmp_path: Path, store: Seaweed) -> None:
    """Two jobs of two megabytes at two a second take two seconds less the burst, however many connections they have."""
    settings = quick_settings(
        store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}),
        agent=AgentSettings(slots=8, bandwidth_bytes_per_s_max=2_000_000),
    )
    async with (
        running_service(tmp_path, settings, agents=1) as service,
        Origin() as origin,
        AsyncClient(service.url, service.alice) as alice,
    ):
        began_s = time.monotonic()
        jobs = [await alice.submit(origin.add(name, size=2_000_000)) for name in ("a", "b")]
        for job in jobs:
            await alice.wait(job.id, timeout_s=60)
        assert time.monotonic() - began_s >= 1.7
