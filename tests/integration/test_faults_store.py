"""Stores that fail or lie, through whole leases, by the fault matrix: SeaweedFS and rclone, lax and as strict as R2."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import pytest_asyncio
from lease_bench import PART, SETTINGS, WAYS, Bench, Control, Side, running
from origin import content_sha256
from rclone import rclone_server
from store_proxy import Fault, Operation

from rayhaul.errors import LeaseLost, SinkBusy, SinkRefused, UploadLost
from rayhaul.metrics import SINK_RETRIES_EXHAUSTED, SOURCE_BYTES
from rayhaul.policy.retry import RetryBudget
from rayhaul.settings import MIB
from serve_app.kept_store import KeptStore
from serve_app.seaweed import Seaweed
from tasks.budget import ByteBudget, Claim, Row

pytestmark = pytest.mark.asyncio(loop_scope="module")

STORES = ["seaweed", "seaweed, strict", "rclone", "rclone, strict"]
#: The two that differ most: with CRC-64/NVME and conditional writes, and without them, in R2's way.
UNLIKE = ["seaweed", "rclone, strict"]
TEN = SETTINGS.model_copy(update={"part_attempts_max": 10})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sides(store: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mapping[str, Side]]:
    async with AsyncExitStack() as stack:
        rclone = stack.enter_context(rclone_server(tmp_path_factory.mktemp("rclone")))
        settings = {"seaweed": store.settings, "rclone": rclone}
        yield {
            name: await stack.enter_async_context(
                running(settings[name.partition(",")[0]], strict=name.endswith("strict"))
            )
            for name in STORES
        }


@pytest.fixture(params=UNLIKE)
def bench(request: pytest.FixtureRequest, sides: Mapping[str, Side]) -> Bench:
    """One agent before each kind of store."""
    return Bench(sides[request.param])


@pytest.fixture(params=STORES)
def any_bench(request: pytest.FixtureRequest, sides: Mapping[str, Side]) -> Bench:
    return Bench(sides[request.param])


@pytest.fixture
def seaweed(sides: Mapping[str, Side]) -> Bench:
    return Bench(sides["seaweed"])


def source_bytes(bench: Bench) -> float:
    return bench.client._meter.snapshot().counters.get((SOURCE_BYTES.name, ()), 0)


@pytest.mark.parametrize(
    ("way", "size"), [("ranges", 0), ("ranges", 1000), ("ranges", 3 * PART + 1), ("unknown length", 2 * PART)]
)
async def test_the_object_is_the_file(any_bench: Bench, way: str, size: int) -> None:
    """Whatever the store knows of checksums, the object is the file."""
    bench = any_bench
    order = await bench.order(size, pinned=WAYS[way])
    await bench.check(order, await bench.run(order), size)


@pytest.mark.parametrize("seed", range(2))
async def test_f18_three_in_ten_requests_fail(bench: Bench, seed: int) -> None:
    """With every third request answered 500 or 503, all of it is there in the end, within the tries."""
    bad = [(0.15, Fault(status=500, code="InternalError")), (0.15, Fault(status=503, code="SlowDown"))]
    operations: Sequence[Operation] = ("upload_part", "put_object", "create", "complete", "list_parts", "head")
    bench.proxy.weather(Random(seed), dict.fromkeys(operations, bad))
    order = await bench.order(4 * PART + 3)
    result = await bench.run(order, settings=TEN)
    bench.proxy.reset()
    await bench.check(order, result, 4 * PART + 3)


async def test_f19_a_key_written_twice_a_second(sides: Mapping[str, Side]) -> None:
    """A 429 for a key that was written a moment ago is waited out, and no transfer of ours brings one upon itself."""
    bench = Bench(sides["seaweed, strict"])
    order = await bench.order(1000)
    bench.proxy.fail("put_object", Fault(status=429, code="TooManyRequests", headers={"Retry-After": "0"}), times=2)
    await bench.check(order, await bench.run(order), 1000)
    assert bench.proxy.count("put_object") == 3
    bench.proxy.write_every_s = 3600
    for name, size in (("one.bin", 1000), ("parts.bin", 3 * PART)):
        order = replace(await bench.order(size), key=f"{bench.prefix}/{name}")
        await bench.check(order, await bench.run(order), size)
    with pytest.raises(SinkBusy, match="TooManyRequests"):
        await bench.run(order)


CUTS = [
    Fault(status=400, code="IncompleteBody"),
    Fault(status=400, code="ClientDisconnect"),
    Fault(status=400),
    Fault(cut_after=MIB),
    Fault(drop_answer=True),
]


@pytest.mark.parametrize("fault", CUTS, ids=["IncompleteBody", "ClientDisconnect", "400", "cut", "lost answer"])
async def test_f20_a_body_cut_on_its_way(bench: Bench, fault: Fault) -> None:
    """A 400 that means a cut body, and a cut itself, costs one part more."""
    bench.proxy.fail("upload_part", fault, part=2)
    order = await bench.order(3 * PART)
    await bench.check(order, await bench.run(order), 3 * PART)
    assert [bench.proxy.count("upload_part", part) for part in (1, 2, 3)] == [1, 2, 1]


async def test_f21_a_bit_flipped_on_its_way(bench: Bench) -> None:
    """What the store received is compared, by its CRC-64/NVME or its ETag; other bytes are sent again."""
    bench.proxy.fail("put_object", Fault(flip_bit=True))
    order = await bench.order(1000)
    await bench.check(order, await bench.run(order), 1000)
    assert bench.proxy.count("put_object") == 2


async def test_f21_a_bit_of_a_part_flipped_on_its_way(seaweed: Bench) -> None:
    """That part alone is sent again."""
    bench = seaweed
    bench.proxy.fail("upload_part", Fault(flip_bit=True))
    order = await bench.order(3 * PART)
    await bench.check(order, await bench.run(order), 3 * PART)
    assert bench.proxy.count("upload_part") == 4


async def test_f21_a_part_that_cannot_be_replaced(sides: Mapping[str, Side]) -> None:
    """Rclone passes the first part on as it comes, and takes no other bytes for it: a new upload is begun."""
    bench = Bench(sides["rclone, strict"])
    bench.proxy.fail("upload_part", Fault(flip_bit=True))
    order = replace(await bench.order(3 * PART), connections=1)
    control = Control()
    await bench.fails(order, UploadLost, control)
    assert (control.parts, bench.proxy.count("complete")) == ([], 0)
    await bench.abort(control)
    again = replace(order, lease_id="lease_2", epoch=2)
    await bench.check(again, await bench.run(again), 3 * PART)


async def test_f22_complete_whose_answer_is_lost(bench: Bench) -> None:
    """The object that was published is found and taken: nothing is read or sent again."""
    bench.proxy.fail("complete", Fault(drop_answer=True))
    order = await bench.order(3 * PART)
    before = source_bytes(bench)
    await bench.check(order, await bench.run(order, settings=TEN), 3 * PART)
    assert source_bytes(bench) - before == 3 * PART
    assert bench.proxy.count("upload_part") == 3


async def test_f23_an_error_inside_a_200(bench: Bench) -> None:
    """A 200 to Complete whose body is an error is a failure, and tried again."""
    bench.proxy.fail("complete", Fault(status=200, code="InternalError"))
    order = await bench.order(3 * PART)
    await bench.check(order, await bench.run(order), 3 * PART)
    assert bench.proxy.count("complete") == 2


async def test_f24_an_upload_that_vanishes(bench: Bench) -> None:
    """NoSuchUpload ends the lease; the next one, with a new session, publishes."""
    bench.proxy.fail("upload_part", Fault(status=404, code="NoSuchUpload"))
    order = replace(await bench.order(3 * PART), connections=1)
    control = Control()
    await bench.fails(order, UploadLost, control)
    await bench.abort(control)
    again = replace(order, lease_id="lease_2", epoch=2)
    await bench.check(again, await bench.run(again), 3 * PART)


@pytest.mark.parametrize("lie", [{"hide_part": 1}, {"invent_part": 3}, {"hide_part": 2, "invent_part": 4}])
async def test_f25_a_list_of_parts_that_lies(bench: Bench, lie: dict[str, int]) -> None:
    """A part that the store does not show is sent again; one that we do not know of is not believed."""
    order = replace(await bench.order(4 * PART), connections=1)
    control = Control(lose_at="after 2 parts")
    await bench.fails(order, LeaseLost, control)
    bench.proxy.seen.clear()
    bench.proxy.fail("list_parts", Fault(**lie))  # type: ignore[arg-type] # the names are its fields
    order = replace(order, session=control.session, parts_done=tuple(control.parts), epoch=2, lease_id="lease_2")
    await bench.check(order, await bench.run(order), 4 * PART)
    sent = {seen.part for seen in bench.proxy.seen if seen.operation == "upload_part"}
    assert sent == {3, 4} | ({lie["hide_part"]} if "hide_part" in lie else set())


async def test_f26_an_outage_is_ridden_out(bench: Bench) -> None:
    """A store that is away for as long as the tries last is waited for; no part that was in is sent again."""
    order = await bench.order(4 * PART)
    patient = SETTINGS.model_copy(update={"part_attempts_max": 9, "retry_base_s": 0.1, "retry_cap_s": 2})

    async def outage() -> None:
        bench.proxy.is_down = True
        await asyncio.sleep(1)
        bench.proxy.is_down = False

    outages: list[asyncio.Task[None]] = []

    def begin() -> None:
        if not outages:
            outages.append(asyncio.create_task(outage()))

    control = Control(on_part=begin)
    # Complete comes within the outage where all parts were through before it.
    usual, bench.sink.calls._retries = bench.sink.calls._retries, patient
    try:
        await bench.check(order, await bench.run(order, control, settings=patient), 4 * PART)
    finally:
        bench.sink.calls._retries = usual
    assert len(control.parts) == 4


async def test_f26_a_store_that_dies_is_started_again(tmp_path: Path) -> None:
    """The embedded store is killed in the middle of a job and comes back: no part that was in is sent again."""
    store = Seaweed(tmp_path)
    kept = KeptStore(store)
    await asyncio.to_thread(kept.start)
    killed: dict[int, set[int]] = {}

    def kill() -> None:
        if len(control.parts) == 2 and not killed:
            killed[store.pid] = {part.number for part in control.parts}
            os.kill(store.pid, signal.SIGKILL)

    control = Control(on_part=kill)
    patient = SETTINGS.model_copy(update={"part_attempts_max": 40, "retry_base_s": 0.2, "retry_cap_s": 0.5})
    try:
        async with running(store.settings) as side:
            bench = Bench(side)
            bench.sink.calls._retries = patient
            order = replace(await bench.order(8 * PART), connections=2)
            await bench.check(order, await bench.run(order, control, settings=patient), 8 * PART)
            ((pid, were_in),) = killed.items()
            assert store.pid != pid
            assert len(were_in) == 2
            assert all(bench.proxy.count("upload_part", number) == 1 for number in were_in)
            assert sorted(part.number for part in control.parts) == list(range(1, 9))
    finally:
        # It would take three seconds to end by itself.
        os.kill(store.pid, signal.SIGKILL)
        await asyncio.to_thread(kept.stop)


async def test_an_outage_is_not_hammered(seaweed: Bench) -> None:
    """While the store is down, second tries come at the budget's pace, however many parts wait for it."""
    bench = seaweed
    budget, bench.sink.calls.budget = bench.sink.calls.budget, RetryBudget(tokens_max=2, refill_per_s=8)
    try:
        order = replace(await bench.order(8 * PART), connections=8)
        bench.proxy.fail("upload_part", Fault(status=503, code="SlowDown"), times=20)
        began_s = asyncio.get_running_loop().time()
        await bench.check(order, await bench.run(order, settings=TEN), 8 * PART)
        took_s = asyncio.get_running_loop().time() - began_s
        # Twenty retries, two at once, a few paid for by what got through, eight a second.
        assert took_s >= (20 - 2 - 3) / 8
    finally:
        bench.sink.calls.budget = budget


@pytest.mark.parametrize("code", ["AccessDenied", "RequestTimeTooSkewed"])
@pytest.mark.parametrize("operation", ["create", "upload_part"])
async def test_f27_f28_a_bucket_that_refuses_us(bench: Bench, operation: Operation, code: str) -> None:
    """Credentials that are gone, and a clock that is wrong, are told as such, after one request and not a storm."""
    bench.proxy.fail(operation, Fault(status=403, code=code), times=100)
    order = replace(await bench.order(3 * PART), connections=1)
    control = Control()
    error = await bench.fails(order, SinkRefused, control)
    assert code in error.message
    assert bench.proxy.count(operation) == 1
    bench.proxy.reset()
    if control.session is not None:
        await bench.abort(control)


async def test_the_last_try_is_counted(bench: Bench) -> None:
    """A part that fails five times ends the lease, and the count of exhausted retries tells of it."""
    five = SETTINGS.model_copy(update={"part_attempts_max": 5})
    bench.proxy.fail("upload_part", Fault(status=503, code="SlowDown"), times=100)
    before = bench.sink.meter.snapshot().counters.get((SINK_RETRIES_EXHAUSTED.name, ()), 0)
    control = Control()
    order = replace(await bench.order(3 * PART), connections=1)
    await bench.fails(order, SinkBusy, control, settings=five)
    assert bench.proxy.count("upload_part") == 5
    assert bench.sink.meter.snapshot().counters[SINK_RETRIES_EXHAUSTED.name, ()] == before + 1
    bench.proxy.reset()
    await bench.abort(control)


class CountedBudget(ByteBudget):
    claims_count = 0

    def claim(self, wanted_bytes: int, row: Row | None = None) -> Claim:
        self.claims_count += 1
        return super().claim(wanted_bytes, row)


async def test_a_slow_origin_lets_no_put_idle(bench: Bench) -> None:
    """A PUT that waits for its source is broken off; from then on parts are read before they are sent."""
    order = replace(await bench.order(3 * PART, faults={"stall_after": MIB, "faults_max": 1}), connections=1)
    impatient = SETTINGS.model_copy(update={"put_idle_s_max": 0.3})
    bench.memory = CountedBudget(PART)
    await bench.check(order, await bench.run(order, settings=impatient), 3 * PART)
    assert bench.ranges() == [1, 1, 2, 3]
    assert bench.memory.peak_bytes == PART
    assert bench.memory.claims_count == 3, "the part that was broken off, and all after it"


async def test_a_checksum_on_every_store(bench: Bench) -> None:
    """A caller's checksum is compared before publishing, whatever the store can tell."""
    size = 2 * PART + 1
    order = replace(await bench.order(size), checksum=f"sha256:{content_sha256(7, size)}")
    result = await bench.run(order)
    await bench.check(order, result, size)
    assert result.sha256 == content_sha256(7, size)
