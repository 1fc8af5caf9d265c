"""The sink against a real S3 server, directly and through a proxy that fails."""

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from awscrt.checksums import crc64nvme
from pydantic import SecretStr
from store_proxy import Fault, StoreProxy

from rayhaul.errors import (
    ChecksumMismatch,
    RayhaulError,
    SinkBusy,
    SinkError,
    SinkRefused,
    SourceTruncated,
    UploadLost,
)
from rayhaul.lease import PartDone
from rayhaul.metrics import SINK_BYTES, SINK_REQUESTS, SINK_RETRIES_EXHAUSTED, Meter
from rayhaul.policy.retry import RetryBudget
from rayhaul.settings import MIB, S3Settings, TransferSettings
from serve_app.seaweed import Seaweed
from tasks.checksum import combined_crc
from tasks.sink import Sink
from tasks.store_calls import classify
from tasks.store_puts import Put

PART = 5 * MIB
QUICK = TransferSettings(part_attempts_max=3, retry_base_s=0.001, retry_cap_s=0.01)
ABOUT = {"content_type": "text/plain", "filename": "ä.txt"}
METADATA = {"correlation-id": "corr-1234", "job-id": "job_1"}


@pytest.fixture
def key() -> str:
    return f"test/{uuid.uuid4()}/ä b+c&(1)'~%2F.bin"


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
async def sink(store: Seaweed, meter: Meter) -> AsyncIterator[Sink]:
    async with sink_of(store.settings, meter) as sink:
        yield sink


@pytest.fixture
async def proxy(store: Seaweed) -> AsyncIterator[StoreProxy]:
    async with StoreProxy(store.settings) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: StoreProxy, meter: Meter) -> AsyncIterator[Sink]:
    """A sink that reaches the store through the proxy."""
    async with sink_of(proxy.settings, meter) as sink:
        yield sink


@asynccontextmanager
async def sink_of(settings: S3Settings, meter: Meter, stall_timeout_s: float = 10) -> AsyncIterator[Sink]:
    async with Sink(settings, meter=meter, connections_max=4, retries=QUICK, stall_timeout_s=stall_timeout_s) as sink:
        yield sink


async def create(sink: Sink, key: str) -> str:
    return await sink.create(key, **ABOUT, metadata=METADATA)


async def put(sink: Sink, key: str, body: bytes) -> Put:
    return await sink.put(key, len(body), body, **ABOUT, metadata=METADATA, replaces=None)


async def send(sink: Sink, key: str, upload_id: str, bodies: Sequence[bytes]) -> list[PartDone]:
    return [
        done(number, await sink.put_part(key, upload_id, number, len(body), streamed(body)))
        for number, body in enumerate(bodies, 1)
    ]


def done(number: int, put: Put) -> PartDone:
    return PartDone(session_id="s", number=number, size_bytes=put.size_bytes, etag=put.etag, crc64nvme=put.crc64nvme)


async def streamed(body: bytes, pieces: int = 3) -> AsyncIterator[bytes]:
    step = max(1, len(body) // pieces)
    for first in range(0, len(body), step):
        yield body[first : first + step]


async def fetched(sink: Sink, key: str) -> tuple[bytes, dict[str, str]]:
    link = sink.presign_get(key, filename="ü.txt", expires_s=60)
    async with aiohttp.ClientSession() as session, session.get(link) as response:
        assert response.status == 200
        return await response.read(), {name.lower(): value for name, value in response.headers.items()}


def counted(meter: Meter, operation: str, result: str) -> float:
    return meter.snapshot().counters.get((SINK_REQUESTS.name, (operation, result)), 0)


# --- against the store itself ---


@pytest.mark.parametrize("size", [0, 1, 1000, 3 * MIB])
@pytest.mark.parametrize("way", ["buffer", "stream"])
async def test_an_object_in_one_put(sink: Sink, meter: Meter, key: str, size: int, way: str) -> None:
    """A PUT stores the bytes, the type, the name and the ids; what it reports is true."""
    body = os.urandom(size)
    given = body if way == "buffer" else streamed(body)
    answer = await sink.put(key, size, given, **ABOUT, metadata=METADATA, replaces=None)
    assert answer.etag == hashlib.md5(body).hexdigest()
    assert answer.crc64nvme == crc64nvme(body)
    found, headers = await fetched(sink, key)
    assert found == body
    assert headers["content-type"] == "text/plain"
    assert headers["content-disposition"].endswith("filename*=UTF-8''%C3%BC.txt"), "as asked for in the link"
    head = await sink.head(key)
    assert head is not None
    assert (head.size_bytes, head.etag, head.metadata) == (size, answer.etag, METADATA)
    assert meter.snapshot().counters[SINK_BYTES.name, ()] == size


async def test_an_object_of_parts(sink: Sink, key: str) -> None:
    """Parts come together byte by byte; the store keeps the CRC-64/NVME that we computed, and the upload is gone."""
    bodies = [os.urandom(PART), os.urandom(PART), os.urandom(77)]
    upload_id = await create(sink, key)
    parts = await send(sink, key, upload_id, bodies)
    assert [(part.number, part.size_bytes, part.etag) for part in await sink.list_parts(key, upload_id)] == [
        (part.number, part.size_bytes, part.etag) for part in parts
    ]
    assert [upload.upload_id for upload in await sink.list_uploads(key)] == [upload_id]
    crc = combined_crc(parts)
    etag = await sink.complete(key, upload_id, parts, crc64nvme=crc)
    head = await sink.head(key)
    assert head is not None
    assert (head.size_bytes, head.etag, head.crc64nvme) == (2 * PART + 77, etag, crc64nvme(b"".join(bodies)))
    assert head.metadata == METADATA
    found, _ = await fetched(sink, key)
    assert found == b"".join(bodies)
    assert await sink.list_uploads(key) == []


async def test_complete_publishes_our_bytes_or_nothing(sink: Sink, key: str) -> None:
    """A zombie that overwrote a part cannot get its bytes into the object."""
    mine, theirs = os.urandom(PART), os.urandom(PART)
    upload_id = await create(sink, key)
    parts = await send(sink, key, upload_id, [mine])
    await sink.put_part(key, upload_id, 1, PART, theirs)
    try:
        await sink.complete(key, upload_id, parts, crc64nvme=combined_crc(parts))
    except RayhaulError:
        assert await sink.head(key) is None
    else:
        assert (await fetched(sink, key))[0] == mine


async def test_complete_refuses_other_bytes_than_ours(sink: Sink, key: str) -> None:
    """With a CRC-64/NVME of the whole that does not fit, nothing is published."""
    upload_id = await create(sink, key)
    parts = await send(sink, key, upload_id, [os.urandom(100)])
    with pytest.raises(ChecksumMismatch):
        await sink.complete(key, upload_id, parts, crc64nvme=1)
    assert await sink.head(key) is None
    await sink.abort(key, upload_id)


async def test_abort_is_idempotent_and_leaves_nothing(sink: Sink, key: str) -> None:
    """After an abort the upload is gone, a second one does nothing, and a part for it is refused."""
    upload_id = await create(sink, key)
    await send(sink, key, upload_id, [os.urandom(PART)])
    await sink.abort(key, upload_id)
    await sink.abort(key, upload_id)
    assert await sink.list_uploads(key) == []
    with pytest.raises(UploadLost):
        await sink.list_parts(key, upload_id)
    with pytest.raises(UploadLost):
        await sink.put_part(key, upload_id, 1, 3, b"abc")


async def test_an_abort_that_missed_is_repeated(far: Sink, proxy: StoreProxy, key: str) -> None:
    """An upload that is still there after its abort is aborted again; one that stays for ever is said to."""
    upload_id = await create(far, key)
    proxy.fail("abort", Fault(status=204))
    await far.abort(key, upload_id)
    assert proxy.count("abort") == 2
    assert await far.list_uploads(key) == []
    upload_id = await create(far, key)
    proxy.fail("abort", Fault(status=204), times=5)
    with pytest.raises(SinkBusy, match="still there"):
        await far.abort(key, upload_id)
    await far.abort(key, upload_id)


async def test_many_parts_are_listed_over_pages(sink: Sink, key: str) -> None:
    """ListParts goes on after its first thousand."""
    upload_id = await create(sink, key)

    async def send(number: int) -> None:
        # As a lease does: of a thousand requests one may meet a connection that the store is just closing.
        for _ in range(3):
            with suppress(SinkBusy):
                await sink.put_part(key, upload_id, number, 1, b"x")
                return

    async with asyncio.TaskGroup() as group:
        for number in range(1, 1003):
            group.create_task(send(number))
    assert [part.number for part in await sink.list_parts(key, upload_id)] == list(range(1, 1003))
    await sink.abort(key, upload_id)


async def test_head_and_delete(sink: Sink, meter: Meter, key: str) -> None:
    """A missing object is None and no error; deleting twice is fine."""
    assert await sink.head(key) is None
    await put(sink, key, b"x")
    await sink.delete(key)
    await sink.delete(key)
    assert await sink.head(key) is None
    assert counted(meter, "head_object", "absent") == 2


async def test_the_bucket_is_made_once(store: Seaweed, meter: Meter) -> None:
    """`ensure_bucket` creates a bucket that is missing, and leaves one that exists."""
    settings = store.settings.model_copy(update={"bucket": f"fresh-{uuid.uuid4()}"})
    async with sink_of(settings, meter) as sink:
        with pytest.raises(SinkRefused):
            await put(sink, "x", b"x")
        await sink.ensure_bucket()
        await put(sink, "x", b"x")
        await sink.ensure_bucket()
        assert await sink.head("x") is not None


async def test_presigning_needs_no_connection(store: Seaweed, meter: Meter) -> None:
    """A sink that was never entered signs links."""
    sink = Sink(store.settings, meter=meter, connections_max=1)
    assert "X-Amz-Signature=" in sink.presign_get("a/b", filename="b", expires_s=60)


async def test_wrong_credentials_are_refused_at_once(store: Seaweed, meter: Meter, key: str) -> None:
    """Nobody retries a signature that is wrong, for bytes or for calls."""
    settings = store.settings.model_copy(update={"secret_access_key": SecretStr("wrong")})
    async with sink_of(settings, meter) as sink:
        with pytest.raises(SinkRefused, match="SignatureDoesNotMatch"):
            await put(sink, key, b"x")
        with pytest.raises(SinkRefused, match="SignatureDoesNotMatch"):
            await create(sink, key)
    assert counted(meter, "create_multipart_upload", "sink_refused") == 1


async def test_a_store_that_is_down_is_busy(meter: Meter, key: str) -> None:
    """Without a listener, calls are tried as often as set and then given up as retryable; a PUT once."""
    settings = S3Settings(
        endpoint_url="http://127.0.0.1:9", bucket="b", access_key_id="a", secret_access_key=SecretStr("s")
    )
    async with sink_of(settings, meter) as sink:
        with pytest.raises(SinkBusy):
            await sink.head(key)
        with pytest.raises(SinkBusy):
            await put(sink, key, b"x")
    assert counted(meter, "head_object", "sink_busy") == 3
    assert counted(meter, "put_object", "sink_busy") == 1
    assert meter.snapshot().counters[SINK_RETRIES_EXHAUSTED.name, ()] == 1


# --- bodies that fail ---


async def test_what_the_body_raises_is_raised(sink: Sink, key: str) -> None:
    """An error of the source comes through as it is, and no part is left."""
    upload_id = await create(sink, key)

    async def torn() -> AsyncIterator[bytes]:
        yield os.urandom(100_000)
        raise SourceTruncated

    with pytest.raises(SourceTruncated):
        await sink.put_part(key, upload_id, 1, PART, torn())
    assert await sink.list_parts(key, upload_id) == []
    await sink.abort(key, upload_id)


async def test_a_body_is_left_alone_when_its_put_failed(far: Sink, proxy: StoreProxy, key: str) -> None:
    """When the store hangs up while the body waits for its source, nobody iterates the body any more."""
    proxy.fail("upload_part", Fault(cut_after=1000))
    ended = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"x" * 1000
            await asyncio.Event().wait()
        finally:
            # A body takes a moment to be closed.
            for _ in range(100):
                await asyncio.sleep(0)
            ended.set()

    with pytest.raises(SinkBusy):
        await far.put_part(key, "upload", 1, PART, endless())
    assert ended.is_set()


@pytest.mark.parametrize("size", [99, 101])
async def test_a_body_of_another_length_is_our_own_mistake(sink: Sink, key: str, size: int) -> None:
    """Fewer or more bytes than announced are never stored."""
    with pytest.raises(RayhaulError, match="a body of 100 bytes"):
        await sink.put(key, 100, streamed(os.urandom(size)), **ABOUT, metadata=METADATA, replaces=None)
    assert await sink.head(key) is None


async def test_cancelling_a_put_is_quick_and_clean(sink: Sink, key: str) -> None:
    """A cancelled PUT ends at once, while its body waits for the source, and its body is not iterated any more."""
    upload_id = await create(sink, key)
    waiting, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"x" * 1000
            waiting.set()
            await asyncio.Event().wait()
        finally:
            # A body takes a moment to be closed.
            for _ in range(100):
                await asyncio.sleep(0)
            ended.set()

    task = asyncio.create_task(sink.put_part(key, upload_id, 1, PART, endless()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    await sink.abort(key, upload_id)


async def test_silence_of_the_source_is_not_the_stores(store: Seaweed, meter: Meter, key: str) -> None:
    """The stall timeout does not run while the body waits for its source."""
    async with sink_of(store.settings, meter, stall_timeout_s=0.2) as sink:

        async def slow() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(0.5)
            yield b"b"

        answer = await sink.put(key, 2, slow(), **ABOUT, metadata=METADATA, replaces=None)
    assert answer.etag == hashlib.md5(b"ab").hexdigest()


# --- a store that fails ---


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((500, "InternalError"), SinkBusy),
        ((503, "SlowDown"), SinkBusy),
        ((429, "TooManyRequests"), SinkBusy),
        ((400, "IncompleteBody"), SinkBusy),
        ((400, "ClientDisconnect"), SinkBusy),
        ((400, "BadDigest"), SinkBusy),
        ((400, "RequestTimeout"), SinkBusy),
        ((400, ""), SinkBusy),
        ((502, ""), SinkBusy),
        ((400, "EntityTooSmall"), SinkRefused),
        ((401, "Unauthorized"), SinkRefused),
        ((403, "AccessDenied"), SinkRefused),
        ((404, "NoSuchBucket"), SinkRefused),
        ((501, "NotImplemented"), SinkRefused),
        ((307, "TemporaryRedirect"), SinkRefused),
        ((404, "NoSuchUpload"), UploadLost),
        ((400, "InvalidPart"), SinkBusy),
    ],
)
async def test_what_answers_mean(
    far: Sink, proxy: StoreProxy, key: str, answer: tuple[int, str], kind: type[SinkError]
) -> None:
    """The same error means the same for a PUT of ours and for a call of boto3."""
    status, code = answer
    assert type(classify(code, status)) is kind
    fault = Fault(status=status, code=code, headers={"Location": "http://elsewhere.example/"} if status == 307 else {})
    proxy.fail("upload_part", fault)
    with pytest.raises(kind):
        await far.put_part(key, "upload", 1, 3, b"abc")
    proxy.fail("list_parts", fault, times=9)
    with pytest.raises(kind):
        await far.list_parts(key, "upload")
    tries = 3 if kind is SinkBusy and code not in {"InvalidPart", "BadDigest"} else 1
    assert proxy.count("list_parts") == tries


async def test_retry_after_is_passed_on(far: Sink, proxy: StoreProxy, key: str) -> None:
    """What the store asks us to wait is in the failure."""
    proxy.fail("upload_part", Fault(status=503, code="SlowDown", headers={"Retry-After": "7"}))
    with pytest.raises(SinkBusy) as caught:
        await far.put_part(key, "upload", 1, 3, b"abc")
    assert caught.value.failure().retry_after_s == 7


async def test_retry_after_of_a_call_is_waited_for(far: Sink, proxy: StoreProxy, key: str) -> None:
    """Where it is short; a long one is told at once, for whoever waits holds a slot."""
    began_s = time.monotonic()
    proxy.fail("create", Fault(status=503, code="SlowDown", headers={"Retry-After": "1"}))
    await far.abort(key, await create(far, key))
    assert time.monotonic() - began_s >= 1
    proxy.fail("create", Fault(status=503, code="SlowDown", headers={"Retry-After": "3000"}))
    asked = proxy.count("create")
    async with asyncio.timeout(20):
        with pytest.raises(SinkBusy) as caught:
            await create(far, key)
    assert caught.value.failure().retry_after_s == 3000
    assert proxy.count("create") == asked + 1


async def test_calls_are_tried_again(far: Sink, proxy: StoreProxy, meter: Meter, key: str) -> None:
    """A busy store is asked again; each try is counted."""
    proxy.fail("create", Fault(status=503, code="SlowDown"))
    proxy.fail("create", Fault(cut_after=0))
    upload_id = await create(far, key)
    assert counted(meter, "create_multipart_upload", "sink_busy") == 2
    assert counted(meter, "create_multipart_upload", "ok") == 1
    await far.abort(key, upload_id)


@pytest.mark.parametrize("hide", [(), ("x-amz-checksum-crc64nvme",)])
async def test_a_part_changed_on_its_way_is_noticed(
    far: Sink, proxy: StoreProxy, key: str, hide: tuple[str, ...]
) -> None:
    """A flipped bit is found by the store's CRC-64/NVME, and by the MD5 where it tells none."""
    upload_id = await create(far, key)
    proxy.fail("upload_part", Fault(hide_headers=hide), part=1)
    await far.put_part(key, upload_id, 1, PART, os.urandom(PART))
    proxy.fail("upload_part", Fault(flip_bit=True, hide_headers=hide), part=2)
    with pytest.raises(SinkBusy, match="other bytes"):
        await far.put_part(key, upload_id, 2, PART, streamed(os.urandom(PART)))
    await far.abort(key, upload_id)


async def test_a_store_that_stops_telling_checksums_is_not_believed(far: Sink, proxy: StoreProxy, key: str) -> None:
    """A part that can not be verified is sent once more, with its MD5 at hand."""
    upload_id = await create(far, key)
    await far.put_part(key, upload_id, 1, 3, b"abc")
    proxy.fail("upload_part", Fault(hide_headers=("x-amz-checksum-crc64nvme",)), times=2)
    with pytest.raises(SinkBusy, match="does not tell"):
        await far.put_part(key, upload_id, 2, 3, b"abc")
    assert (await far.put_part(key, upload_id, 2, 3, b"abc")).etag == hashlib.md5(b"abc").hexdigest()
    await far.abort(key, upload_id)


async def test_an_object_changed_on_its_way_is_never_published(far: Sink, proxy: StoreProxy, key: str) -> None:
    """A flipped bit in a single PUT is refused by the store itself."""
    proxy.fail("put_object", Fault(flip_bit=True))
    with pytest.raises(SinkBusy, match="BadDigest"):
        await put(far, key, os.urandom(1000))
    assert await far.head(key) is None


async def test_a_lost_answer_to_complete_is_made_up_for(far: Sink, proxy: StoreProxy, key: str) -> None:
    """When Complete worked but its answer was lost, the object is adopted; nothing is sent again."""
    upload_id = await create(far, key)
    parts = await send(far, key, upload_id, [os.urandom(PART), b"end"])
    proxy.fail("complete", Fault(drop_answer=True))
    # SeaweedFS answers a second Complete like the first; others, and R2, say that the upload is gone.
    proxy.fail("complete", Fault(status=404, code="NoSuchUpload"))
    etag = await far.complete(key, upload_id, parts, crc64nvme=combined_crc(parts))
    head = await far.head(key)
    assert head is not None
    assert (head.etag, head.size_bytes) == (etag, PART + 3)
    assert proxy.count("upload_part") == 2


async def test_a_lost_upload_is_not_mistaken_for_a_complete_one(far: Sink, proxy: StoreProxy, key: str) -> None:
    """An upload that is gone, with nothing or something else under its key, is UploadLost."""
    upload_id = await create(far, key)
    parts = await send(far, key, upload_id, [b"abc"])
    await far.abort(key, upload_id)
    with pytest.raises(UploadLost):
        await far.complete(key, upload_id, parts)
    await put(far, key, b"abd")
    with pytest.raises(UploadLost):
        await far.complete(key, upload_id, parts)


async def test_an_error_inside_a_200_is_an_error(far: Sink, proxy: StoreProxy, meter: Meter, key: str) -> None:
    """Complete may answer 200 and then say that it failed (S3); it is asked again."""
    upload_id = await create(far, key)
    parts = await send(far, key, upload_id, [b"abc"])
    proxy.fail("complete", Fault(status=200, code="InternalError"))
    await far.complete(key, upload_id, parts)
    assert counted(meter, "complete_multipart_upload", "sink_busy") == 1
    assert await far.head(key) is not None


async def test_a_store_without_crc64nvme_is_served_without(store: Seaweed, meter: Meter, key: str) -> None:
    """A store that refuses the checksum parameters gets none; its parts are verified by MD5."""
    bodies = [os.urandom(PART), b"end"]
    async with StoreProxy(store.settings, strict=True) as proxy, sink_of(proxy.settings, meter) as sink:
        upload_id = await create(sink, key)
        proxy.fail("upload_part", Fault(flip_bit=True, hide_headers=("x-amz-checksum-crc64nvme",)))
        with pytest.raises(SinkBusy, match="other bytes"):
            await sink.put_part(key, upload_id, 1, PART, streamed(bodies[0]))
        parts = await send(sink, key, upload_id, bodies)
        await sink.complete(key, upload_id, parts, crc64nvme=combined_crc(parts))
        assert proxy.count("create") == 2, "with the checksum, then without"
        assert (await fetched(sink, key))[0] == b"".join(bodies)
    async with StoreProxy(store.settings, strict=True) as proxy, sink_of(proxy.settings, meter) as sink:
        # Another process goes on with an upload: it learns at Complete.
        upload_id = await create(sink, key)
        parts = await send(sink, key, upload_id, bodies)
        sink._takes_crc = True
        await sink.complete(key, upload_id, parts, crc64nvme=combined_crc(parts))
        assert proxy.count("complete") == 2


async def test_a_store_that_stalls_is_left(store: Seaweed, meter: Meter, key: str) -> None:
    """A store that takes no bytes, or does not answer, is busy after the stall timeout."""
    async with StoreProxy(store.settings) as proxy, sink_of(proxy.settings, meter, stall_timeout_s=0.2) as sink:
        for size in (10, 64 * MIB):
            proxy.fail("put_object", Fault(hang=True))
            with pytest.raises(SinkBusy, match="stalled"):
                await sink.put(key, size, streamed(bytes(size), pieces=100), **ABOUT, metadata=METADATA, replaces=None)


async def test_a_connection_cut_in_a_body_is_busy(far: Sink, proxy: StoreProxy, key: str) -> None:
    """A reset while bytes are being sent is the store's, and retryable; the sink works on."""
    upload_id = await create(far, key)
    proxy.fail("upload_part", Fault(cut_after=100_000))
    with pytest.raises(SinkBusy):
        await far.put_part(key, upload_id, 1, PART, streamed(os.urandom(PART), pieces=50))
    await far.put_part(key, upload_id, 1, 3, b"abc")
    await far.abort(key, upload_id)


@pytest.mark.parametrize("of_parts", [True, False])
async def test_what_succeeds_earns_second_tries(sink: Sink, key: str, *, of_parts: bool) -> None:
    """A tenth of one each, of objects sent at once as of parts: a store that does well makes nobody wait."""
    sink.calls.budget = RetryBudget(tokens_max=2, refill_per_s=0.001)
    upload_id = await sink.create(key, **ABOUT, metadata=METADATA)
    for _ in range(2):
        assert sink.budget.take(0.0) == 0.0
    for number in range(1, 12):
        if of_parts:
            await sink.put_part(key, upload_id, number, 3, b"abc")
        else:
            await sink.put(f"{key}{number}", 3, b"abc", **ABOUT, metadata=METADATA, replaces=None)
    assert sink.budget.take(0.0) == 0.0
    assert sink.budget.take(0.0) > 0.0
    await sink.abort(key, upload_id)
