"""What a take-over costs the store: the slower agent's open PUTs of those parts are cut, one each, and no others."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from inprocess import PART_BYTES, Service, quick_settings, running_service
from origin import Origin, content_bytes, content_sha256
from store_proxy import StoreProxy
from test_service import eventually, no_uploads, object_sha256

from actors import stripes
from rayhaul import AsyncClient
from rayhaul.errors import UploadLost
from rayhaul.lease import PartDone
from rayhaul.metrics import SINK_REQUESTS, Meter, Snapshot
from rayhaul.policy import striping
from rayhaul.settings import MIB, Settings
from serve_app.seaweed import Seaweed
from tasks.sink import Sink

PARTS = 5
#: The first ones come by connections that crawl: by themselves they would take four minutes.
CRAWLING = {1: 1, 2: 1}


@pytest.fixture
async def proxy(store: Seaweed) -> AsyncIterator[StoreProxy]:
    async with StoreProxy(store.settings) as running:
        yield running


@pytest.fixture
def settings(proxy: StoreProxy, tmp_path: Path) -> Settings:
    settings = quick_settings(proxy.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))
    transfer = settings.transfer.model_copy(update={"stripe_parts_min": 1})
    return settings.model_copy(update={"transfer": transfer})


async def cut(service: Service) -> float:
    """Return how many uploads of parts the agents count as cut."""
    counters = (await service.scheduler.metrics("test", Snapshot())).counters
    return sum(
        value
        for (name, labels), value in counters.items()
        if (name, labels[1:]) == (SINK_REQUESTS.name, ("cancelled",))
    )


async def test_parts_that_another_agent_takes_over(
    tmp_path: Path, settings: Settings, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All connections of one agent crawl: the other sends each of those parts once, and each open PUT is cut once."""
    monkeypatch.setattr(striping, "_SLOW_S", 0.5)
    monkeypatch.setattr(stripes, "_ASK_AGAIN_S", 0.2)
    # Beyond what a look asks for.
    drips = tuple((number - 1) * PART_BYTES + 100_000 for number in CRAWLING)
    async with (
        Origin() as origin,
        running_service(tmp_path, settings) as service,
        AsyncClient(service.url, service.alice) as alice,
    ):
        url = origin.add(
            "file.bin",
            size=PARTS * PART_BYTES,
            seed=3,
            rate_bytes_per_s=10 * MIB,
            drips_at=drips,
            faults_max=len(drips),
        )
        job = await alice.submit(url, connections=len(drips))
        await alice.wait(job.id, timeout_s=120)
        assert await object_sha256(alice, job.id) == content_sha256(3, PARTS * PART_BYTES)
        assert Counter(seen.part for seen in proxy.broken) == CRAWLING
        sent = Counter(seen.part for seen in proxy.seen if seen.operation == "upload_part")
        assert sent == {number: 1 + CRAWLING.get(number, 0) for number in range(1, PARTS + 1)}
        await no_uploads(settings)

        async def counted() -> bool:
            return await cut(service) == len(CRAWLING)

        await eventually(counted)


async def test_a_put_that_outlives_its_upload(proxy: StoreProxy, settings: Settings) -> None:
    """Left to run while the other agent completes, it would fail as well, once the store has taken all of its bytes."""
    data = content_bytes(1, 0, PART_BYTES)
    key = f"{settings.s3.prefix}late.bin"
    async with Sink(settings.s3, meter=Meter(), connections_max=4) as sink:
        upload_id = await sink.create(key, content_type="a/b", filename="late.bin", metadata={})

        async def slow() -> AsyncIterator[bytes]:
            yield data[:MIB]
            twin = await sink.put_part(key, upload_id, 1, len(data), data)
            part = PartDone(session_id="ses", number=1, size_bytes=len(data), etag=twin.etag, crc64nvme=twin.crc64nvme)
            await sink.complete(key, upload_id, [part], crc64nvme=twin.crc64nvme)
            yield data[MIB:]

        with pytest.raises(UploadLost):
            await sink.put_part(key, upload_id, 1, len(data), slow())
        assert (await sink.head_of(sink.bucket, key)).size_bytes == len(data)
        assert await sink.list_uploads(settings.s3.prefix) == []
    assert proxy.broken == []
    assert proxy.count("upload_part") == 2
