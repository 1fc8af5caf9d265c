"""A host that redirects to another one: who refuses is slowed, and who does not is left as it was."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from lease_bench import PART, Bench, Control, Side, running, through
from origin import Origin

from actors.holding import Held
from rayhaul.errors import HostFull
from rayhaul.lease import TransferOrder
from rayhaul.origins import HostGrant, host_of
from serve_app.seaweed import Seaweed
from tasks.gates import WAIT_S_MAX, Gates
from tasks.probe import ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 3 * PART


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest_asyncio.fixture(loop_scope="module")
async def door() -> AsyncIterator[Origin]:
    async with Origin() as door:
        yield door


@pytest_asyncio.fixture(loop_scope="module")
async def bench(side: Side, door: Origin) -> AsyncIterator[Bench]:
    bench = Bench(side)
    bench.gates = Gates(asyncio.get_running_loop().time)
    async with through(bench, door.host_port):
        yield bench


async def order_through(bench: Bench, door: Origin) -> TransferOrder:
    """Return an order for a file that the door leads to."""
    url = door.add("file.bin", redirect_to=bench.origin.add("file.bin", size=SIZE, seed=7))
    pin, _ = await ask(bench.client, url, {}, None)
    order = bench.order_for(url, pin)
    assert host_of(order.pin.final_url) == bench.origin.host_port
    door.requests.clear()
    return replace(order, grant=HostGrant(host=bench.origin.host_port, connections=4, version=1))


def refused(bench: Bench) -> set[str]:
    assert bench.gates is not None
    return {use.host for use in bench.gates.uses(()) if use.refused_ago_s is not None}


async def test_who_leads_on_refuses(bench: Bench, door: Origin) -> None:
    """The host of the bytes is not slowed for it, and the file comes once the other one lets us by."""
    order = await order_through(bench, door)
    # The second request: the first one was to find the file.
    door.add("file.bin", redirect_to=order.pin.final_url, statuses=(429,), retry_after="0")
    await bench.check(order, await bench.run(order), SIZE)
    assert refused(bench) == {door.host_port}
    # It is told of while there are orders that it leads on, so that its pauses are heard of, too.
    assert bench.gates is not None
    bench.gates.settle(bench.gates.uses(()), asyncio.get_running_loop().time())
    assert {use.host for use in bench.gates.uses(Held(order).hosts)} == {door.host_port}


async def test_who_has_the_bytes_refuses(bench: Bench, door: Origin) -> None:
    order = await order_through(bench, door)
    bench.origin.add("file.bin", size=SIZE, seed=7, statuses=(503,), retry_after="0")
    await bench.check(order, await bench.run(order), SIZE)
    assert refused(bench) == {bench.origin.host_port}


async def test_who_leads_on_rests(bench: Bench, door: Origin) -> None:
    """While it asked to be left alone nothing is asked of it, though the host of the bytes would bear it."""
    order = await order_through(bench, door)
    assert bench.gates is not None
    bench.gates.on_the_way(door.host_port).refuse(WAIT_S_MAX + 60)
    control = Control()
    busy = await bench.fails(order, HostFull, control)
    assert (busy.retry_after_s or 0.0) > WAIT_S_MAX
    assert door.requests == []
    await bench.abort(control)
    # For a while it is waited for.
    bench.gates = Gates(asyncio.get_running_loop().time)
    bench.gates.on_the_way(door.host_port).refuse(0.5)
    began_s = asyncio.get_running_loop().time()
    await bench.check(order, await bench.run(order), SIZE)
    assert asyncio.get_running_loop().time() - began_s >= 0.5
