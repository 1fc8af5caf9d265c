"""`dedupe`: a file that stands in the bucket already is copied there; where anything is in doubt it is fetched."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from inprocess import PART_BYTES, Service, quick_settings, running_service
from origin import Origin, content_sha256

from rayhaul import AsyncClient
from rayhaul.metrics import Meter
from rayhaul.settings import S3Settings
from rayhaul.wire import JobView
from serve_app.seaweed import Seaweed
from tasks import dedupe
from tasks.sink import Sink

#: One of a single PUT, one of two parts.
SIZES = (1000, PART_BYTES + 7)


@pytest.fixture
def s3(tmp_path: Path, store: Seaweed) -> S3Settings:
    return store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"})


@pytest.fixture
async def service(tmp_path: Path, s3: S3Settings) -> AsyncIterator[Service]:
    async with running_service(tmp_path, quick_settings(s3), agents=1) as running:
        yield running


class Scene:
    """One user's jobs, and one origin's files."""

    def __init__(self, client: AsyncClient, origin: Origin, directory: Path) -> None:
        self.client = client
        self.origin = origin
        self._directory = directory

    async def done(self, url: str, **fields: Any) -> JobView:
        job = await self.client.submit(url, **fields)
        return await self.client.wait(job.id, timeout_s=60)

    async def sha256(self, job: JobView) -> str:
        path = await self.client.download(job.id, self._directory / job.id)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    async def copied_from(self, job: JobView) -> str | None:
        (completed,) = [event for event in await self.client.history(job.id) if event.event == "completed"]
        return completed.payload.get("deduplicatedFrom")

    def fetched(self) -> int:
        """Return how many requests there were but for the looks at files, and forget them."""
        count = sum(seen.range != (0, 1) for seen in self.origin.requests)
        self.origin.requests.clear()
        return count


@pytest.fixture
async def scene(service: Service, tmp_path: Path) -> AsyncIterator[Scene]:
    async with Origin() as origin, AsyncClient(service.url, service.alice) as alice:
        yield Scene(alice, origin, tmp_path)


@pytest.mark.parametrize(("size", "at_once_max"), [(SIZES[0], SIZES[0]), (SIZES[1], SIZES[1]), (SIZES[1], SIZES[0])])
async def test_the_same_file_is_copied(
    scene: Scene, size: int, at_once_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By URL and validator, or by the checksum from wherever; at once or in parts; under a key of its own, and with the
    same figures.
    """
    monkeypatch.setattr(dedupe, "COPY_BYTES_MAX", at_once_max)
    url = scene.origin.add("file.bin", size=size, seed=7)
    sha256 = content_sha256(7, size)
    first = await scene.done(url, checksum=f"sha256:{sha256}")
    assert scene.fetched() > 0
    again = await scene.done(url, dedupe=True)
    other = await scene.done(scene.origin.add("copy.bin", size=size, seed=7), checksum=f"sha256:{sha256}", dedupe=True)
    assert scene.fetched() == 0
    assert first.result is not None
    for job in (again, other):
        assert job.result is not None
        assert job.result.key != first.result.key
        assert (job.result.size_bytes, job.result.sha256) == (size, sha256)
        assert job.result.crc64nvme == first.result.crc64nvme
        assert await scene.sha256(job) == sha256
    assert await scene.copied_from(again) == first.id
    assert await scene.copied_from(other) in {first.id, again.id}
    assert (await scene.client.receipt(again.id)).copied_from == first.id
    assert await scene.copied_from(first) is None


async def test_the_same_key_needs_no_copy(scene: Scene) -> None:
    """Where the object stands under the very key, it is what the job asks for."""
    url = scene.origin.add("file.bin", size=1000, seed=7)
    first = await scene.done(url, key="data/file.bin")
    scene.fetched()
    again = await scene.done(url, key="data/file.bin", dedupe=True)
    assert scene.fetched() == 0
    assert again.result == first.result
    assert await scene.copied_from(again) == first.id


async def test_doubt_means_a_download(scene: Scene, service: Service, s3: S3Settings) -> None:
    """Another user's file, one that changed at its source, a weak tag, and a job that did not ask for it."""
    url = scene.origin.add("file.bin", size=1000, seed=7)
    await scene.done(url)
    scene.fetched()
    async with AsyncClient(service.url, service.bob) as bob:
        job = await bob.wait((await bob.submit(url, dedupe=True)).id, timeout_s=60)
        assert (job.status, scene.fetched()) == ("completed", 1)
    await scene.done(url)
    assert scene.fetched() == 1
    scene.origin.add("file.bin", size=1000, seed=8)
    changed = await scene.done(url, dedupe=True)
    assert scene.fetched() == 1
    assert await scene.sha256(changed) == content_sha256(8, 1000)
    weak = scene.origin.add("weak.bin", size=1000, seed=7, etag="weak")
    await scene.done(weak)
    scene.fetched()
    await scene.done(weak, dedupe=True)
    assert scene.fetched() == 1


@pytest.mark.parametrize("fate", ["deleted", "other bytes"])
async def test_an_object_that_does_not_stand_as_it_was(scene: Scene, s3: S3Settings, fate: str) -> None:
    """What is gone, or was replaced by somebody, is fetched again."""
    url = scene.origin.add("file.bin", size=1000, seed=7)
    first = await scene.done(url)
    assert first.result is not None
    async with Sink(s3, meter=Meter(), connections_max=1) as sink:
        if fate == "deleted":
            await sink.delete(first.result.key)
        else:
            about: dict[str, Any] = {"content_type": "text/plain", "filename": "x", "metadata": {}}
            await sink.put(first.result.key, 1000, b"x" * 1000, replaces=first.result.etag, **about)
    scene.fetched()
    again = await scene.done(url, dedupe=True)
    assert scene.fetched() == 1
    assert await scene.sha256(again) == content_sha256(7, 1000)
    assert await scene.copied_from(again) is None
