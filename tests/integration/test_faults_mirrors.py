"""Several sources of one file that misbehave, one fault a test: who delivers, who is left out, and nothing is mixed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from lease_bench import PART, SETTINGS, WAYS, Bench, Control, Side, running, through
from origin import Origin, content_sha256

from rayhaul.errors import ChecksumMismatch, EgressDenied, SourceBusy, SourceFailed, SourceNotFound, SourceTooLarge
from rayhaul.job import JobResult, Metadata
from rayhaul.lease import TransferOrder
from rayhaul.metrics import SOURCES_LEFT_OUT
from rayhaul.origins import Source
from rayhaul.policy import hedging as hedging_policy
from rayhaul.policy import mirrors as policy
from rayhaul.policy.retry import RetryBudget
from rayhaul.settings import MIB
from serve_app.seaweed import Seaweed
from tasks.first_found import first_found
from tasks.http_transport import HttpTransport
from tasks.links import Link
from tasks.probe import probe

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 6 * PART + 7
#: Of a connection: a part takes two and a half seconds.
SLOW_BYTES_PER_S = 2 * MIB
NO_VALIDATOR: dict[str, Any] = {"etag": "none", "last_modified": None}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@dataclass(frozen=True, slots=True)
class Twin:
    """A bench, and a second origin that is the mirror of the first."""

    bench: Bench
    mirror: Origin

    async def order(
        self,
        size: int = SIZE,
        *,
        main: dict[str, Any] | None = None,
        faults: dict[str, Any] | None = None,
        seed: int = 7,
        **mirror: Any,
    ) -> TransferOrder:
        """Return an order of a file that the bench's origin served as `main` when it was probed, and now with
        `faults`; its mirror serves that of `seed` as it is told.
        """
        order = await self.bench.order(size, pinned=main or {}, faults=faults or {})
        url = self.mirror.add("copy.bin", size=size, seed=seed, **mirror)
        return replace(order, mirrors=(Source(index=1, url=url),), connections=2)

    def asked_of_mirror(self) -> Sequence[int]:
        """Return the parts that the mirror was asked for; the look at it is none."""
        ranges = [seen.range for seen in self.mirror.requests if seen.range not in {None, (0, 1)}]
        return sorted(asked[0] // PART + 1 for asked in ranges)

    async def left_out(self, why: str) -> float:
        return self.bench.sink.meter.snapshot().counters.get((SOURCES_LEFT_OUT.name, (why,)), 0)


@pytest_asyncio.fixture(loop_scope="module")
async def twin(side: Side) -> AsyncIterator[Twin]:
    bench = Bench(side)
    async with Origin() as mirror, through(bench, mirror.host_port, stall_timeout_s=5):
        yield Twin(bench, mirror)


def brought(result: JobResult) -> dict[int, int]:
    """Return how many bytes came from which source; together they are the file."""
    assert sum(bytes_count for _, bytes_count in result.sources) == result.size_bytes
    return dict(result.sources)


async def test_a_mirror_that_is_quicker(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow source is left to the quick one, also in the middle of a part; what each delivered is told."""
    monkeypatch.setattr(policy, "_CRAWL_AFTER_S", 0.5)
    order = await twin.order(faults={"rate_bytes_per_s": MIB // 2})
    control = Control()
    result = await twin.bench.run(order, control)
    await twin.bench.check(order, result, SIZE)
    assert brought(result)[1] >= SIZE - PART
    assert not control.reasons
    assert {part.source for part in control.parts} == set(brought(result))


async def test_a_part_that_drips_is_hedged_by_the_mirror(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request for the main source's part goes to the other one, which brings its end, and breaks no upload:
    the part counts as that one's.
    """
    monkeypatch.setattr(policy, "_CRAWL_AFTER_S", 60.0)
    monkeypatch.setattr(hedging_policy, "_AFTER_S", 0.3)
    order = await twin.order(faults={"rate_bytes_per_s": 20 * 1024})
    async with asyncio.timeout(60):
        result = await twin.bench.run(order)
    await twin.bench.check(order, result, SIZE)
    assert twin.asked_of_mirror() == [1, 2, 3, 4, 5, 6, 7]
    assert brought(result) == {1: SIZE}
    assert len(twin.bench.ranges()) == 1
    assert twin.bench.proxy.count("upload_part") == 7


async def test_a_hedge_leaves_the_source_that_crawls(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main source was the quicker one so far, and has a connection free; its part is asked of the mirror all the
    same.
    """
    monkeypatch.setattr(policy, "_CRAWL_AFTER_S", 60.0)
    monkeypatch.setattr(hedging_policy, "_AFTER_S", 0.3)
    faults = {"rate_bytes_per_s": 16 * MIB, "drips_at": (5 * PART + 1000,), "faults_max": 1}
    order = await twin.order(faults=faults, rate_bytes_per_s=4 * MIB)
    async with asyncio.timeout(60):
        result = await twin.bench.run(order)
    await twin.bench.check(order, result, SIZE)
    assert twin.bench.ranges().count(6) == twin.asked_of_mirror().count(6) == 1
    assert twin.bench.proxy.broken == []


async def test_a_mirror_that_is_slow(twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried with one part, which is asked for elsewhere as soon as it crawls: it holds nothing up."""
    monkeypatch.setattr(policy, "_CRAWL_AFTER_S", 0.5)
    order = await twin.order(rate_bytes_per_s=MIB // 8)
    result = await twin.bench.run(order)
    await twin.bench.check(order, result, SIZE)
    assert brought(result) == {0: SIZE}
    assert len(twin.asked_of_mirror()) <= 2


@pytest.mark.parametrize(
    "death",
    [{"status": 404, "status_after": 2}, {"truncate_after": MIB}, {"status": 503, "status_after": 1}],
    ids=["gone", "cut", "busy"],
)
async def test_a_source_that_dies_half_way(twin: Twin, death: dict[str, Any]) -> None:
    """The mirror brings the rest within the same lease; what was in stays."""
    order = await twin.order(faults=death, rate_bytes_per_s=4 * SLOW_BYTES_PER_S)
    control = Control()
    result = await twin.bench.run(order, control)
    await twin.bench.check(order, result, SIZE)
    assert brought(result)[1] >= PART
    assert twin.bench.proxy.count("create") == 1
    assert "waiting to try again" not in control.doings
    assert control.reasons == ({0: "source_not_found"} if death.get("status") == 404 else {})


@pytest.mark.parametrize(
    ("main", "mirror", "why"),
    [
        ({}, NO_VALIDATOR, "doubtful"),
        (NO_VALIDATOR, {}, "doubtful"),
        ({}, {"etag": "weak"}, "doubtful"),
        ({}, {}, "doubtful"),
        ({"digests": ("Repr-Digest",)}, {"digests": ("Repr-Digest",)}, "other_file"),
    ],
    ids=["no validator", "no pin", "weak", "another tag", "another digest"],
)
async def test_a_mirror_of_which_nothing_is_known(
    twin: Twin, main: dict[str, Any], mirror: dict[str, Any], why: str
) -> None:
    """Another file of the same length is never mixed in, though the source is slow; that is told and counted."""
    order = await twin.order(main=main, faults={"rate_bytes_per_s": 4 * SLOW_BYTES_PER_S}, seed=8, **mirror)
    before = await twin.left_out(why)
    control = Control()
    result = await twin.bench.run(order, control)
    await twin.bench.check(order, result, SIZE)
    assert brought(result) == {0: SIZE}
    assert twin.asked_of_mirror() == []
    if main is not NO_VALIDATOR:
        # Without a version to pin there is one stream, and no part for another source.
        assert control.reasons == {1: why}
        assert await twin.left_out(why) == before + 1


async def test_a_mirror_that_is_shorter(twin: Twin) -> None:
    order = await twin.order()
    twin.mirror.add("copy.bin", size=SIZE - 1, seed=7)
    control = Control()
    result = await twin.bench.run(order, control)
    await twin.bench.check(order, result, SIZE)
    assert (brought(result), control.reasons) == ({0: SIZE}, {1: "other_file"})


async def test_doubt_is_no_way_out(twin: Twin) -> None:
    """Where the source dies half-way, a mirror of which nothing is known does not go on with its parts."""
    order = replace(await twin.order(faults={"status": 404, "status_after": 2}, **NO_VALIDATOR), connections=1)
    control = Control()
    error = await twin.bench.fails(order, SourceNotFound, control)
    assert {part.source for part in control.parts} == {0}
    assert twin.asked_of_mirror() == []
    assert twin.bench.origin.host_port in error.message
    await twin.bench.abort(control)


async def test_a_mirror_that_changes_half_way(twin: Twin) -> None:
    """Its next answer shows another version than it showed at first: it is left out, and nothing of that is in."""
    order = await twin.order(faults={"rate_bytes_per_s": 4 * SLOW_BYTES_PER_S}, changes_after=2)
    control = Control()
    result = await twin.bench.run(order, control)
    await twin.bench.check(order, result, SIZE)
    assert control.reasons == {1: "source_changed"}
    assert brought(result)[1] == PART


async def test_a_source_that_changes_half_way(twin: Twin) -> None:
    """The mirror still has the version that was pinned, and brings the rest of it."""
    order = await twin.order(faults={"changes_after": 2}, rate_bytes_per_s=4 * SLOW_BYTES_PER_S)
    control = Control()
    result = await twin.bench.run(order, control)
    await twin.bench.check(order, result, SIZE)
    assert control.reasons == {0: "source_changed"}


async def test_all_are_dead(twin: Twin) -> None:
    """Only then the lease fails: by what the source said, or by the one that may come back; all hosts are named."""
    order = await twin.order(faults={"status": 404, "status_after": 1}, status=404, status_after=2)
    control = Control()
    error = await twin.bench.fails(order, SourceNotFound, control)
    assert control.reasons == {0: "source_not_found", 1: "source_not_found"}
    assert (error.fault, error.retryable) == ("source", False)
    assert all(origin.host_port in error.message for origin in (twin.bench.origin, twin.mirror))
    await twin.bench.abort(control)
    order = await twin.order(faults={"status": 404, "status_after": 1}, status=500, status_after=2)
    control = Control()
    await twin.bench.fails(order, SourceFailed, control)
    await twin.bench.abort(control)


@pytest.mark.parametrize(("status", "spared"), [(404, {1}), (503, {0, 1})], ids=["one", "both"])
async def test_whose_second_tries_are_counted(
    twin: Twin, monkeypatch: pytest.MonkeyPatch, status: int, spared: set[int]
) -> None:
    """Of each origin that fails and may be asked again, by its own budget; what an origin brings is to its credit."""
    taken, credited = list[RetryBudget](), list[RetryBudget]()

    def take(budget: RetryBudget, _now_s: float) -> float:
        taken.append(budget)
        return 0.0

    def succeeded(budget: RetryBudget) -> None:
        credited.append(budget)

    monkeypatch.setattr(RetryBudget, "take", take)
    monkeypatch.setattr(RetryBudget, "succeeded", succeeded)
    order = await twin.order(faults={"status": status, "status_after": 1}, status=503, status_after=3)
    control = Control()
    await twin.bench.fails(order, SourceBusy, control)
    urls = [order.url, order.mirrors[0].url]
    main, mirror = (twin.bench.client.budget_of(url, SETTINGS) for url in urls)
    assert {[main, mirror].index(budget) for budget in taken} == spared
    assert main in credited
    assert mirror in credited
    await twin.bench.abort(control)


async def test_a_mirror_without_ranges(twin: Twin) -> None:
    """It brings no parts; where the source stops serving ranges, one stream of either is still a way."""
    order = await twin.order(ranges=False)
    result = await twin.bench.run(order)
    await twin.bench.check(order, result, SIZE)
    assert brought(result) == {0: SIZE}
    await twin.bench.sink.delete(order.key)
    order = await twin.order(faults={"status": 404}, ranges=False)
    result = await twin.bench.run(order)
    await twin.bench.check(order, result, SIZE)
    assert brought(result) == {1: SIZE}


@pytest.mark.parametrize("way", ["one stream", "small"])
async def test_a_source_that_is_gone_before_the_first_byte(twin: Twin, way: str) -> None:
    """Where the file comes in one piece, it comes from the mirror."""
    size = MIB if way == "small" else 2 * PART
    order = await twin.order(size, main=dict(WAYS.get(way, {})), faults={"status": 410})
    result = await twin.bench.run(order)
    await twin.bench.check(order, result, size)
    assert brought(result) == {1: size}


async def test_a_checksum_tells_in_the_end(twin: Twin) -> None:
    """With a checksum of the caller's the same length is enough to go on; other bytes are not published, and the next
    run does not mix.
    """
    checksum = f"sha256:{content_sha256(7, SIZE)}"
    gone = {"status": 404, "status_after": 2}
    for seed, kind in ((7, None), (8, ChecksumMismatch)):
        order = replace(await twin.order(faults=gone, seed=seed, **NO_VALIDATOR), checksum=checksum)
        control = Control()
        if kind is None:
            result = await twin.bench.run(order, control)
            await twin.bench.check(order, result, SIZE)
            assert brought(result)[1] >= SIZE - 2 * PART
            await twin.bench.sink.delete(order.key)
        else:
            await twin.bench.fails(order, kind, control)
            await twin.bench.abort(control)
    order = replace(await twin.order(faults=gone, seed=8, **NO_VALIDATOR), checksum=checksum, is_apart=True)
    control = Control()
    await twin.bench.fails(order, SourceNotFound, control)
    assert control.reasons == {0: "source_not_found", 1: "doubtful"}
    await twin.bench.abort(control)


async def test_a_mirror_where_nobody_may_go(twin: Twin) -> None:
    """The guard holds for mirrors, too: it is left out, and was not connected to."""
    order = await twin.order()
    async with Origin() as forbidden:
        url = forbidden.add("copy.bin", size=SIZE, seed=7)
        control = Control()
        result = await twin.bench.run(replace(order, mirrors=(Source(index=1, url=url),)), control)
    await twin.bench.check(order, result, SIZE)
    assert (control.reasons, forbidden.connections_count) == ({1: "egress_denied"}, 0)


async def test_what_the_caller_said_is_not_for_mirrors(twin: Twin) -> None:
    order = await twin.order(faults={"status": 404, "status_after": 2})
    order = replace(order, headers={"X-Key": "s3cr3t"})
    await twin.bench.check(order, await twin.bench.run(order), SIZE)
    assert {seen.headers.get("x-key") for seen in twin.bench.origin.requests} == {"s3cr3t"}
    assert {seen.headers.get("x-key") for seen in twin.mirror.requests} == {None}


# --- before anything is moved ---


def looking(twin: Twin) -> Callable[[Sequence[Source]], Awaitable[Metadata]]:
    async def look(source: Source) -> Metadata:
        found = await probe(
            HttpTransport(twin.bench.client),
            Link(source.url),
            filename=None,
            size_bytes_max=SIZE,
            timeout_s=20,
            clock=time.monotonic,
        )
        return replace(found, source=source.index)

    return partial(first_found, look=look)


async def test_a_source_without_the_file(twin: Twin) -> None:
    """The first mirror that answers is looked at in its place; where none does, all are named, without secrets."""
    main, mirror = twin.bench.origin, twin.mirror
    gone, there = Source(index=0, url=f"{main.base_url}/gone?t=s3cr3t"), mirror.add("there", size=PART, seed=7)
    silent = Source(index=2, url=mirror.add("silent", size=PART, silent=True))
    found = looking(twin)
    seen = await found([gone, Source(index=1, url=there), silent])
    assert (seen.source, seen.size_bytes, seen.final_url) == (1, PART, there)
    with pytest.raises(SourceNotFound) as caught:
        await found([gone, Source(index=1, url=f"{mirror.base_url}/gone")])
    assert all(origin.host_port in caught.value.message for origin in (main, mirror))
    assert "s3cr3t" not in caught.value.message
    with pytest.raises(SourceFailed):
        await found([gone, Source(index=1, url=mirror.add("failing", size=1, status=500))])
    with pytest.raises(SourceTooLarge):
        await found([Source(index=0, url=main.add("large", size=SIZE + 1)), Source(index=1, url=there)])
    with pytest.raises(SourceNotFound):
        await found([gone, Source(index=1, url="http://10.0.0.1/file")])
    with pytest.raises(EgressDenied):
        await found([Source(index=0, url="http://10.0.0.1/file"), replace(gone, index=1)])
