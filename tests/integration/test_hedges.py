"""Parts that crawl, on one agent: a second request brings them, no upload is broken, and no wrong byte gets in."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from lease_bench import PART, SETTINGS, Bench, Control, Side, running
from origin import content_sha256

from rayhaul.errors import SourceTruncated
from rayhaul.lease import TransferOrder
from rayhaul.metrics import HEDGES, SOURCE_BYTES
from rayhaul.policy import hedging as policy
from rayhaul.policy.retry import RetryBudget
from rayhaul.settings import MIB
from serve_app.seaweed import Seaweed
from tasks import hedging
from tasks.budget import Claim

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 5 * PART + 3
ALL = [1, 2, 3, 4, 5, 6]
#: In the third part; by itself that one would take four minutes.
PATIENT = SETTINGS.model_copy(update={"part_attempts_max": 5})
HASTY = SETTINGS.model_copy(update={"part_attempts_max": 1})
DRIP: dict[str, object] = {"drips_at": (2 * PART + 1000,), "faults_max": 1}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest.fixture
def bench(side: Side, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(policy, "_AFTER_S", 0.3)
    monkeypatch.setattr(hedging, "_LOOK_EVERY_S", 0.05)
    return Bench(side)


def counted(bench: Bench) -> dict[str, float]:
    """Return how many hedges were won, lost and failed so far, and the bytes read."""
    hedges = bench.sink.meter.snapshot().counters
    found = {result: hedges.get((HEDGES.name, (result,)), 0.0) for result in ("won", "lost", "failed")}
    return {**found, "bytes": bench.client._meter.snapshot().counters.get((SOURCE_BYTES.name, ()), 0.0)}


def in_order(order: TransferOrder) -> TransferOrder:
    """Return the order with a checksum, for which all bytes are read from first to last."""
    return replace(order, checksum=f"sha256:{content_sha256(7, order.pin.size_bytes or 0)}")


def since(bench: Bench, before: dict[str, float]) -> dict[str, float]:
    return {name: count - before[name] for name, count in counted(bench).items()}


async def test_f04_a_part_that_drips_is_hedged(bench: Bench) -> None:
    """Its upload goes on with what the second request brought: one PUT for each part, at most one part read twice."""
    order = await bench.order(SIZE, faults=DRIP)
    control, before = Control(), counted(bench)
    # Without a hedge it would take minutes.
    async with asyncio.timeout(60):
        result = await bench.run(order, control)
    await bench.check(order, result, SIZE)
    found = since(bench, before)
    assert (found["won"], found["lost"], found["failed"]) == (1, 0, 0)
    assert bench.ranges() == sorted([*ALL, 3])
    assert [bench.proxy.count("upload_part", part) for part in ALL] == [1] * 6, "an upload was broken"
    assert found["bytes"] <= SIZE + PART
    assert control.bytes_done == SIZE


async def test_a_hedge_that_brings_other_bytes(bench: Bench) -> None:
    """Nobody can tell which of two answers is right: the part is read anew, and neither gets into the file."""
    order = await bench.order(SIZE, faults={**DRIP, "flip_at": 2 * PART + 5, "faults_max": 2})
    control = Control()
    await bench.check(order, await bench.run(order, control), SIZE)
    assert bench.ranges() == sorted([*ALL, 3, 3])
    assert control.bytes_done == SIZE


async def test_a_hedge_that_loses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request is quicker after all: what the second one has read counts for nothing, the rest as ever."""
    monkeypatch.setattr(policy, "slowest", lambda ways, _rates: min(ways, default=None))
    drips = {"drips_at": (2 * PART - 1,)}
    order = await bench.order(2 * PART, faults={**drips, "drip_bytes_per_s": PART})
    # What is asked for once the first part is in comes slower still.
    control = Control(on_part=lambda: bench.origin.add("file.bin", size=2 * PART, seed=7, **drips))
    before = counted(bench)
    await bench.check(order, await bench.run(order, control), 2 * PART)
    found = since(bench, before)
    assert (found["won"], found["lost"], found["failed"]) == (0, 1, 0)
    assert control.bytes_done == 2 * PART
    assert bench.proxy.count("upload_part") == 2


async def test_a_twin_that_is_stopped_breaks_no_upload(bench: Bench) -> None:
    """It reads before it sends: while all of its parts are on their way, the store hears nothing of them."""
    order = replace(await bench.order(3 * PART, faults={"stall_after": PART // 2}), is_twin=True)
    control = Control()
    running = asyncio.create_task(bench.carry_out(order, control))
    async with asyncio.timeout(30):
        while control.bytes_done < 3 * (PART // 2):
            control.moved.clear()
            await control.moved.wait()
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert control.bytes_done == 0
    assert (bench.proxy.count("create"), bench.proxy.count("upload_part")) == (1, 0)
    await bench.abort(control)


async def test_a_part_that_is_read_before_it_is_sent_is_hedged(bench: Bench) -> None:
    """What the first request has read by then is dropped: the hedge is all of the part."""
    order = replace(await bench.order(SIZE, faults=DRIP), is_twin=True)
    control, before = Control(), counted(bench)
    async with asyncio.timeout(60):
        result = await bench.run(order, control)
    await bench.check(order, result, SIZE)
    assert since(bench, before)["won"] == 1
    assert [bench.proxy.count("upload_part", part) for part in ALL] == [1] * 6
    assert control.bytes_done == SIZE


async def test_f04_a_part_that_drips_where_all_are_read_in_order(bench: Bench) -> None:
    """A job with a checksum is read by one connection; another one asks for what crawls on that."""
    order = in_order(await bench.order(SIZE, faults=DRIP))
    control, before = Control(), counted(bench)
    async with asyncio.timeout(60):
        result = await bench.run(order, control)
    await bench.check(order, result, SIZE)
    assert result.sha256 == content_sha256(7, SIZE)
    found = since(bench, before)
    assert (found["won"], found["lost"], found["failed"]) == (1, 0, 0)
    assert bench.ranges() == sorted([*ALL, 3])
    assert [bench.proxy.count("upload_part", part) for part in ALL] == [1] * 6
    assert control.bytes_done == SIZE


async def test_a_job_that_may_have_one_connection_has_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "slowest", lambda ways, _rates: min(ways, default=None))
    order = in_order(await bench.order(2 * PART, faults={"drips_at": (1000,), "drip_bytes_per_s": 10 * PART}))
    before = counted(bench)
    await bench.check(order, await bench.run(replace(order, connections=1)), 2 * PART)
    assert set(since(bench, before).values()) == {0, 2 * PART}
    assert bench.ranges() == [1, 2]


async def test_a_source_that_refuses_ranges_where_all_are_read_in_order(bench: Bench) -> None:
    """One stream takes over, and nobody stands by for it any more."""
    order = in_order(await bench.order(SIZE, faults={"ranged_status": 416, "ranged_status_after": 2}))
    control = Control()
    await bench.check(order, await bench.run(order, control), SIZE)
    assert control.bytes_done == SIZE


@pytest.mark.parametrize("cut_by", ["fin", "rst"])
async def test_f02_a_cut_breaks_no_upload(bench: Bench, cut_by: str) -> None:
    """The PUT waits while the part is asked for once more, and goes on with what that request brought."""
    order = await bench.order(SIZE, faults={"truncate_after": PART // 3, "truncate_by": cut_by, "faults_max": 2})
    control, before = Control(), counted(bench)
    await bench.check(order, await bench.run(order, control), SIZE)
    assert [bench.proxy.count("upload_part", part) for part in ALL] == [1] * 6
    assert bench.proxy.broken == []
    found = since(bench, before)
    assert (found["won"], found["failed"]) == (2, 0)
    assert len(bench.ranges()) == len(ALL) + 2
    assert found["bytes"] <= SIZE + 2 * (PART // 3 + MIB)
    assert control.bytes_done == SIZE


async def test_a_cut_after_wrong_bytes(bench: Bench) -> None:
    """What the store has of the part is not what the second request brings: that upload is given up."""
    # More than stands in buffers: of a few bytes none may have been sent, and all would be well.
    order = await bench.order(SIZE, faults={"truncate_after": PART // 2, "flip_at": 5, "faults_max": 2})
    control = Control()
    await bench.check(order, await bench.run(replace(order, connections=1), control), SIZE)
    assert bench.ranges() == [1, 1, *ALL]
    assert bench.proxy.count("upload_part", 1) == 2
    assert control.bytes_done == SIZE


async def test_a_source_that_cuts_again_and_again(bench: Bench) -> None:
    """One upload is broken at most: the third request is read before it is sent."""
    order = replace(await bench.order(SIZE, faults={"truncate_after": 2000, "faults_max": 3}), connections=1)
    control = Control()
    await bench.check(order, await bench.run(order, control, settings=PATIENT), SIZE)
    assert len(bench.proxy.broken) <= 1
    assert bench.proxy.count("upload_part") <= len(ALL) + 1
    assert control.bytes_done == SIZE


async def test_a_cut_without_memory_for_a_second_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    order = await bench.order(SIZE, faults={"truncate_after": 2000, "faults_max": 1})
    control, before = Control(), counted(bench)
    monkeypatch.setattr(Claim, "may_step", False)
    with pytest.raises(SourceTruncated):
        await bench.run(order, control, settings=HASTY)
    assert since(bench, before)["won"] == 0
    await bench.abort(control)


async def test_a_cut_of_a_host_that_is_to_be_spared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is not answered by all its PUTs at once: without a token the upload is given up instead."""
    monkeypatch.setattr(RetryBudget, "take", lambda _self, _now_s: 3600.0)
    order = await bench.order(SIZE, faults={"truncate_after": 2000, "faults_max": 1})
    before = counted(bench)
    control = Control()
    with pytest.raises(SourceTruncated):
        await bench.run(order, control)
    assert len(bench.ranges()) <= len(ALL)
    found = since(bench, before)
    assert (found["won"], found["lost"], found["failed"]) == (0, 0, 0)
    await bench.abort(control)
