"""The prober: links are really followed to a real bucket, and events are timed where a client has them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from time import time

import aiohttp
import pytest
from plane import Site, listening, site_at

from actors.prober import Prober
from rayhaul.job import JobResult, JobStatus
from rayhaul.ledger.base import Batch, Viewer
from rayhaul.metrics import DELIVERY_PROBES, SSE_DELIVERY_LAG, Meter
from serve_app.seaweed import Seaweed
from tasks.sink import Sink

KEY = "probes/héllo wörld.bin"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_at(tmp_path) as site:
        yield site


@asynccontextmanager
async def probing(site: Site, store: Seaweed) -> AsyncIterator[tuple[Prober, aiohttp.ClientSession, Meter]]:
    meter = Meter()
    links = Sink(store.settings, meter=Meter(), connections_max=1)
    prober = Prober(ledger=site.ledger, links=links, meter=meter, rng=Random(1), clock=time)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield prober, session, meter


async def completed(site: Site, *, key: str = KEY, size_bytes: int) -> None:
    """Let the ledger have a completed job with its object under that key."""
    job = await site.ledger.job(Viewer("alice"), await site.submit("alice"))
    result = JobResult(bucket="any", key=key, size_bytes=size_bytes, etag="e", sha256=None, crc64nvme=None)
    done = replace(job, status=JobStatus.COMPLETED, key=key, result=result, version=job.version + 1)
    await site.ledger.commit(Batch(jobs_changed=[done]))


async def put(store: Seaweed, key: str, body: bytes) -> None:
    async with Sink(store.settings, meter=Meter(), connections_max=4) as sink:
        about = {"content_type": "application/octet-stream", "filename": "f", "metadata": {}}
        await sink.put(key, len(body), body, replaces=None, **about)  # type: ignore[arg-type]


async def test_nothing_to_try_is_no_failure(site: Site, store: Seaweed) -> None:
    """Without a completed job nothing is counted."""
    async with probing(site, store) as (prober, session, meter):
        assert await prober.follow_one(session) is None
        assert meter.snapshot().counters == {}


@pytest.mark.parametrize("body", [b"three", b""], ids=["bytes", "empty"])
async def test_a_link_that_delivers(site: Site, store: Seaweed, body: bytes) -> None:
    """Signature, bucket and size are as promised, also of an empty object."""
    key = f"{KEY}-{len(body)}"
    await put(store, key, body)
    await completed(site, key=key, size_bytes=len(body))
    async with probing(site, store) as (prober, session, meter):
        assert await prober.follow_one(session) == "ok"
        assert meter.snapshot().counters[DELIVERY_PROBES.name, ("ok",)] == 1


async def test_links_that_do_not_deliver(site: Site, store: Seaweed) -> None:
    """An object that is gone, one of another size, a wrong signature, a bucket that is not there: each in a word."""
    await completed(site, key="probes/never-written", size_bytes=5)
    async with probing(site, store) as (prober, session, meter):
        assert await prober.follow_one(session) == "absent"
        await put(store, "probes/never-written", b"four")
        assert await prober.follow_one(session) == "wrong_size"
        secret = store.settings.model_copy(update={"access_key_id": "somebody", "secret_access_key": None})
        forged = secret.model_copy(update={"secret_access_key": store.settings.secret_access_key})
        prober._links = Sink(forged, meter=Meter(), connections_max=1)
        assert await prober.follow_one(session) == "refused"
        nowhere = store.settings.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
        prober._links = Sink(nowhere, meter=Meter(), connections_max=1)
        assert await prober.follow_one(session) == "unreachable"
        counted = {labels[0]: value for (_, labels), value in meter.snapshot().counters.items()}
        assert counted == {"absent": 1, "wrong_size": 1, "refused": 1, "unreachable": 1}


async def test_events_are_timed_where_they_arrive(site: Site, store: Seaweed) -> None:
    """Each event once, from its commit to a client behind a real socket; a key of its own, which only reads."""

    def heard(meter: Meter) -> int:
        found = meter.snapshot().histograms.get((SSE_DELIVERY_LAG.name, ()))
        return 0 if found is None else sum(found.counts)

    async with listening(site.app) as url, probing(site, store) as (prober, _, meter):
        reading = asyncio.create_task(prober.read_events(url, site.plane))
        async with asyncio.timeout(20):
            while heard(meter) == 0:
                await site.submit("alice")
                await asyncio.sleep(0.2)
            first = heard(meter)
            await site.submit("bob")
            while heard(meter) == first:
                await asyncio.sleep(0.05)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        lag = meter.snapshot().histograms[SSE_DELIVERY_LAG.name, ()]
        assert lag.total / heard(meter) < 5
    (key,) = (key for key in await site.ledger.keys(Viewer("prober")) if key.user_id == "prober")
    assert key.scopes == {"read"}


async def test_one_key_however_often_it_begins(site: Site, store: Seaweed) -> None:
    """The key of the life before is replaced: what was written down of it is worth nothing."""
    async with probing(site, store) as (prober, _, _meter):
        texts = {await prober._key(site.plane) for _ in range(3)}
    assert len(texts) == 3
    assert len(await site.ledger.keys(Viewer("prober"))) == 1
