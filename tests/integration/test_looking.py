"""Looks at metadata keep to what their agent was granted at the host, and are patient."""

import asyncio
import time

import pytest
from fetching import SIZE, Connect
from origin import Origin

from actors import looking
from actors.looking import Looking
from rayhaul.errors import HostFull, SourceBusy
from rayhaul.lease import JobContext, ProbeOrder
from rayhaul.origins import HostGrant, Source
from rayhaul.settings import Settings
from tasks import gates
from tasks.gates import Gates
from tasks.links import Refresh
from tasks.transports import Transports


class Looker:
    """An agent's looks, by HTTP."""

    def __init__(self, connect: Connect, origin: Origin, *others: str) -> None:
        client, settings = connect(*others), Settings()
        self.origin = origin
        self.gates = Gates(time.monotonic)
        self.looking = Looking(
            settings,
            transports=Transports(client),
            gates=self.gates,
            refresh=Refresh(client, settings.webhook, new_id="{}_1".format, clock=time.time),
            monotonic=time.monotonic,
        )

    def grant(self, connections: int, version: int = 1) -> HostGrant:
        return HostGrant(host=self.origin.host_port, connections=connections, version=version)

    def order(self, url: str, grant: HostGrant | None, *mirrors: str) -> ProbeOrder:
        return ProbeOrder(
            order_id="order_1",
            context=JobContext(job_id="job_1", user_id="alice", correlation_id="corr-12345"),
            url=url,
            headers={},
            filename=None,
            size_bytes_max=None,
            mirrors=tuple(Source(index=index, url=url, grant=grant) for index, url in enumerate(mirrors, 1)),
            grant=grant,
        )


@pytest.fixture
def looker(connect: Connect, origin: Origin) -> Looker:
    return Looker(connect, origin)


async def test_one_connection_for_many_looks(looker: Looker, origin: Origin) -> None:
    """Looks at sources, and at mirrors of one that has nothing, take their turns where the host bears one request."""
    urls = [origin.add(f"{number}.bin", size=SIZE, rate_bytes_per_s=25) for number in range(2)]
    one = looker.grant(1)
    orders = [looker.order(url, one) for url in urls]
    orders.append(looker.order(f"{origin.base_url}/none.bin", one, *urls))
    found = await asyncio.gather(*map(looker.looking.look, orders))
    assert [metadata.size_bytes for metadata in found] == [SIZE] * len(orders)
    assert found[-1].source > 0
    assert origin.requests_under_way_max == 1


async def test_a_look_waits_longer_than_a_transfer(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks nothing before it may, fails late, and what it waited for in vain is not told as the host's refusal."""
    monkeypatch.setattr(gates, "WAIT_S_MAX", 0.01)
    order = looker.order(looker.origin.add("f.bin", size=SIZE), looker.grant(0))
    look = asyncio.create_task(looker.looking.look(order))
    await asyncio.sleep(0.1)
    assert not look.done()
    assert not looker.origin.requests
    looker.gates.take([looker.grant(1, version=2)])
    assert (await look).size_bytes == SIZE
    monkeypatch.setattr(looking, "LOOK_WAIT_S_MAX", 0.05)
    looker.gates.take([looker.grant(0, version=3)])
    with pytest.raises(HostFull):
        await looker.looking.look(order)
    assert len(looker.origin.requests) == 1
    (use,) = looker.gates.uses({order.grant.host} if order.grant else ())
    assert (use.connections, use.refused_ago_s) == (0, None)


@pytest.mark.parametrize("is_granted", [True, False])
async def test_a_host_that_refuses_a_look(looker: Looker, *, is_granted: bool) -> None:
    """Its pause is told, whether its scheduler counts looks or not."""
    url = looker.origin.add("f.bin", size=SIZE)
    looker.origin.requests_max = 0
    with pytest.raises(SourceBusy):
        await looker.looking.look(looker.order(url, looker.grant(1) if is_granted else None))
    (use,) = looker.gates.uses(())
    assert use.refused_ago_s is not None
    assert 0 < use.pause_s <= 1


async def test_a_host_that_leads_to_one_that_refuses(origin: Origin, connect: Connect) -> None:
    """Both are slowed: where else the first one would lead, nobody knows."""
    async with Origin() as other:
        looker = Looker(connect, origin, other.host_port)
        other.add("f.bin", size=SIZE, status=503, retry_after="3")
        url = origin.add("f.bin", redirect_to=f"{other.base_url}/f.bin")
        for grant in (looker.grant(1), None):
            with pytest.raises(SourceBusy):
                await looker.looking.look(looker.order(url, grant))
            uses = {use.host: use for use in looker.gates.uses(())}
            assert uses.keys() == {origin.host_port, other.host_port}
            assert all(2 < use.pause_s <= 3 for use in uses.values())
            looker.gates = looker.looking._gates = Gates(time.monotonic)
