"""A lease whose host bears fewer connections than it could use: its parts wait for one another, and none fails."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from lease_bench import PART, Bench, Control, Side, running, through
from origin import content_sha256

from rayhaul.errors import HostFull, SourceBusy
from rayhaul.lease import JobContext
from rayhaul.origins import HostGrant, Source
from serve_app.seaweed import Seaweed
from tasks import gates, intake
from tasks.gates import Gates
from tasks.intake import AT_AGENT
from tasks.links import Link, Links
from tasks.mirrors import AT_GATE, Supply
from tasks.pace import Line

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 6 * PART


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest.fixture
def bench(side: Side, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """One connection, for which nobody waits longer than a part takes."""
    monkeypatch.setattr(gates, "WAIT_S_MAX", 0.1)
    bench = Bench(side)
    bench.gates = Gates(time.monotonic)
    return bench


@pytest.mark.parametrize("checksum", [None, f"sha256:{content_sha256(7, SIZE)}"], ids=["streamed", "hashed in order"])
async def test_parts_wait_for_their_own_lease(bench: Bench, checksum: str | None) -> None:
    """However slow the host is: what its connection brings is progress, and the next part's turn comes."""
    order = await bench.order(SIZE, faults={"rate_bytes_per_s": 2 * PART})
    granted = HostGrant(host=bench.origin.host_port, connections=1, version=1)
    control = Control()
    result = await bench.run(replace(order, grant=granted, checksum=checksum), control)
    await bench.check(order, result, SIZE)
    assert bench.ranges() == [1, 2, 3, 4, 5, 6]
    assert control.bytes_done == SIZE


async def test_waiting_for_the_agent_s_own_connections_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than once while it lasts: however slow the sources of other leases are, this one does not stand still."""
    monkeypatch.setattr(intake, "_TELL_EVERY_S", 0.01)
    order = await bench.order(SIZE)
    control = Control()
    async with through(bench), asyncio.TaskGroup() as group:
        slots = bench.client.slots
        for _ in range(4):
            await slots.acquire()
        running = group.create_task(bench.run(order, control))
        async with asyncio.timeout(30):
            while control.doings.count(AT_AGENT) <= order.connections:
                await asyncio.sleep(0.01)
        assert bench.origin.requests == []
        for _ in range(4):
            slots.release()
        await bench.check(order, await running, SIZE)
    assert control.doings[-1] == "moving bytes"


async def test_others_are_not_waited_for(bench: Bench) -> None:
    """A lease that has no connection there gives its slot back in time, having tried nothing."""
    order = await bench.order(SIZE)
    granted = HostGrant(host=bench.origin.host_port, connections=1, version=1)
    assert bench.gates is not None
    gate = bench.gates.of(granted)
    assert gate is not None
    control = Control()
    async with gate.turn(lambda: None):
        await bench.fails(replace(order, grant=granted), HostFull, control)
    assert set(control.doings) == {AT_GATE}
    assert bench.origin.requests == []
    await bench.abort(control)


async def test_a_refusal_of_its_own_is_one(bench: Bench) -> None:
    """A lease that was itself told to go away was refused, whatever its other lanes hear of the pause."""
    order = await bench.order(SIZE, faults={"status": 429, "retry_after": "600"})
    granted = HostGrant(host=bench.origin.host_port, connections=1, version=1)
    control = Control()
    refused = await bench.fails(replace(order, grant=granted), SourceBusy, control)
    assert refused.retry_after_s == pytest.approx(600, abs=5)
    await bench.abort(control)
    # The next one is not asked to bear what this one did.
    full = await bench.fails(replace(order, grant=granted), HostFull, control)
    assert full.retry_after_s == pytest.approx(600, abs=5)
    assert len(bench.ranges()) == 1


async def test_the_next_turn_after_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortly after its own refusal, an order is told of the pause as of a refusal; later it is only in the way."""
    url = "http://127.0.0.1:1/file"
    supply = Supply(
        Source(index=0, url=url),
        Links(Link(url), context=JobContext(job_id="job_1", user_id="alice", correlation_id="c")),
        lambda _url: pytest.fail("nothing is asked here"),
        gate=Gates(time.monotonic).of(HostGrant(host="127.0.0.1:1", connections=1, version=1)),
        line=Line({}),
        pin=None,
    )

    async def take_a_turn(error: Exception | None = None) -> None:
        async with supply.turn(Control()):
            if error is not None:
                raise error

    with pytest.raises(SourceBusy):
        await take_a_turn(SourceBusy(retry_after_s=600))
    with pytest.raises(SourceBusy) as caught:
        await take_a_turn()
    assert type(caught.value) is SourceBusy
    assert caught.value.retry_after_s == pytest.approx(600, abs=5)
    monkeypatch.setattr(gates, "WAIT_S_MAX", 0.0)
    with pytest.raises(HostFull):
        await take_a_turn()
