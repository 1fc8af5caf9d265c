"""Origins that fail or lie, through whole leases, by the fault matrix: the right bytes or none, at a known cost."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from lease_bench import PART, SETTINGS, WAYS, Bench, Control, Side, running, through
from origin import Origin, content_sha256

from rayhaul.errors import (
    ChecksumMismatch,
    SourceBusy,
    SourceChanged,
    SourceRefused,
    SourceStalled,
    SourceTimeout,
    SourceTooLarge,
    SourceTruncated,
    SourceUnreachable,
)
from rayhaul.metrics import SOURCE_BYTES
from rayhaul.settings import MIB
from serve_app.seaweed import Seaweed
from tasks.source import CorruptBody

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Seeds of the random truncations; each has its own offset and manner.
SEEDS = range(6)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest.fixture
def bench(side: Side) -> Bench:
    return Bench(side)


def source_bytes(bench: Bench) -> float:
    return bench.client._meter.snapshot().counters.get((SOURCE_BYTES.name, ()), 0)


async def test_f01_connection_refused(bench: Bench) -> None:
    """A port where nobody listens is tried five times, then the lease fails by the source's fault."""
    order = await bench.order(3 * PART)
    async with Origin() as gone:
        port = gone.port
    five = SETTINGS.model_copy(update={"part_attempts_max": 5})
    control = Control()
    order = replace(order, url=f"http://127.0.0.1:{port}/file.bin", connections=1)
    async with through(bench, f"127.0.0.1:{port}"):
        error = await bench.fails(order, SourceUnreachable, control, settings=five)
    assert (error.fault, error.retryable) == ("source", True)
    assert control.doings.count("waiting to try again") == 4
    await bench.abort(control)


@pytest.mark.parametrize("seed", SEEDS)
async def test_f02_truncation_at_a_random_byte(bench: Bench, seed: int) -> None:
    """Wherever a body is cut, by FIN or RST, only its part is read again."""
    rng = Random(seed)
    cut = {"truncate_after": rng.randrange(1, PART), "truncate_by": rng.choice(["fin", "rst"]), "faults_max": 1}
    order = await bench.order(3 * PART + 11, faults=cut)
    before = source_bytes(bench)
    await bench.check(order, await bench.run(order), 3 * PART + 11)
    assert source_bytes(bench) - before - (3 * PART + 11) <= PART, "more than one part was read again"


async def test_f03_stall(bench: Bench) -> None:
    """A silent body is given up after the stall limit, and its part is read again."""
    order = await bench.order(3 * PART, faults={"stall_after": MIB, "faults_max": 1})
    async with through(bench, stall_timeout_s=0.3):
        await bench.check(order, await bench.run(order), 3 * PART)
    assert len(bench.ranges()) == 4


async def test_f04_slow_loris(bench: Bench) -> None:
    """A source that drips below the least speed is given up each time, and gives its connection back."""
    order = replace(await bench.order(3 * PART, faults={"rate_bytes_per_s": 200}), connections=1)
    control = Control()
    async with through(bench, speed_bytes_per_s_min=5000, speed_window_s=0.2):
        await bench.fails(order, SourceStalled, control)
    assert len(bench.ranges()) == SETTINGS.part_attempts_max
    await bench.abort(control)


@pytest.mark.parametrize("status", [503])
async def test_f05_retry_after_is_waited_for(bench: Bench, status: int) -> None:
    """Asked to wait a second, nothing is asked for in that second; asked to wait long, the job gives its slot back."""
    order = await bench.order(3 * PART, faults={"statuses": (status,), "retry_after": "1"})
    began_s = time.monotonic()
    await bench.check(order, await bench.run(replace(order, connections=1)), 3 * PART)
    assert time.monotonic() - began_s >= 1
    assert len(bench.origin.requests) == 4
    await bench.sink.delete(order.key)
    order = await bench.order(3 * PART, faults={"status": status, "retry_after": "600"})
    control = Control()
    error = await bench.fails(replace(order, connections=1), SourceBusy, control)
    assert error.retry_after_s == 600
    assert len(bench.origin.requests) == 1
    await bench.abort(control)


async def test_f06_ranges_that_become_a_200(bench: Bench) -> None:
    """A source that stops serving ranges half-way is read again in one stream; no 200 is put at an offset."""
    size = 4 * PART
    order = replace(await bench.order(size), connections=1)
    control = Control(on_part=lambda: bench.origin.add("file.bin", size=size, seed=7, ranges=False))
    await bench.check(order, await bench.run(order, control), size)


async def test_f07_edges_with_etags_of_their_own(bench: Bench) -> None:
    """Servers that tag the same file differently: one stream is taken, or ranges where a checksum can tell."""
    size = 4 * PART
    order = await bench.order(size, pinned={"edges_count": 3})
    await bench.check(order, await bench.run(order), size)
    assert any(seen.range is None for seen in bench.origin.requests)
    order = replace(await bench.order(size, pinned={"edges_count": 3}), checksum=f"sha256:{content_sha256(7, size)}")
    await bench.check(order, await bench.run(order), size)
    assert bench.ranges() == sorted([1, 2, 3, 4] + [seen.range[0] // PART + 1 for seen in again(bench)])


def again(bench: Bench) -> list[Any]:
    """Return the requests for ranges that were repeated without If-Range, because a 200 came with another ETag."""
    return [seen for seen in bench.origin.requests if seen.range and "if-range" not in seen.headers]


async def test_f07_two_versions_that_look_alike_are_told_by_the_checksum(bench: Bench) -> None:
    """Another file under another ETag with the same date and length: a checksum refuses the mix."""
    order = await bench.order(4 * PART, pinned={"edges_count": 2}, faults={"changes_after": 2, "edges_count": 2})
    bench.origin.add("file.bin", size=4 * PART, seed=7, edges_count=2, changes_after=2, validators_change=False)
    control = Control()
    order = replace(order, checksum=f"sha256:{content_sha256(7, 4 * PART)}", connections=1)
    await bench.fails(order, ChecksumMismatch, control)
    await bench.abort(control)


@pytest.mark.parametrize("pinned", [{"etag": "weak", "last_modified": None}, {"etag": "none", "last_modified": None}])
async def test_f08_no_version_to_resume(bench: Bench, pinned: dict[str, Any]) -> None:
    """Without a validator a broken stream is not resumed: the next run begins from the first byte."""
    order = await bench.order(3 * PART, pinned=pinned, faults={"truncate_after": 2 * PART + 9, "faults_max": 1})
    control = Control()
    await bench.fails(order, SourceTruncated, control)
    bench.origin.requests.clear()
    order = replace(order, session=control.session, parts_done=tuple(control.parts), epoch=2)
    await bench.check(order, await bench.run(order), 3 * PART)
    assert [seen.range for seen in bench.origin.requests] == [None]


@pytest.mark.parametrize("way", ["ranges", "one stream"])
@pytest.mark.parametrize("lie", [-1, 1])
async def test_f09_a_content_length_that_lies(bench: Bench, way: str, lie: int) -> None:
    """A length that is not what comes publishes nothing, or exactly the file where another way remains."""
    order = replace(
        await bench.order(2 * PART + 7, pinned=WAYS[way], faults={"content_length_lie": lie}), connections=1
    )
    control = Control()
    try:
        result = await bench.run(order, control)
    except (SourceChanged, SourceTruncated):
        assert await bench.sink.head(order.key) is None
        if control.session is not None:
            await bench.abort(control)
    else:
        await bench.check(order, result, 2 * PART + 7)


@pytest.mark.parametrize("lie", ["shifted", "short"])
async def test_f10_a_206_of_other_bytes(bench: Bench, lie: str) -> None:
    """A 206 that does not show exactly the range asked for is never written: one stream takes over."""
    order = await bench.order(2 * PART + 9, faults={"content_range": lie})
    await bench.check(order, await bench.run(order), 2 * PART + 9)
    assert [seen.range for seen in bench.origin.requests][-1] is None


async def test_f11_endless_body(bench: Bench) -> None:
    """A chunked body without end is cut off at the limit, at most a part beyond it."""
    order = await bench.order(1000 * PART, pinned=WAYS["unknown length"])
    before = source_bytes(bench)
    control = Control()
    await bench.fails(replace(order, size_bytes_max=2 * PART), SourceTooLarge, control)
    assert source_bytes(bench) - before <= 3 * PART
    await bench.abort(control)


async def test_f12_gzip_bomb(bench: Bench) -> None:
    """A coded body is refused, and one of a gzip file is stored as it is: nothing is ever inflated."""
    order = await bench.order(4 * PART, faults={"coding": "gzip"})
    before = source_bytes(bench)
    control = Control()
    await bench.fails(order, SourceRefused, control)
    assert source_bytes(bench) - before == 0
    if control.session is not None:
        await bench.abort(control)


async def test_f13_redirects_that_never_end(bench: Bench) -> None:
    """A circle, or a chain that is too long, is refused in the middle of a transfer as well."""
    for faults in ({"redirect_to": "/file.bin"}, {"redirect_to": "/file.bin?n={count}"}):
        order = replace(await bench.order(3 * PART, faults=faults), connections=1)
        control = Control()
        await bench.fails(order, SourceRefused, control)
        assert len(bench.origin.requests) <= 6
        await bench.abort(control)


async def test_f16_names_that_come_and_go(bench: Bench) -> None:
    """A name that cannot be resolved is tried again as any source that is out of reach."""
    order = replace(await bench.order(3 * PART), url="http://no-such-host.invalid/file.bin", connections=1)
    control = Control()
    error = await bench.fails(order, SourceUnreachable, control)
    assert error.retryable
    assert control.doings.count("waiting to try again") == SETTINGS.part_attempts_max - 1
    await bench.abort(control)


@pytest.mark.parametrize(("way", "header"), [("one stream", "Content-MD5"), ("unknown length", "Repr-Digest")])
async def test_f17_a_flipped_bit_under_a_digest(bench: Bench, way: str, header: str) -> None:
    """In one stream the digest of the answer itself tells: nothing is published, and another run is worth it."""
    faults = {"digests": (header,), "flip_at": 2 * PART, "faults_max": 1}
    order = await bench.order(2 * PART + 9, pinned=WAYS[way], faults=faults)
    control = Control()
    error = await bench.fails(order, CorruptBody, control)
    assert error.retryable
    await bench.abort(control)
    order = replace(order, lease_id="lease_2", epoch=2)
    await bench.check(order, await bench.run(order), 2 * PART + 9)


async def test_f17_a_flipped_bit_in_a_part(bench: Bench) -> None:
    """A part with a digest of its own is read again when it does not have it, and no other."""
    faults = {"digests": ("Content-Digest",), "flip_at": PART + 5, "faults_max": 1}
    order = await bench.order(3 * PART, faults=faults)
    await bench.check(order, await bench.run(order), 3 * PART)
    assert bench.ranges() == [1, 2, 2, 3]


async def test_f17_a_flipped_bit_in_ranges_of_a_file_with_a_digest(bench: Bench) -> None:
    """The digest that the probe was told is compared before publishing, as a caller's checksum is."""
    order = await bench.order(3 * PART, pinned={"digests": ("Repr-Digest",)}, faults={"flip_at": 5})
    assert order.pin.digest == f"sha256:{content_sha256(7, 3 * PART)}"
    control = Control()
    await bench.fails(replace(order, checksum=order.pin.digest), ChecksumMismatch, control)
    assert "commit" not in control.steps
    await bench.abort(control)
    order = await bench.order(3 * PART, pinned={"digests": ("Repr-Digest",)})
    await bench.check(order, await bench.run(replace(order, checksum=order.pin.digest)), 3 * PART)


async def test_silence_before_the_first_byte(bench: Bench) -> None:
    """A source that accepts and never answers costs the first-byte limit, and its part is asked for again."""
    order = replace(await bench.order(3 * PART, faults={"silent": True, "faults_max": 1}), connections=1)
    async with through(bench, first_byte_timeout_s=0.3):
        await bench.check(order, await bench.run(order), 3 * PART)
    await bench.sink.delete(order.key)
    order = replace(await bench.order(3 * PART, faults={"silent": True}), connections=1)
    control = Control()
    async with through(bench, first_byte_timeout_s=0.1):
        await bench.fails(order, SourceTimeout, control)
    await bench.abort(control)


async def test_416_in_the_middle(bench: Bench) -> None:
    """A 416 that tells our length refuses ranges, and one stream takes over; one that tells another is a change."""
    for size, kind in ((3 * PART, None), (2 * PART, SourceChanged)):
        order = await bench.order(3 * PART)
        refusal = b"HTTP/1.1 416 No\r\nContent-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n" % size
        server = await asyncio.start_server(partial(ranged_refused, refusal), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, through(bench, "127.0.0.1/32"):
            bench.origin.add("file.bin", size=3 * PART, seed=7, ranges=False)
            control = Control()
            order = replace(order, url=f"http://127.0.0.1:{port}/{bench.origin.port}", connections=1)
            if kind is None:
                await bench.check(order, await bench.run(order, control), 3 * PART)
                await bench.sink.delete(order.key)
            else:
                await bench.fails(order, kind, control)
                await bench.abort(control)


async def ranged_refused(refusal: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuse a request for a range, and redirect any other to the real origin, whose port is the path."""
    head = await reader.readuntil(b"\r\n\r\n")
    port = head.split(b" ", 2)[1].decode().strip("/")
    moved = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/file.bin\r\nContent-Length: 0\r\n\r\n"
    writer.write(refusal if b"range:" in head.lower() else moved.encode())
    await writer.drain()
    writer.close()
