"""Origin hosts under the whole service: the budget of the cluster, and a host that refuses more than it bears."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from inprocess import PART_BYTES, Service, quick_settings, running_service
from origin import Origin

from rayhaul import AsyncClient
from rayhaul.job import JobStatus
from rayhaul.settings import HostsSettings
from rayhaul.wire import HostView
from serve_app.seaweed import Seaweed

#: Of a connection: a part takes half a second.
SLOW_BYTES_PER_S = 2 * PART_BYTES
BUDGET = 8
#: Without any budget it is a hundred and more.
REFUSED_MAX = 40


@pytest.fixture
async def service(tmp_path: Path, store: Seaweed) -> AsyncIterator[Service]:
    settings = quick_settings(
        store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}),
        hosts=HostsSettings(connections_max=BUDGET, regrow_s=4),
    )
    async with running_service(tmp_path, settings) as running:
        yield running


async def looked(operator: AsyncClient, seen: list[HostView]) -> None:
    while True:
        seen += await operator.hosts()
        await asyncio.sleep(0.05)


async def test_a_host_that_refuses(service: Service) -> None:
    """One origin bears three connections and answers 429 to more: soon it hardly has to, nobody waits for it at the
    other one, which gets all that the budget allows and never more; and all files arrive.
    """
    async with (
        Origin() as strict,
        Origin() as fine,
        AsyncClient(service.url, service.alice) as alice,
        AsyncClient(service.url, service.operator) as operator,
    ):
        seen: list[HostView] = []
        looking = asyncio.create_task(looked(operator, seen))
        slow = [
            await alice.submit(strict.add(name, size=8 * PART_BYTES, rate_bytes_per_s=SLOW_BYTES_PER_S))
            for name in ("a", "b")
        ]
        strict.requests_max = 3
        quick = [
            await alice.submit(fine.add(name, size=8 * PART_BYTES, rate_bytes_per_s=SLOW_BYTES_PER_S))
            for name in ("c", "d", "e")
        ]
        for job in [*quick, *slow]:
            assert (await alice.wait(job.id, timeout_s=100)).status is JobStatus.COMPLETED
        looking.cancel()
        of_strict = [host for host in seen if host.host == strict.host_port]
        assert 1 <= min(host.connections_max for host in of_strict) <= 3
        assert any(host.backing_off_until is not None for host in of_strict)
        assert 0 < strict.refused_count <= REFUSED_MAX
        of_fine = [host for host in seen if host.host == fine.host_port]
        assert {(host.connections_max, host.backing_off_until) for host in of_fine} == {(BUDGET, None)}
        assert max(host.bytes_per_second for host in of_fine) > 0
        assert BUDGET // 2 <= fine.requests_under_way_max <= BUDGET
        assert fine.refused_count == 0
