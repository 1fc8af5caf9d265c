"""A source in a store that takes a part to be copied for one without bytes: rclone's S3 server."""

import asyncio
from functools import partial
from pathlib import Path

from inprocess import PART_BYTES, quick_settings, running_service
from origin import content_bytes
from rclone import rclone_server

from rayhaul import AsyncClient
from rayhaul.metrics import Meter
from rayhaul.settings import SourcesSettings
from tasks.sink import Sink

SIZE = 2 * PART_BYTES + 1000


async def test_its_bytes_are_read_and_sent(tmp_path: Path) -> None:
    """The job is completed all the same, with the file's own bytes."""
    root = tmp_path / "rclone"
    (root / "media").mkdir(parents=True)
    (root / "media" / "file.bin").write_bytes(content_bytes(3, 0, SIZE))
    with rclone_server(root) as s3:
        settings = quick_settings(s3, sources=SourcesSettings(s3_buckets=("media",)))
        async with running_service(tmp_path, settings, agents=1) as service:
            async with AsyncClient(service.url, service.alice) as client:
                job = await client.submit("s3://media/file.bin")
                done = await client.wait(job.id, timeout_s=60)
            assert done.result is not None
            async with Sink(s3, meter=Meter(), connections_max=1) as sink:
                get = partial(sink.calls.client.get_object, Bucket=sink.bucket, Key=done.result.key)
                stored = (await asyncio.to_thread(get))["Body"].read()
    assert stored == content_bytes(3, 0, SIZE)
