"""One lease from a real origin into a real bucket: every way, every fault, and what is left behind."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from awscrt.checksums import crc32c, crc64nvme
from fetching import ask
from lease_bench import MEMORY, NOTHING, PART, SETTINGS, WAYS, Bench, Control, Side, running
from origin import content_bytes, content_sha256, content_windows
from seams import Seam
from store_proxy import Fault

from rayhaul.errors import (
    ChecksumMismatch,
    LeaseLost,
    SinkBusy,
    SinkError,
    SourceChanged,
    SourceFailed,
    SourceNotFound,
    SourceTooLarge,
    SourceTruncated,
    UploadLost,
)
from rayhaul.job import JobResult, JobSpec
from rayhaul.lease import AbortOrder, TransferOrder
from rayhaul.metrics import SINK_REQUESTS
from rayhaul.policy.planning import expected_checksum
from rayhaul.settings import MIB
from serve_app.seaweed import Seaweed
from tasks.budget import ByteBudget, Row
from tasks.checksum import crc32c_text, crc_text
from tasks.lanes import Lanes
from tasks.marks import undo
from tasks.pace import Pace
from tasks.rooms import Buffered
from tasks.stripe import Stripe
from tasks.transfer import transfer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lax_side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def strict_side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings, strict=True) as side:
        yield side


@pytest.fixture
def bench(lax_side: Side) -> Bench:
    return Bench(lax_side)


@pytest.fixture
def strict(strict_side: Side) -> Bench:
    """The same with a bucket as strict as R2."""
    return Bench(strict_side)


# --- every way, every size ---


@pytest.mark.parametrize("size", [0, 1, 1024, MIB, MIB + 1, PART - 1, PART, PART + 1, 3 * PART, 40 * MIB])
@pytest.mark.parametrize("way", list(WAYS))
async def test_the_object_is_the_file(bench: Bench, way: str, size: int) -> None:
    """Whatever the size and the origin's abilities, the object is the file byte by byte, and progress adds up."""
    order = await bench.order(size, pinned=WAYS[way])
    control = Control()
    result = await bench.run(order, control)
    await bench.check(order, result, size)
    assert control.bytes_done == size
    assert control.steps[-1] == "commit"
    single = size <= (PART if way == "unknown length" else MIB) or (way == "one stream" and size <= PART)
    assert result.parts_count == (1 if single else -(-size // PART))
    assert bench.proxy.count("put_object") == single
    # Streamed ranges are never held; otherwise at most two parts.
    expected_peak = 0 if way == "ranges" and not single else 2 * PART
    assert bench.memory.peak_bytes <= expected_peak


async def test_ranges_run_in_parallel_within_their_limit(bench: Bench) -> None:
    """No more connections than the order allows, each part asked for once, the upload known before the first part."""
    order = replace(await bench.order(40 * MIB), connections=3)
    control = Control()
    await bench.run(order, control)
    assert bench.origin.connections_open_max == 3
    assert bench.ranges() == list(range(1, 9))
    assert control.steps == ["opened", *["part"] * 8, "commit"]
    assert control.session is not None
    assert (control.session.part_bytes, control.session.size_bytes) == (PART, 40 * MIB)


@pytest.mark.parametrize("way", list(WAYS))
async def test_a_bucket_as_strict_as_r2(strict: Bench, way: str) -> None:
    """Parts are uniform, and a store that refuses checksum parameters is served without."""
    order = await strict.order(3 * PART + 1, pinned=WAYS[way])
    await strict.check(order, await strict.run(order), 3 * PART + 1)


async def test_without_a_validator_ranges_are_not_combined(bench: Bench) -> None:
    """A source that shows no version is read in one stream; with a checksum to tell, in ranges."""
    pinned: dict[str, object] = {"etag": "weak", "last_modified": None}
    order = await bench.order(2 * PART, pinned=pinned)
    await bench.check(order, await bench.run(order), 2 * PART)
    assert bench.ranges() == []
    order = replace(await bench.order(2 * PART, pinned=pinned), checksum=f"sha256:{content_sha256(7, 2 * PART)}")
    await bench.check(order, await bench.run(order), 2 * PART)
    assert bench.ranges() == [1, 2]


@pytest.mark.parametrize("lie", ["missing", "shifted", "wrong_unit", "multipart"])
async def test_ranges_that_are_not_served_as_promised(bench: Bench, lie: str) -> None:
    """Where a 206 is not the range asked for, one stream takes over within the same upload."""
    order = await bench.order(2 * PART + 9, faults={"content_range": lie})
    control = Control()
    await bench.check(order, await bench.run(order, control), 2 * PART + 9)
    assert control.bytes_done == 2 * PART + 9
    assert control.steps.count("opened") == 1


async def test_a_checksum_begins_anew_with_the_one_stream(bench: Bench) -> None:
    """Ranges that end in the middle of a hashed file: the hash starts over with the stream."""
    size = 5 * PART
    order = replace(await bench.order(size), checksum=f"sha256:{content_sha256(7, size)}")
    control = Control(on_part=lambda: bench.origin.add("file.bin", size=size, seed=7, ranges=False))
    await bench.check(order, await bench.run(order, control), size)
    assert control.bytes_done == size
    assert 1 in bench.ranges()


async def test_ranges_refused_for_a_small_file(bench: Bench) -> None:
    """The upload that was opened for ranges is used even where one part holds the file."""
    order = await bench.order(2 * MIB, faults={"content_range": "missing"})
    await bench.check(order, await bench.run(order), 2 * MIB)
    assert bench.proxy.count("put_object") == 0


async def test_bandwidth_is_limited(bench: Bench) -> None:
    """Two megabytes at four a second take half a second, less the burst, over however many connections."""
    order = await bench.order(2 * MIB)
    bench.paces = {"job": Pace(100 * MIB), "agent": Pace(4 * MIB)}
    began = time.monotonic()
    await bench.check(order, await bench.run(order), 2 * MIB)
    assert time.monotonic() - began >= 0.25


async def beside_others(bench: Bench, order: TransferOrder) -> JobResult | None:
    """Carry out an order while others have memory."""
    return await transfer(
        order,
        client=bench.client,
        sink=bench.sink,
        control=Control(),
        settings=SETTINGS,
        memory=bench.memory,
        clock=time.time,
        rng=Random(1),
    )


# --- the source fails ---


@pytest.mark.parametrize(
    ("faults", "tries"),
    [
        ({"truncate_after": MIB, "faults_max": 1}, 2),
        ({"truncate_after": MIB, "faults_max": 1, "truncate_by": "rst"}, 2),
        ({"truncate_after": MIB, "faults_max": 2}, 3),
        ({"statuses": (503,), "retry_after": "0"}, 2),
        ({"statuses": (500,)}, 2),
        ({"statuses": (429, 502)}, 3),
    ],
)
async def test_only_the_part_that_failed_is_fetched_again(
    bench: Bench, faults: Mapping[str, object], tries: int
) -> None:
    """A fault of the source costs its part, and no other; progress does not count bytes twice."""
    order = replace(await bench.order(4 * PART, faults=faults), connections=1)
    control = Control()
    await bench.check(order, await bench.run(order, control), 4 * PART)
    assert bench.ranges() == [*[1] * tries, 2, 3, 4]
    # What fails again fails before it is sent: at most one upload was in vain.
    assert bench.proxy.count("upload_part") <= 5
    assert control.bytes_done == 4 * PART
    assert bench.memory.peak_bytes <= PART


async def test_a_store_that_fails_is_not_the_source_s_trouble(bench: Bench) -> None:
    """A part that the store refuses twice is read a second time, into memory, and not a third time."""
    order = replace(await bench.order(3 * PART), connections=1)
    bench.proxy.fail("upload_part", Fault(status=503, code="SlowDown"), times=2, part=2)
    control = Control()
    await bench.check(order, await bench.run(order, control), 3 * PART)
    assert bench.ranges() == [1, 2, 2, 3]
    assert control.bytes_done == 3 * PART


async def test_slow_streams_do_not_hold_up_a_small_file(bench: Bench) -> None:
    """Two that drip have claims to all the memory, and hold little of it: a small file passes them."""
    bench.memory = ByteBudget(2 * PART)
    base = await bench.order(4 * PART, pinned=WAYS["one stream"], faults={"rate_bytes_per_s": 50_000})
    drips = [replace(base, key=f"{bench.prefix}/{number}") for number in range(2)]
    dripping = [asyncio.create_task(beside_others(bench, order)) for order in drips]
    try:
        while bench.memory.used_bytes < 2 * MIB:
            await asyncio.sleep(0.05)
        bench.origin.add("small.bin", size=1000, seed=9)
        url = f"{bench.origin.base_url}/small.bin"
        order = replace(bench.order_for(url, await ask(bench.client, url)), key=f"{bench.prefix}/small.bin")
        async with asyncio.timeout(10):
            result = await beside_others(bench, order)
        assert result is not None
        assert result.size_bytes == 1000
    finally:
        for task in dripping:
            task.cancel()
        await asyncio.gather(*dripping, return_exceptions=True)


async def test_a_source_that_keeps_failing_ends_the_lease(bench: Bench) -> None:
    """After the last try the error is the source's; the parts that were done are known, and the upload stays open."""
    order = replace(await bench.order(3 * PART, faults={"truncate_after": PART - 1}), connections=1)
    control = Control()
    await bench.fails(order, SourceTruncated, control)
    # The upload of the first try waited for a second request.
    assert bench.ranges() == [1, 1, 1, 1]
    assert control.bytes_done == 0
    assert len(await bench.sink.list_uploads(bench.prefix)) == 1
    await bench.abort(control)


async def test_what_cannot_be_cured_is_not_tried_again(bench: Bench) -> None:
    """A file that is gone is asked for once."""
    control = Control()
    order = replace(await bench.order(3 * PART, faults={"status": 404}), connections=1)
    await bench.fails(order, SourceNotFound, control)
    assert bench.ranges() == [1]
    await bench.abort(control)


@pytest.mark.parametrize("faults", [{"changes_after": 2}, {"changes_after": 2, "size_changed": 9 * PART}])
async def test_a_file_that_changes_is_not_published(bench: Bench, faults: dict[str, object]) -> None:
    """A new ETag between two parts ends the lease at once; no mix of versions is published."""
    order = replace(await bench.order(4 * PART, faults=faults), connections=1)
    control = Control()
    await bench.fails(order, SourceChanged, control)
    assert bench.ranges() == [1, 2, 3]
    await bench.abort(control)


@pytest.mark.parametrize("way", ["one stream", "unknown length"])
async def test_a_stream_that_breaks_ends_the_attempt(bench: Bench, way: str) -> None:
    """A stream cannot be resumed: broken in the middle, nothing is published. A refusal at its start is tried again."""
    control = Control()
    order = await bench.order(3 * PART, pinned=WAYS[way], faults={"truncate_after": 2 * PART})
    await bench.fails(order, SourceTruncated, control)
    assert control.bytes_done == 0
    await bench.abort(control)
    order = await bench.order(3 * PART, pinned=WAYS[way], faults={"statuses": (503, 503)})
    await bench.check(order, await bench.run(order), 3 * PART)


@pytest.mark.parametrize("way", list(WAYS))
async def test_a_limit_of_size_holds(bench: Bench, way: str) -> None:
    """A file over the limit is refused before or while it is read."""
    order = replace(await bench.order(3 * PART, pinned=WAYS[way]), size_bytes_max=2 * PART)
    control = Control()
    await bench.fails(order, SourceTooLarge, control)
    if control.session is not None:
        await bench.abort(control)
    order = replace(await bench.order(2 * PART, pinned=WAYS[way]), size_bytes_max=2 * PART)
    await bench.check(order, await bench.run(order), 2 * PART)


# --- the sink fails ---


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, code="InternalError"),
        Fault(status=503, code="SlowDown"),
        Fault(status=400, code="IncompleteBody"),
        Fault(cut_after=MIB),
        Fault(drop_answer=True),
        Fault(flip_bit=True),
    ],
    ids=["500", "503", "400", "cut", "lost answer", "flipped bit"],
)
@pytest.mark.parametrize("way", ["ranges", "one stream", "checksum"])
async def test_a_part_the_store_failed_is_sent_again(bench: Bench, way: str, fault: Fault) -> None:
    """A fault of the store costs one part more, on every way."""
    bench.proxy.fail("upload_part", fault, part=2)
    order = await bench.order(3 * PART, pinned=WAYS.get(way, NOTHING))
    if way == "checksum":
        order = replace(order, checksum=f"sha256:{content_sha256(7, 3 * PART)}")
    control = Control()
    await bench.check(order, await bench.run(order, control), 3 * PART)
    assert [bench.proxy.count("upload_part", part) for part in (1, 2, 3)] == [1, 2, 1]
    assert control.bytes_done == 3 * PART
    assert bench.ranges() == ([] if way == "one stream" else [1, 2, 2, 3] if way == "ranges" else [1, 2, 3])


async def test_a_single_put_the_store_failed_is_sent_again(bench: Bench) -> None:
    """A small file is fetched once and sent as often as it takes; the commit is asked for once."""
    bench.proxy.fail("put_object", Fault(flip_bit=True))
    bench.proxy.fail("put_object", Fault(drop_answer=True))
    order = await bench.order(1000)
    control = Control()
    await bench.check(order, await bench.run(order, control), 1000)
    assert bench.proxy.count("put_object") == 3
    assert len(bench.origin.requests) == 1
    assert control.steps == ["commit"]


async def test_a_store_that_keeps_failing_ends_the_lease(bench: Bench) -> None:
    """After the last try the lease ends as the sink's fault, and that is counted."""
    bench.proxy.fail("upload_part", Fault(status=503, code="SlowDown"), times=99, part=2)
    order = replace(await bench.order(3 * PART), connections=1)
    control, before = Control(), bench.exhausted()
    await bench.fails(order, SinkBusy, control)
    assert bench.proxy.count("upload_part", part=2) == 3
    assert [part.number for part in control.parts] == [1]
    assert bench.exhausted() == before + 1
    await bench.abort(control)


async def test_a_lost_answer_to_complete_costs_nothing(bench: Bench) -> None:
    """The object that Complete made is adopted."""
    bench.proxy.fail("complete", Fault(drop_answer=True))
    bench.proxy.fail("complete", Fault(status=404, code="NoSuchUpload"))
    order = await bench.order(3 * PART)
    await bench.check(order, await bench.run(order), 3 * PART)
    assert bench.proxy.count("upload_part") == 3


@pytest.mark.parametrize("hidden", ["etag", "content-length"])
async def test_an_object_that_is_not_what_was_sent_is_noticed(bench: Bench, hidden: str) -> None:
    """After Complete the store must show the size and the ETag of what was sent; else the job is not done."""
    bench.proxy.fail("head", Fault(hide_headers=(hidden,)))
    with pytest.raises(SinkError, match="The object has"):
        await bench.run(await bench.order(2 * PART))


async def test_an_object_that_shows_another_crc_is_noticed(bench: Bench) -> None:
    """A store that shows another CRC-64/NVME of the object than that of the bytes sent has not what was sent."""
    bench.proxy.fail("head", Fault(replace_headers={"x-amz-checksum-crc64nvme": crc_text(1)}))
    with pytest.raises(ChecksumMismatch, match="The bucket shows another CRC"):
        await bench.run(await bench.order(2 * PART))
    assert bench.proxy.count("complete") == 1


async def test_an_upload_that_vanishes_ends_the_lease(bench: Bench) -> None:
    """A part for an upload that is gone is not tried again: a new session is needed."""
    bench.proxy.fail("upload_part", Fault(status=404, code="NoSuchUpload"))
    order = replace(await bench.order(3 * PART), connections=1)
    control = Control()
    await bench.fails(order, UploadLost, control)
    assert bench.proxy.count("upload_part") == 1
    await bench.abort(control)


# --- going on with an earlier attempt ---


async def interrupted(bench: Bench, *, lose_at: str, **more: object) -> tuple[TransferOrder, Control]:
    """Run an order until its lease is lost; return the order that goes on with it, and what was reported."""
    order = replace(await bench.order(4 * PART), connections=1, **more)  # type: ignore[arg-type]
    control = Control(lose_at=lose_at)
    await bench.fails(order, LeaseLost, control)
    bench.origin.requests.clear()
    bench.proxy.seen.clear()
    return replace(order, session=control.session, parts_done=tuple(control.parts)), control


async def test_a_resumed_lease_moves_only_what_is_missing(bench: Bench) -> None:
    """Parts on which ledger and store agree are kept."""
    order, _ = await interrupted(bench, lose_at="after 2 parts")
    control = Control(bytes_done=2 * PART)
    await bench.check(order, await bench.run(order, control), 4 * PART)
    assert bench.ranges() == [3, 4]
    assert control.bytes_done == 4 * PART
    assert control.steps == ["part", "part", "commit"]


async def test_a_resumed_lease_trusts_neither_ledger_nor_store_alone(bench: Bench) -> None:
    """A part is sent again when a zombie overwrote it, when the ledger does not know it, or has another ETag."""
    order, first = await interrupted(bench, lose_at="commit")
    assert first.session is not None
    await bench.sink.put_part(order.key, first.session.upload_id, 1, PART, bytes(PART))
    known = sorted(first.parts, key=lambda part: part.number)
    parts_done = (known[0], replace(known[1], etag="0" * 32), known[3])
    control = Control(bytes_done=3 * PART)
    order = replace(order, parts_done=parts_done)
    await bench.check(order, await bench.run(order, control), 4 * PART)
    # SeaweedFS keeps both versions of part 1 and shows both; a store that shows the newer one alone gets it again.
    assert bench.ranges() in ([2, 3], [1, 2, 3])
    assert control.bytes_done == 4 * PART


async def test_a_resumed_lease_with_all_parts_only_commits(bench: Bench) -> None:
    """When nothing is missing, the source is not asked at all."""
    order, _ = await interrupted(bench, lose_at="commit")
    await bench.check(order, await bench.run(order), 4 * PART)
    assert bench.origin.requests == []


async def test_a_complete_whose_lease_was_lost_is_adopted(bench: Bench) -> None:
    """The upload is gone because an earlier lease completed it: the next one finds the object and takes it."""
    order, _ = await interrupted(bench, lose_at="commit")
    await bench.run(order)
    bench.proxy.fail("list_parts", Fault(status=404, code="NoSuchUpload"))
    bench.proxy.fail("complete", Fault(status=404, code="NoSuchUpload"))
    await bench.check(order, await bench.run(order), 4 * PART)
    assert bench.origin.requests == []


async def test_an_upload_that_was_aborted_meanwhile_is_lost(bench: Bench) -> None:
    """A session that the store does not know any more cannot be gone on with."""
    order, first = await interrupted(bench, lose_at="after 2 parts")
    await bench.abort(first)
    await bench.fails(order, UploadLost)
    assert bench.origin.requests == []


async def test_a_resumed_checksum_is_computed_anew_and_parts_kept(bench: Bench) -> None:
    """All bytes are read for the hash; parts that are in the store already are not sent again."""
    checksum = f"sha256:{content_sha256(7, 4 * PART)}"
    order, first = await interrupted(bench, lose_at="after 2 parts", checksum=checksum)
    kept = len(first.parts)
    control = Control(bytes_done=kept * PART)
    await bench.check(order, await bench.run(order, control), 4 * PART)
    assert bench.ranges() == [1, 2, 3, 4]
    assert bench.proxy.count("upload_part") == 4 - kept
    assert control.bytes_done == 4 * PART


async def test_a_resumed_stream_begins_anew(bench: Bench) -> None:
    """Without ranges the parts of an earlier attempt are overwritten, and a shorter file leaves none of them."""
    order, _ = await interrupted(bench, lose_at="commit")
    later = await bench.order(2 * PART + 5, seed=8, pinned=WAYS["unknown length"])
    order = replace(later, session=order.session, parts_done=order.parts_done)
    control = Control(bytes_done=4 * PART)
    await bench.check(order, await bench.run(order, control), 2 * PART + 5, seed=8)
    assert control.bytes_done == 2 * PART + 5


async def test_a_resumed_stream_that_is_empty(bench: Bench) -> None:
    """It is put at once, as no upload can have no parts; that of the earlier attempt is left to the scheduler."""
    order, control = await interrupted(bench, lose_at="commit")
    later = await bench.order(0, pinned=WAYS["unknown length"])
    result = await bench.run(replace(later, key=order.key, session=order.session, parts_done=order.parts_done))
    assert (result.size_bytes, len(await bench.sink.list_uploads(order.key))) == (0, 1)
    await bench.abort(control)


# --- checksums ---


def checksum_of(algorithm: str, size: int) -> str:
    if algorithm == "crc64nvme":
        return f"crc64nvme:{crc_text(crc64nvme(content_bytes(7, 0, size)))}"
    if algorithm == "crc32c":
        return f"crc32c:{crc32c_text(crc32c(content_bytes(7, 0, size)))}"
    digest = hashlib.new(algorithm)
    for window in content_windows(7, size):
        digest.update(window)
    return f"{algorithm}:{digest.hexdigest()}"


@pytest.mark.parametrize("size", [1000, 2 * PART + 1])
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5", "crc64nvme", "crc32c"])
async def test_a_checksum_is_compared_before_publishing(bench: Bench, algorithm: str, way: str, size: int) -> None:
    """The right checksum passes; a wrong one publishes nothing, and the commit is not even asked for."""
    order = await bench.order(size, pinned=WAYS[way])
    right = checksum_of(algorithm, size)
    result = await bench.run(replace(order, checksum=right))
    await bench.check(order, result, size)
    assert result.sha256 == (right.removeprefix("sha256:") if algorithm == "sha256" else None)
    assert result.checksum == right
    await bench.sink.delete(order.key)
    control = Control()
    wrong = replace(order, checksum=checksum_of(algorithm, size + 1))
    await bench.fails(wrong, ChecksumMismatch, control)
    assert "commit" not in control.steps
    if control.session is not None:
        await bench.abort(control)
    assert bench.memory.peak_bytes <= (4 if way == "ranges" else 2) * PART


@pytest.mark.parametrize("size", [1000, 3 * PART + 1])
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("algorithm", [None, "md5", "crc64nvme", "crc32c"])
async def test_sha256_is_computed_where_it_is_wanted(bench: Bench, algorithm: str | None, way: str, size: int) -> None:
    """With nothing to compare, or something else; a wrong MD5 is seen all the same."""
    order = replace(await bench.order(size, pinned=WAYS[way]), compute_sha256=True)
    checksum = None if algorithm is None else checksum_of(algorithm, size)
    result = await bench.run(replace(order, checksum=checksum))
    await bench.check(order, result, size)
    assert result.sha256 == content_sha256(7, size)
    assert bench.memory.peak_bytes <= (4 if way == "ranges" else 2) * PART
    await bench.sink.delete(order.key)
    if algorithm == "md5":
        control = Control()
        await bench.fails(replace(order, checksum=checksum_of("md5", size + 1)), ChecksumMismatch, control)
        if control.session is not None:
            await bench.abort(control)


async def test_a_source_s_crc32c_is_compared_of_parts_in_any_order(bench: Bench) -> None:
    """As Google's storage tells it of every object: ranges stay parallel; a bit that flips under it is seen."""
    size = 40 * MIB
    told = {"x-goog-hash": checksum_of("crc32c", size).replace(":", "=")}
    order = await bench.order(size, pinned={"headers": told})
    order = replace(order, checksum=expected_checksum(JobSpec(url=order.url), order.pin, digest_bytes_max=0))
    bench.origin.requests_under_way_max = 0
    result = await bench.run(order)
    await bench.check(order, result, size)
    assert result.checksum == checksum_of("crc32c", size)
    assert bench.origin.requests_under_way_max > 1
    await bench.sink.delete(order.key)
    damaged = await bench.order(size, pinned={"headers": told}, faults={"flip_at": 2 * PART})
    order = replace(damaged, checksum=order.checksum)
    control = Control()
    await bench.fails(order, ChecksumMismatch, control)
    assert "commit" not in control.steps
    await bench.abort(control)


@pytest.mark.parametrize(("memory_parts", "at_once"), [(16, 3), (8, 2), (6, 1)])
async def test_what_is_hashed_in_order_is_read_side_by_side(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, memory_parts: int, at_once: int
) -> None:
    """As many parts as there are connections, but one, and as half of the memory has room for; no byte twice."""
    reads, read = [0], Lanes._read

    async def counted(self: Lanes, wanted: Any) -> Buffered:
        reads.append(reads[-1] + 1)
        try:
            return await read(self, wanted)
        finally:
            reads.append(reads[-1] - 1)

    monkeypatch.setattr(Lanes, "_read", counted)
    bench.memory = ByteBudget(memory_parts * PART)
    order = await bench.order(8 * PART)
    control = Control()
    result = await bench.run(replace(order, checksum=checksum_of("sha256", 8 * PART)), control)
    await bench.check(order, result, 8 * PART)
    assert max(reads) == at_once
    assert bench.ranges() == list(range(1, 9))
    assert bench.memory.peak_bytes <= (at_once + 1) * PART
    assert control.bytes_done == 8 * PART


async def test_no_more_is_read_side_by_side_than_the_file_has(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else short files would leave one another no memory to read ahead in."""
    wanted: list[int] = []
    row = ByteBudget.row

    def seen(self: ByteBudget, wanted_bytes: int) -> AbstractContextManager[Row]:
        wanted.append(wanted_bytes)
        return row(self, wanted_bytes)

    monkeypatch.setattr(ByteBudget, "row", seen)
    order = replace(await bench.order(2 * PART), connections=8, checksum=checksum_of("sha256", 2 * PART))
    await bench.check(order, await bench.run(order), 2 * PART)
    # The two, what is sent, and a hedge.
    assert wanted == [4 * PART]
    assert bench.memory.rows_bytes == 0


async def test_bytes_that_are_gone_hold_no_memory(bench: Bench) -> None:
    """Not even until a file that goes up in one PUT is asked for again, which may be a minute later."""
    held: list[int] = []

    class Waiting(Control):
        def doing(self, what: str) -> None:
            if what == "waiting to try again":
                held.append(bench.memory.used_bytes)

    order = await bench.order(MIB - 1, faults={"truncate_after": MIB // 2, "faults_max": 1})
    await bench.check(order, await bench.run(order, Waiting()), MIB - 1)
    assert held == [0]


async def test_parts_of_which_it_is_not_known_are_sent_again(bench: Bench) -> None:
    """An earlier attempt that did not compute what is to be compared now is not built on."""
    order, _ = await interrupted(bench, lose_at="after 2 parts")
    right = checksum_of("crc32c", 4 * PART)
    await bench.check(order, await bench.run(replace(order, checksum=right)), 4 * PART)
    assert bench.ranges() == [1, 2, 3, 4]


async def test_what_was_computed_of_kept_parts_is_combined(bench: Bench) -> None:
    """A resumed lease moves only what is missing, and compares the whole."""
    order, _ = await interrupted(bench, lose_at="after 2 parts", checksum=checksum_of("crc32c", 4 * PART))
    await bench.check(order, await bench.run(order), 4 * PART)
    assert bench.ranges() == [3, 4]


async def test_hashing_waits_for_nobody_s_names(bench: Bench) -> None:
    """With all threads of the loop stuck, as in names that nobody resolves, a checksum is computed all the same."""
    order = replace(await bench.order(3 * PART), checksum=checksum_of("sha256", 3 * PART))
    is_over = threading.Event()
    stuck = [asyncio.get_running_loop().run_in_executor(None, is_over.wait) for _ in range(64)]
    try:
        async with asyncio.timeout(30):
            await bench.check(order, await bench.run(order), 3 * PART)
    finally:
        is_over.set()
        await asyncio.gather(*stuck)


async def test_a_liar_is_caught_by_the_checksum(bench: Bench) -> None:
    """A file that changes without showing it is not published under a checksum."""
    order = await bench.order(3 * PART, faults={"changes_after": 1, "validators_change": False})
    control = Control()
    order = replace(order, checksum=checksum_of("sha256", 3 * PART))
    await bench.fails(order, ChecksumMismatch, control)
    await bench.abort(control)


async def test_a_fault_in_order_costs_one_part(bench: Bench) -> None:
    """Reading for a hash keeps the retries of parts: no byte is hashed twice."""
    order = await bench.order(3 * PART, faults={"truncate_after": MIB, "faults_max": 1})
    order = replace(order, checksum=checksum_of("md5", 3 * PART))
    await bench.check(order, await bench.run(order), 3 * PART)
    assert bench.ranges() == [1, 1, 2, 3]


# --- the lease ends ---


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize(
    ("size", "lose_at", "parts_max"),
    [
        (1000, "after 0 parts", 0),
        (1000, "commit", 0),
        (3 * PART, "after 0 parts", 0),
        (3 * PART, "opened", 0),
        (3 * PART, "part", 2),
        (3 * PART, "commit", 3),
    ],
)
async def test_a_lost_lease_publishes_nothing(bench: Bench, size: int, lose_at: str, parts_max: int, way: str) -> None:
    """Wherever the lease is lost, nothing is published, and nothing is sent after it."""
    order = replace(await bench.order(size, pinned=WAYS[way]), connections=1)
    control = Control(lose_at=lose_at)
    await bench.fails(order, LeaseLost, control)
    assert bench.proxy.count("complete") == bench.proxy.count("put_object") == 0
    assert bench.proxy.count("upload_part") <= parts_max
    assert lose_at != "after 0 parts" or not bench.origin.requests
    for upload in await bench.sink.list_uploads(bench.prefix):
        await bench.sink.abort(upload.key, upload.upload_id)


@pytest.mark.parametrize("way", [*WAYS, "checksum"])
async def test_cancelling_is_quick_and_gives_everything_back(bench: Bench, way: str) -> None:
    """A cancelled transfer ends at once, though its source is silent; memory and progress are given back."""
    order = await bench.order(3 * PART, pinned=WAYS.get(way, NOTHING), faults={"stall_after": MIB})
    if way == "checksum":
        order = replace(order, checksum=checksum_of("sha256", 3 * PART))
    control = Control()
    task = asyncio.create_task(bench.run(order, control))
    await control.moved.wait()
    task.cancel()
    async with asyncio.timeout(1):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert control.bytes_done == 0
    assert await bench.sink.head(order.key) is None
    for upload in await bench.sink.list_uploads(bench.prefix):
        await bench.sink.abort(upload.key, upload.upload_id)


async def test_an_upload_opened_while_we_are_stopped_is_told_of(bench: Bench) -> None:
    """Cancelled while the store opens the upload, it ends at once; what was opened is told all the same."""
    order = await bench.order(3 * PART)
    entered, release = asyncio.Event(), asyncio.Event()
    seam = Seam(bench.sink)
    seam.hold["create"] = (entered, release)
    bench.sink, sink = seam, bench.sink  # type: ignore[assignment] # a decorator of the sink
    control = Control()
    task = asyncio.create_task(bench.run(order, control))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert control.steps == []
    release.set()
    async with asyncio.timeout(10):
        while not control.steps:
            await asyncio.sleep(0.01)
    assert control.steps == ["left"]
    (upload,) = await sink.list_uploads(bench.prefix)
    assert control.session is not None
    assert upload.upload_id == control.session.upload_id
    bench.sink = sink
    await bench.abort(control)


@pytest.mark.parametrize("key", ["job_1/file.bin", "named.bin"])
async def test_a_zombie_s_put_takes_nobody_s_place(bench: Bench, key: str) -> None:
    """Who was frozen between leave and PUT, and thaws when another lease has published, is refused by the store."""
    old = replace(await bench.order(1000, seed=8), key=f"{bench.prefix}/{key}")
    entered, release = asyncio.Event(), asyncio.Event()
    sink, seam = bench.sink, Seam(bench.sink)
    seam.hold["put"] = (entered, release)
    bench.sink = seam  # type: ignore[assignment] # a decorator of the sink
    zombie = Control()
    task = asyncio.create_task(bench.run(old, zombie))
    await entered.wait()
    bench.sink, bench.memory = sink, ByteBudget(MEMORY)
    new = replace(await bench.order(1000), key=old.key, lease_id="lease_2", epoch=2)
    result = await bench.run(new)
    zombie.lose_at = "after 0 parts"
    release.set()
    with pytest.raises(LeaseLost):
        await task
    await bench.check(new, result, 1000)


@pytest.mark.parametrize("key", ["job_1/file.bin", "named.bin"])
async def test_what_stood_there_is_replaced(bench: Bench, key: str) -> None:
    """An object that an earlier attempt, or another job, had left under the key gives way to ours."""
    order = replace(await bench.order(1000, seed=8), key=f"{bench.prefix}/{key}")
    await bench.run(order)
    new = replace(await bench.order(1000), key=order.key, lease_id="lease_2", epoch=2)
    await bench.check(new, await bench.run(new), 1000)


@pytest.mark.parametrize("ours", [True, False])
async def test_what_an_undone_upload_had_published_goes(bench: Bench, *, ours: bool) -> None:
    """Undoing an upload that was completed deletes its object; another upload's object under the key stays."""
    order = await bench.order(3 * PART)
    control = Control()
    await bench.run(order, control)
    assert control.session is not None
    undone = AbortOrder(
        session_id=control.session.session_id if ours else "ses_other",
        context=order.context,
        bucket=order.bucket,
        key=order.key,
        upload_id=control.session.upload_id,
    )
    await undo(bench.sink, undone)
    assert (await bench.sink.head(order.key) is None) is ours


@pytest.mark.parametrize(
    ("epoch", "job_id", "stays"),
    [(1, None, False), (2, None, False), (0, None, True), (None, None, True), (1, "job_other", True)],
)
async def test_a_put_is_taken_back(bench: Bench, epoch: int | None, job_id: str | None, *, stays: bool) -> None:
    """What a PUT of a job's earlier lease made is deleted; that of a later one, and another job's, stays."""
    order = await bench.order(1000)
    await bench.run(order)
    context = order.context if job_id is None else replace(order.context, job_id=job_id)
    taken = AbortOrder(
        session_id="put_1", context=context, bucket=order.bucket, key=order.key, upload_id="", epoch=epoch
    )
    await undo(bench.sink, taken)
    assert (await bench.sink.head(order.key) is not None) is stays
    assert bench.proxy.count("abort") == 0


async def test_stripes_of_one_upload(bench: Bench) -> None:
    """Each moves its own parts and publishes nothing; who has the whole file then only completes it."""
    order, first = await interrupted(bench, lose_at="after 1 parts")
    stripes = [replace(order, lease_id=f"lease_{n}", first_part=n, end_part=n + 1, epoch=n) for n in (2, 3, 4)]
    controls = [Control() for _ in stripes]
    results = await asyncio.gather(*[bench.carry_out(*both) for both in zip(stripes, controls, strict=True)])
    assert results == [None, None, None]
    assert [control.steps for control in controls] == [["part"]] * 3
    assert [control.bytes_done for control in controls] == [PART] * 3
    assert await bench.sink.head(order.key) is None
    assert bench.ranges() == [2, 3, 4]
    assert bench.proxy.count("list_parts") == 0, "they build on nothing of an earlier attempt"
    known = (*first.parts, *(part for control in controls for part in control.parts))
    bench.origin.requests.clear()
    last = replace(order, parts_done=known, epoch=5)
    await bench.check(last, await bench.run(last), 4 * PART)
    assert bench.origin.requests == []


async def test_a_stripe_whose_tail_goes_to_others(bench: Bench) -> None:
    """What is not on its way yet is left alone, and the upload is not completed."""
    order = replace(await bench.order(6 * PART), connections=1)
    stripe = Stripe(1, 7)
    control = Control(on_part=lambda: stripe.trim(3))
    assert await bench.carry_out(order, control, stripe=stripe) is None
    assert bench.ranges() == [1, 2]
    assert stripe.end_part == 3
    await bench.abort(control)


async def test_a_stripe_of_an_upload_that_is_gone(bench: Bench) -> None:
    """It opens none of its own."""
    order = replace(await bench.order(4 * PART), first_part=2, end_part=4)
    await bench.fails(order, UploadLost)
    assert bench.origin.requests == []


async def test_a_stripe_does_not_fall_back_to_one_stream(bench: Bench) -> None:
    """Where the source serves no ranges here, it is others who go on: their parts are not overwritten."""
    order, _ = await interrupted(bench, lose_at="after 1 parts")
    bench.origin.add("file.bin", size=4 * PART, seed=7, ranges=False)
    control = Control()
    await bench.fails(replace(order, first_part=2, end_part=4), SourceFailed, control)
    assert control.parts == []


async def test_memory_is_shared_and_never_exceeded(bench: Bench) -> None:
    """Six streams of three parts each pass through a budget of three parts, one after the other where they must."""
    bench.memory = ByteBudget(3 * PART)
    base = await bench.order(3 * PART, pinned=WAYS["unknown length"])
    orders = [replace(base, key=f"{bench.prefix}/{number}") for number in range(6)]

    results = await asyncio.gather(*[beside_others(bench, order) for order in orders])
    for order, result in zip(orders, results, strict=True):
        assert result is not None
        await bench.check(order, result, 3 * PART)
    assert bench.memory.peak_bytes <= 3 * PART
    assert bench.memory.used_bytes == 0


async def test_upload_of_an_agent_that_died_untold(bench: Bench) -> None:
    """An upload that an earlier lease could not tell of is aborted; under a key that the caller named it stays."""
    order = await bench.order(3 * PART)
    for key, left in ((f"{bench.prefix}/job_1/file.bin", 0), (f"{bench.prefix}/named.bin", 1)):
        await bench.sink.create(key, content_type="text/plain", filename="f", metadata={})
        result = await bench.run(replace(order, key=key, epoch=2))
        assert result.parts_count == 3
        assert len(await bench.sink.list_uploads(key)) == left


async def test_first_lease_looks_for_no_strangers(bench: Bench) -> None:
    """The usual case costs no listing."""
    order = await bench.order(3 * PART)
    await bench.run(replace(order, key=f"{bench.prefix}/job_1/file.bin"))
    counted = bench.sink.meter.snapshot().counters
    before = counted.get((SINK_REQUESTS.name, ("list_multipart_uploads", "ok")), 0)
    await bench.run(replace(order, key=f"{bench.prefix}/job_1/other.bin"))
    assert bench.sink.meter.snapshot().counters.get((SINK_REQUESTS.name, ("list_multipart_uploads", "ok")), 0) == before
