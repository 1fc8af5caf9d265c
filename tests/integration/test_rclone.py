"""From URL to an object in a store that is not SeaweedFS: rclone's, whose ETags are of another kind."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from inprocess import PART_BYTES, Service, quick_settings, running_service
from origin import Origin, content_sha256
from rclone import rclone_server

from rayhaul.client.aio import AsyncClient


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    root = tmp_path / "rclone"
    root.mkdir()
    with rclone_server(root) as s3:
        async with running_service(tmp_path, quick_settings(s3)) as service:
            yield service


async def test_small_and_large(service: Service) -> None:
    """In one PUT and in parts, the object is verified, and its link gives the file."""
    async with Origin() as origin, AsyncClient(service.url, service.alice) as client, aiohttp.ClientSession() as http:
        for size_bytes in (1000, 2 * PART_BYTES + 1000):
            job = await client.submit(origin.add(f"{size_bytes}.bin", size=size_bytes, seed=3))
            done = await client.wait(job.id, timeout_s=60)
            assert done.result is not None
            assert done.result.size_bytes == size_bytes
            async with http.get((await client.download_link(job.id)).url) as response:
                assert response.headers["ETag"].strip('"') == done.result.etag
                assert hashlib.sha256(await response.read()).hexdigest() == content_sha256(3, size_bytes)
