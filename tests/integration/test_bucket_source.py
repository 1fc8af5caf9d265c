"""Objects of the cluster's own store as sources: copied by a real store, or read and sent, and what goes wrong."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from inprocess import quick_settings, running_service
from lease_bench import PART, Bench, Control, Side, running
from origin import content_bytes, content_sha256
from store_proxy import Fault

from rayhaul import AsyncClient
from rayhaul.client.errors import BadRequest, JobFailed
from rayhaul.errors import (
    ChecksumMismatch,
    EgressDenied,
    RayhaulError,
    SourceBusy,
    SourceChanged,
    SourceNotFound,
    SourceRefused,
)
from rayhaul.origins import HostGrant
from rayhaul.settings import MIB, SourceSettings, SourcesSettings
from serve_app.seaweed import Seaweed
from tasks.bucket_rules import BucketRules
from tasks.bucket_source import BucketTransport
from tasks.gates import Gates
from tasks.sink import Sink
from tasks.transports import Transports

pytestmark = pytest.mark.asyncio(loop_scope="module")

BUCKET = "media"
SIZE = 3 * PART + 7


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        await ensure(side.sink)
        yield side


@pytest_asyncio.fixture(loop_scope="module")
async def bench(side: Side) -> AsyncIterator[Bench]:
    bench = Bench(side)
    rules = BucketRules(SourcesSettings(s3_buckets=(f"{BUCKET}/open",)), side.proxy.settings)
    bucket = BucketTransport(side.sink, rules, SourceSettings())
    bench.transports = Transports(side.client, bucket=bucket)
    yield bench
    await bench.transports.aclose()


async def ensure(sink: Sink) -> None:
    client = sink.calls.client
    names = {bucket["Name"] for bucket in (await asyncio.to_thread(client.list_buckets))["Buckets"]}
    if BUCKET not in names:
        await asyncio.to_thread(partial(client.create_bucket, Bucket=BUCKET))


async def put(sink: Sink, key: str, *, size: int = SIZE, seed: int = 7) -> str:
    """Put an object into the other bucket and return its URL."""
    data = content_bytes(seed, 0, size)
    await asyncio.to_thread(partial(sink.calls.client.put_object, Bucket=BUCKET, Key=key, Body=data))
    return f"s3://{BUCKET}/{key}"


def new_key() -> str:
    return f"open/{uuid.uuid4()}/file.bin"


async def test_the_store_copies_by_itself(bench: Bench) -> None:
    """The object is the source byte by byte, and no byte of it passed through us."""
    order = await bench.order_of(await put(bench.sink, new_key()))
    bench.proxy.seen.clear()
    control = Control()
    result = await bench.run(order, control)
    assert bench.proxy.count("copy_part") == 4
    assert bench.proxy.count("upload_part") == 0
    assert sum(seen.size_bytes for seen in bench.proxy.seen if seen.operation != "complete") == 0
    assert control.bytes_done == SIZE
    await bench.check(order, result, SIZE)


async def test_a_small_object_is_read_and_put(bench: Bench) -> None:
    """What goes up in one PUT is read: there is nothing to save."""
    order = await bench.order_of(await put(bench.sink, new_key(), size=1000))
    assert (order.pin.filename, order.pin.size_bytes, order.pin.has_version) == ("file.bin", 1000, True)
    await bench.check(order, await bench.run(order), 1000)


async def test_with_a_checksum_the_bytes_are_seen(bench: Bench) -> None:
    """A checksum is compared before anything is published, so the store's own copy would come too soon."""
    order = await bench.order_of(await put(bench.sink, new_key()))
    good = replace(order, checksum=f"sha256:{content_sha256(7, SIZE)}")
    await bench.check(good, await bench.run(good), SIZE)
    assert bench.proxy.count("copy_part") == 0
    await bench.sink.delete(order.key)
    control = Control()
    await bench.fails(replace(order, checksum=f"sha256:{'0' * 64}"), ChecksumMismatch, control)
    await bench.abort(control)


@pytest.mark.parametrize("fault", [Fault(status=501, code="NotImplemented"), Fault(status=403, code="AccessDenied")])
async def test_a_store_that_makes_no_copies(bench: Bench, fault: Fault) -> None:
    """Where the store copies nothing, or not for us, the bytes are read and sent."""
    order = await bench.order_of(await put(bench.sink, new_key()))
    bench.proxy.fail("copy_part", fault, times=99)
    await bench.check(order, await bench.run(replace(order, connections=1)), SIZE)
    assert (bench.proxy.count("copy_part"), bench.proxy.count("upload_part")) == (1, 4)


async def test_a_copy_that_is_cut_is_made_again(bench: Bench) -> None:
    """Lost answers and a busy store cost tries of one part, and nothing else."""
    order = await bench.order_of(await put(bench.sink, new_key()))
    bench.proxy.fail("copy_part", Fault(drop_answer=True), part=2)
    bench.proxy.fail("copy_part", Fault(status=503, code="SlowDown"), part=3)
    control = Control()
    await bench.check(order, await bench.run(order, control), SIZE)
    assert control.bytes_done == SIZE
    assert bench.proxy.count("copy_part") == 6


async def test_copies_are_gone_on_with(bench: Bench) -> None:
    """The next run of the job keeps the parts that were copied."""
    order = await bench.order_of(await put(bench.sink, new_key()))
    bench.proxy.fail("copy_part", Fault(status=503, code="SlowDown"), times=99, part=4)
    control = Control()
    with pytest.raises(RayhaulError):
        await bench.run(replace(order, connections=1), control)
    bench.proxy.reset()
    order = replace(order, session=control.session, parts_done=tuple(control.parts), epoch=2)
    await bench.check(order, await bench.run(order), SIZE)
    assert bench.proxy.count("copy_part") == 1


@pytest.mark.parametrize("is_conditional", [True, False])
async def test_an_object_that_changes_between_parts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, is_conditional: bool
) -> None:
    """A part of another version ends the session, also at a store that does not know the condition."""
    key = new_key()
    order = replace(await bench.order_of(await put(bench.sink, key)), connections=1)
    client = bench.sink.calls.client
    copy = client.upload_part_copy

    def unconditional(**more: Any) -> Any:
        if not is_conditional:
            del more["CopySourceIfMatch"]
        if more["PartNumber"] == 3:
            client.put_object(Bucket=BUCKET, Key=key, Body=content_bytes(8, 0, SIZE))
        return copy(**more)

    monkeypatch.setattr(client, "upload_part_copy", unconditional)
    control = Control()
    await bench.fails(order, SourceChanged, control)
    assert [part.number for part in control.parts] == [1, 2]
    await bench.abort(control)


async def test_an_object_that_goes_away(bench: Bench) -> None:
    """An object that is deleted meanwhile is no longer the one that was pinned."""
    key = new_key()
    order = await bench.order_of(await put(bench.sink, key))
    await asyncio.to_thread(partial(bench.sink.calls.client.delete_object, Bucket=BUCKET, Key=key))
    control = Control()
    await bench.fails(order, SourceChanged, control)
    await bench.abort(control)


@pytest.mark.parametrize("lie", [-1, 1])
async def test_a_size_that_is_a_lie(bench: Bench, lie: int) -> None:
    """A pinned size that is not the object's publishes nothing."""
    order = await bench.order_of(await put(bench.sink, new_key()))
    order = replace(order, pin=replace(order.pin, size_bytes=SIZE + lie), checksum=f"sha256:{content_sha256(7, SIZE)}")
    control = Control()
    await bench.fails(order, SourceChanged, control)
    await bench.abort(control)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (None, SourceNotFound),
        (Fault(status=403), SourceRefused),
        (Fault(status=503), SourceBusy),
    ],
)
async def test_a_store_that_shows_no_object(bench: Bench, fault: Fault | None, kind: type[RayhaulError]) -> None:
    """What the store says of a source is the source's fault: the bucket that we write to is not parked for it."""
    if fault is not None:
        bench.proxy.fail("head", fault, times=9)
    with pytest.raises(kind) as caught:
        await bench.order_of(f"s3://{BUCKET}/{new_key()}")
    assert type(caught.value) is kind


async def test_a_store_that_is_busy(bench: Bench) -> None:
    """It is the bucket that is slowed: nobody counts connections of the store's address."""
    order = await bench.order_of(await put(bench.sink, new_key(), size=1000))
    bench.gates = Gates(asyncio.get_running_loop().time)
    bench.proxy.fail("other", Fault(status=503, code="SlowDown"))
    granted = HostGrant(host=f"s3:{BUCKET}", connections=1, version=1)
    await bench.check(order, await bench.run(replace(order, grant=granted)), 1000)
    told = {use.host: use.refused_ago_s for use in bench.gates.uses(())}
    assert told.keys() == {granted.host}
    assert told[granted.host] is not None


async def test_rules_hold_for_each_open(bench: Bench) -> None:
    """An order for an object that is not allowed (any more) reads nothing, whoever gave it."""
    order = await bench.order_of(await put(bench.sink, new_key()))
    bench.proxy.seen.clear()
    denied = replace(order, url=f"s3://{BUCKET}/closed/file.bin")
    with pytest.raises(EgressDenied):
        await bench.run(denied)
    with pytest.raises(EgressDenied):
        await bench.run(replace(denied, checksum=f"sha256:{'0' * 64}"))
    with pytest.raises(EgressDenied):
        await bench.order_of(denied.url)
    assert [seen for seen in bench.proxy.seen if "closed" in seen.key] == []


async def test_a_job_from_a_bucket(store: Seaweed, side: Side, tmp_path: Path) -> None:
    """Through the API: what is allowed is copied; what others downloaded, or nobody allowed, is refused at once."""
    key = new_key()
    await put(side.sink, key, size=12 * MIB)
    settings = quick_settings(store.settings, sources=SourcesSettings(s3_buckets=(BUCKET, store.settings.bucket or "")))
    async with running_service(tmp_path, settings, agents=1) as service:
        async with AsyncClient(service.url, service.alice) as alice, AsyncClient(service.url, service.bob) as bob:
            job = await alice.submit(f"s3://{BUCKET}/{key}")
            done = await alice.wait(job.id, timeout_s=60)
            assert done.result is not None
            assert done.result.size_bytes == 12 * MIB
            for stolen in (f"s3://{done.result.bucket}/{done.result.key}", f"s3://elsewhere/{key}"):
                with pytest.raises(BadRequest) as caught:
                    await bob.submit(stolen)
                assert caught.value.code == "egress_denied"
            missing = await bob.submit(f"s3://{BUCKET}/open/nothing.bin")
            with pytest.raises(JobFailed) as failed:
                await bob.wait(missing.id, timeout_s=60)
            assert failed.value.code == "source_not_found"
