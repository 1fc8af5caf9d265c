"""A lease whose host bears fewer connections than it could use: its parts wait for one another, and none fails."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from lease_bench import PART, Bench, Control, Side, running
from origin import content_sha256

from rayhaul.errors import SourceBusy
from rayhaul.origins import HostGrant
from serve_app.seaweed import Seaweed
from tasks import gates
from tasks.gates import Gates

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


async def test_others_are_not_waited_for(bench: Bench) -> None:
    """A lease that has no connection there gives its slot back in time."""
    order = await bench.order(SIZE)
    granted = HostGrant(host=bench.origin.host_port, connections=1, version=1)
    assert bench.gates is not None
    gate = bench.gates.of(granted)
    assert gate is not None
    control = Control()
    async with gate.turn(lambda: None):
        await bench.fails(replace(order, grant=granted), SourceBusy, control)
    await bench.abort(control)
