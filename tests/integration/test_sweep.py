"""Uploads that are nobody's are found in a real bucket and aborted; those of others stay."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from inprocess import PART_BYTES, quick_settings, running_service
from origin import Origin
from store_proxy import Fault, StoreProxy

from rayhaul.client.aio import AsyncClient
from rayhaul.ids import IdFactory
from rayhaul.metrics import Meter
from rayhaul.settings import S3Settings, SweepSettings, TransferSettings
from serve_app.seaweed import Seaweed
from tasks.sink import Sink

ABOUT: Mapping[str, Any] = {"content_type": "text/plain", "filename": "f", "metadata": {}}


@pytest.fixture
def s3(store: Seaweed) -> S3Settings:
    """The store under a prefix of this test's own."""
    return store.settings.model_copy(update={"prefix": f"sweep-{uuid.uuid4()}/"})


@pytest.fixture
async def sink(s3: S3Settings) -> AsyncIterator[Sink]:
    async with Sink(s3, meter=Meter(), connections_max=4) as sink:
        yield sink


async def test_f29_an_upload_that_nobody_was_told_of(s3: S3Settings, sink: Sink, tmp_path: Path) -> None:
    """An agent that dies between Create and its word leaves an upload: one sweep later it is gone, others are not."""
    settings = quick_settings(s3, sweep=SweepSettings(interval_s=0.5, age_s_min=1))
    async with Origin() as origin, running_service(tmp_path, settings, agents=1) as service:
        async with AsyncClient(service.url, service.alice) as client:
            job = await client.submit(origin.add("f.bin", size=1000, seed=7))
            assert (await client.wait(job.id, timeout_s=60)).result is not None
        left = f"{s3.prefix}{job.id}/f.bin"
        await sink.create(left, **ABOUT)
        foreign, named = f"{s3.prefix}{IdFactory()('job')}/f.bin", f"{s3.prefix}named/f.bin"
        for key in (foreign, named):
            await sink.create(key, **ABOUT)
        async with asyncio.timeout(60):
            while left in {upload.key for upload in await sink.list_uploads(s3.prefix)}:
                await asyncio.sleep(0.1)
        # Another look, and nothing more.
        await asyncio.sleep(1.5)
        assert {upload.key for upload in await sink.list_uploads(s3.prefix)} == {foreign, named}
        assert await sink.head(left) is not None, "the object under the same key is the job's own"
        async with asyncio.timeout(60):
            while (await service.ledger.state()).sessions:
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("owns_prefix", [True, False])
async def test_keys_that_callers_named(s3: S3Settings, sink: Sink, tmp_path: Path, *, owns_prefix: bool) -> None:
    """The answer to Create is lost, and an upload stays. Only where nobody else uploads under the prefix it is aborted,
    and not that of another job with the same key, nor one outside; else a stranger's on the same key stays, too.
    """
    sweep = SweepSettings(interval_s=0.5, age_s_min=1, owns_prefix=owns_prefix)
    size = 4 * PART_BYTES
    async with StoreProxy(s3) as proxy, Origin() as origin:
        settings = quick_settings(proxy.settings, sweep=sweep)
        async with running_service(tmp_path, settings, agents=1) as service:
            async with AsyncClient(service.url, service.alice) as client:
                proxy.fail("create", Fault(drop_answer=True))
                first = await client.submit(origin.add("f.bin", size=size, seed=7), key="f.bin")
                await client.wait(first.id, timeout_s=60)
                outside = f"other-{s3.prefix}f.bin"
                strangers = set() if owns_prefix else {await sink.create(f"{s3.prefix}f.bin", **ABOUT)}
                far_id = await sink.create(outside, **ABOUT)
                # Five seconds: long enough for some looks.
                slow_url = origin.add("slow.bin", size=size, seed=7, rate_bytes_per_s=size // 5)
                slow = await client.submit(slow_url, key="f.bin", connections=1)
                key = f"{s3.prefix}f.bin"
                left = 0 if owns_prefix else 2
                assert (await client.wait(slow.id, timeout_s=100)).result is not None
                async with asyncio.timeout(60):
                    while len(await sink.list_uploads(key)) > left:
                        await asyncio.sleep(0.1)
                await asyncio.sleep(1.5)
                found = {upload.upload_id for upload in await sink.list_uploads(key)}
                assert len(found) == left
                assert found >= strangers
                assert proxy.count("create") == 3, "the slow job's own upload stayed"
                assert [upload.upload_id for upload in await sink.list_uploads(outside)] == [far_id]
                await sink.abort(outside, far_id)


async def test_the_bucket_s_own_rule(s3: S3Settings) -> None:
    """Where the bucket has no rules, one is set; what stands there is not touched, and is asked for once."""
    async with StoreProxy(s3) as proxy, Sink(proxy.settings, meter=Meter(), connections_max=4) as far:
        await far.put(f"{s3.prefix}x", 1, b"x", replaces=None, **ABOUT)
        upload_id = await far.create(f"{s3.prefix}open", **ABOUT)
        # Another test may have set it for its prefix.
        await asyncio.to_thread(partial(far.calls.client.delete_bucket_lifecycle, Bucket=far.bucket))
        before = proxy.count("lifecycle")
        for _ in range(2):
            await far.ensure_abort_rule(s3.prefix, 7)
        assert proxy.count("lifecycle") == before + 2, "one look, one rule"
        read = partial(far.calls.client.get_bucket_lifecycle_configuration, Bucket=far.bucket)
        (rule,) = (await asyncio.to_thread(read))["Rules"]
        assert (rule["Status"], rule["Filter"]) == ("Enabled", {"Prefix": s3.prefix})
        assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
        assert not {"Expiration", "NoncurrentVersionExpiration"} & rule.keys(), "no object goes by it"
        assert await far.head(f"{s3.prefix}x") is not None
        (upload,) = await far.list_uploads(f"{s3.prefix}open")
        assert upload.upload_id == upload_id
        assert upload.initiated_at <= datetime.now(UTC)
        await far.abort(upload.key, upload.upload_id)


@pytest.mark.parametrize(
    ("answer", "requests"),
    [
        (Fault(status=404, code="NoSuchLifecycleConfiguration"), 2),
        (Fault(status=501, code="NotImplemented"), 1),
        (Fault(status=403, code="AccessDenied"), 1),
    ],
)
async def test_rules_are_set_only_where_there_are_none(s3: S3Settings, answer: Fault, requests: int) -> None:
    """A bucket that has rules, or does not let us ask, keeps what it has; a refusal to set one is borne."""
    async with StoreProxy(s3) as proxy, Sink(proxy.settings, meter=Meter(), connections_max=4) as far:
        proxy.fail("lifecycle", answer)
        proxy.fail("lifecycle", Fault(status=400, code="MalformedXML"))
        await far.ensure_abort_rule(s3.prefix, 7)
        assert proxy.count("lifecycle") == requests


async def test_a_store_that_is_busy_is_asked_for_its_rules_again(s3: S3Settings) -> None:
    """Both when it is asked what it has, and when it is to take one; then no more."""
    once = TransferSettings(part_attempts_max=1)
    async with (
        StoreProxy(s3) as proxy,
        Sink(proxy.settings, meter=Meter(), connections_max=4, retries=once) as far,
    ):
        none = Fault(status=404, code="NoSuchLifecycleConfiguration")
        for fault in (Fault(status=503), none, Fault(status=503), none):
            proxy.fail("lifecycle", fault)
        for asked in (1, 3, 5, 5):
            await far.ensure_abort_rule(s3.prefix, 7)
            assert proxy.count("lifecycle") == asked
