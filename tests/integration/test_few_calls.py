"""What many small things share: connections, threads, calls between processes, and commits of the ledger."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from control_rig import rig_with
from lease_bench import PART, Bench, Side, running

from rayhaul.job import JobStatus
from rayhaul.metrics import Meter
from serve_app.seaweed import Seaweed
from tasks.sink import Sink

pytestmark = pytest.mark.asyncio(loop_scope="module")

_JOBS = 100


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest.fixture
def bench(side: Side) -> Bench:
    return Bench(side)


def counted(calls: list[str], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the call, which then writes its name down each time."""

    async def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        return await call(*arguments, **named)

    return counting


async def test_connections_are_kept(bench: Bench) -> None:
    """Eight parts on three connections to the source and three to the store; a second file needs no others."""
    for seed in (7, 8):
        before = bench.origin.connections_count
        order = replace(await bench.order(8 * PART, seed=seed), connections=3)
        await bench.check(order, await bench.run(order), 8 * PART, seed=seed)
        await bench.sink.delete(order.key)
        assert bench.ranges() == list(range(1, 9))
        assert bench.origin.connections_count - before <= 3
    puts = [seen for seen in bench.proxy.seen if seen.operation == "upload_part"]
    assert len(puts) == 16
    assert len({seen.peer for seen in puts}) <= 3


async def test_calls_of_the_store_have_few_threads(bench: Bench) -> None:
    """More calls than `threads_max` wait for one another, and all are answered."""
    settings = bench.proxy.settings.model_copy(update={"threads_max": 2})
    others = threads()
    async with Sink(settings, meter=Meter(), connections_max=8) as sink:
        found = await asyncio.gather(*(sink.head(f"nothing/{number}") for number in range(20)))
        assert len(threads() - others) == 2
    assert found == [None] * 20
    assert bench.proxy.count("head") == 20


def threads() -> set[int]:
    """Return those that speak to stores."""
    return {each.native_id or 0 for each in threading.enumerate() if each.name.startswith("sink")}


async def test_small_jobs_share_calls_and_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred jobs that an agent has slots for: one order for all, one report of all, no commit for each."""
    slots = {"slots": _JOBS, "probe_slots": _JOBS}
    async with rig_with(agent=slots, hosts={"connections_max": _JOBS}) as rig:
        (agent,) = await rig.begin(1)
        calls: list[str] = []
        monkeypatch.setattr(type(rig.pool), "assign", counted(calls, "assign", type(rig.pool).assign))
        monkeypatch.setattr(type(rig.ledger), "commit", counted(calls, "commit", type(rig.ledger).commit))
        job_ids = await rig.running(_JOBS)
        assert len(agent.transfers) == _JOBS
        for order in list(agent.transfers):
            agent.tell_done(order)
        await agent.report()
        await rig.tick()
        assert set((await rig.statuses(job_ids)).values()) == {JobStatus.COMPLETED}
        # One for the looks, one for the transfers.
        assert calls.count("assign") == 2
        # Accepted, looked at, begun, ended: each a turn for all, and what such a turn leaves to the next.
        assert 0 < calls.count("commit") <= 8
