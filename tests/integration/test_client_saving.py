"""Saving objects through links that break, lie and refuse."""

from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from faulty_api import COMPLETES, CONTENT, Fault, FaultyApi, running_faulty_api

from rayhaul import AsyncClient, DownloadMismatch
from rayhaul.client.errors import Conflict, SinkFailed


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


@pytest.fixture
async def api() -> AsyncIterator[FaultyApi]:
    async with running_faulty_api() as api:
        yield api


@pytest.fixture
async def client(api: FaultyApi) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api.url, api.key, timeout_s=5, reconnect_s_max=20) as client:
        yield client


@pytest.mark.parametrize("cuts", [[], [70_000], [70_000, 50_000, 1], [0, 0], [len(CONTENT)]])
async def test_download(api: FaultyApi, client: AsyncClient, tmp_path: Path, cuts: list[int]) -> None:
    """The object comes whole and under its name; what was cut goes on where it stopped."""
    api.object_cuts = deque(cuts)
    told: list[tuple[int, int]] = []
    job = api.add(done=len(COMPLETES))
    path = await client.download(job.id, tmp_path / "file.bin", lambda *bytes_: told.append(bytes_))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert files_in(tmp_path) == [path]
    reads = api.asked(f"GET /objects/{job.id}")
    assert len(reads) == 1 + (0 if cuts == [len(CONTENT)] else len(cuts))
    assert [read.get("Range") for read in reads] == [
        f"bytes={sum(cuts[:index])}-" if sum(cuts[:index]) else None for index in range(len(reads))
    ]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"x" + CONTENT[1:], b""])
async def test_download_of_something_else(api: FaultyApi, client: AsyncClient, tmp_path: Path, content: bytes) -> None:
    """Bytes that are not the object are not kept, and what lay there before stays."""
    api.content = content
    path = tmp_path / "file.bin"
    path.write_text("before")
    with pytest.raises(DownloadMismatch):
        await client.download(api.add(done=len(COMPLETES)).id, path)
    assert path.read_text() == "before"
    assert files_in(tmp_path) == [path]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x"])
async def test_download_of_another_size(api: FaultyApi, client: AsyncClient, tmp_path: Path, content: bytes) -> None:
    """Where no hash is known the size must be right at least."""
    api.content = content
    job = api.add(done=len(COMPLETES), sha256=None)
    with pytest.raises(DownloadMismatch, match="promised"):
        await client.download(job.id, tmp_path / "file.bin")
    assert files_in(tmp_path) == []


async def test_download_gives_up(api: FaultyApi, tmp_path: Path) -> None:
    """A bucket that is busy is asked again, so often; one that refuses is not."""
    job = api.add(done=len(COMPLETES))
    async with AsyncClient(api.url, api.key, retries_max=1) as client:
        for fault, reads in ((Fault(503), 2), (Fault(403), 1)):
            api.requests.clear()
            api.faults[f"GET /objects/{job.id}"] = deque([fault] * 5)
            with pytest.raises(SinkFailed):
                await client.download(job.id, tmp_path / "file.bin")
            assert len(api.asked(f"GET /objects/{job.id}")) == reads
    assert files_in(tmp_path) == []


async def test_download_too_early(api: FaultyApi, client: AsyncClient, tmp_path: Path) -> None:
    """A job without an object cannot be saved."""
    with pytest.raises(Conflict):
        await client.download(api.add().id, tmp_path / "file.bin")
