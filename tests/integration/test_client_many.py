"""Many jobs at once: asked for lazily, and waited for by one stream, however often it breaks."""

import asyncio
import gc
import tracemalloc
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from faulty_api import COMPLETES, FAILS, IS_CANCELLED, Fault, FaultyApi, running_faulty_api

from rayhaul import AsyncClient, Client, WaitTimeout
from rayhaul.client.errors import NotFound, ServiceFailed
from rayhaul.client.many import Tally
from rayhaul.ids import ID_BYTES, IdFactory

SCRIPTS = (COMPLETES, FAILS, IS_CANCELLED)


@pytest.fixture
async def api() -> AsyncIterator[FaultyApi]:
    async with running_faulty_api() as api:
        yield api


@pytest.fixture
async def client(api: FaultyApi) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(api.url, api.key, timeout_s=5, reconnect_s_max=20) as client:
        yield client


def added(api: FaultyApi, count: int) -> list[str]:
    """Have so many jobs that end in three ways."""
    return [api.add(script=SCRIPTS[number % 3]).id for number in range(count)]


async def test_each_is_told_once_as_it_ends(api: FaultyApi, client: AsyncClient) -> None:
    """In the order of their ends and not of their names; failures are no exceptions; progress adds up."""
    ids = added(api, 6)
    api.plays = deque(ids[::-1])
    tallies: list[Tally] = []
    ended = [job async for job in client.wait_many(ids, timeout_s=20, on_progress=tallies.append)]
    assert sorted(job.id for job in ended) == ids
    assert {job.id: job.status.value for job in ended} == dict(
        zip(ids, ["completed", "failed", "cancelled"] * 2, strict=True)
    )
    assert tallies[-1] == Tally(total=6, completed=2, failed=2, cancelled=2)
    assert [tally.left for tally in tallies] == [5, 4, 3, 2, 1, 0]


async def test_a_stream_that_breaks_costs_nothing(api: FaultyApi, client: AsyncClient) -> None:
    """What ended between two connections is found by a look at the jobs."""
    ids = added(api, 5)
    api.plays_of_one = 1
    api.faults["GET /events"] = deque([None, Fault(503), Fault(502), None, Fault(503)])
    api.plays = deque([ids[3], ids[0]])

    async def end_the_others() -> None:
        while api.plays:
            await asyncio.sleep(0.01)
        # Nobody says a word of these.
        for job_id in (ids[1], ids[2], ids[4]):
            api.jobs[job_id].done = len(api.jobs[job_id].script)

    ending = asyncio.create_task(end_the_others())
    ended = [job.id async for job in client.wait_many(ids, timeout_s=30)]
    await ending
    assert sorted(ended) == ids


async def test_those_that_have_ended_already(api: FaultyApi, client: AsyncClient) -> None:
    """More than are looked at one by one are found in pages of the list; a name that comes twice counts once."""
    ids = added(api, 130)
    for job_id in ids:
        api.jobs[job_id].done = len(api.jobs[job_id].script)
    ended = [job.id async for job in client.wait_many([*ids, *ids[:3]], timeout_s=20)]
    assert sorted(ended) == ids
    assert not [what for what, _ in api.requests if what.startswith("GET /jobs/")]


async def test_it_ends_in_time(api: FaultyApi, client: AsyncClient) -> None:
    """The jobs go on; what had ended was told before."""
    ids = added(api, 3)
    api.plays = deque(ids[:1])
    waiting = client.wait_many(ids, timeout_s=1)
    assert (await anext(waiting)).id == ids[0]
    with pytest.raises(WaitTimeout, match=rf"{ids[1]} and 1 more did not end within 1 s; they go on"):
        await anext(waiting)
    assert [task for task in asyncio.all_tasks() if "listen" in repr(task)] == []


async def test_what_is_not_there_is_said(api: FaultyApi, client: AsyncClient) -> None:
    """An id that nobody knows, and a cluster that is gone for good."""
    with pytest.raises(NotFound):
        await anext(client.wait_many([*added(api, 1), "job_unknown"]))
    assert [job async for job in client.wait_many([])] == []
    async with AsyncClient(api.url, api.key, retries_max=0, reconnect_s_max=0) as hasty:
        api.faults["GET /events"] = deque([Fault(503)] * 20)
        with pytest.raises(ServiceFailed):
            await anext(hasty.wait_many(added(api, 1)))


async def test_the_blocking_client_in_a_running_loop(api: FaultyApi) -> None:
    """As in a notebook: the caller's thread has a loop that runs, and is not touched."""
    ids = added(api, 3)
    api.plays = deque(ids)

    def in_a_notebook() -> list[str]:
        async def cell() -> list[str]:
            with Client(api.url, api.key) as client:
                return [job.id for job in client.wait_many(ids, timeout_s=20)]

        return asyncio.run(cell())

    assert sorted(await asyncio.to_thread(in_a_notebook)) == ids


# --- memory ---


def urls(count: int, read: list[int]) -> Iterator[str]:
    for number in range(count):
        read[0] = number + 1
        yield f"https://files.example/{number:09}/{'x' * 200}.bin"


async def peak_bytes(client: AsyncClient, api: FaultyApi, count: int) -> int:
    """Ask for so many jobs and let go of their ids; return the most that was held meanwhile."""
    read = [0]
    accepted = 0
    gc.collect()
    tracemalloc.start()
    try:
        submitting = client.submit_batches(urls(count, read), batch_size=100)
        async for ids in submitting:
            accepted += len(ids)
            # Nothing is read before its turn.
            assert read[0] == accepted
            # The API of these tests remembers what it was asked; the cluster's ledger is no memory of the client.
            api.forget()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        assert accepted == count


async def test_an_endless_list_needs_one_batch_of_memory(api: FaultyApi, client: AsyncClient) -> None:
    """Eight times as many URLs from an iterator hold no more at any time."""
    await peak_bytes(client, api, 200)
    few, many = await peak_bytes(client, api, 1000), await peak_bytes(client, api, 8000)
    print(f"peak of 1,000 jobs {few / 1024:.0f} KiB, of 8,000 jobs {many / 1024:.0f} KiB")
    assert many < 1.25 * few


async def held_bytes(client: AsyncClient | Client, api: FaultyApi, count: int) -> int:
    """Ask for so many jobs at once; return what is held when only their ids are left."""
    gc.collect()
    tracemalloc.start()
    try:
        if isinstance(client, Client):
            ids = await asyncio.to_thread(client.submit_many, urls(count, [0]))
        else:
            ids = await client.submit_many(urls(count, [0]))
        assert ids == list(api.jobs)
        api.forget()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        assert len(ids) == count


@pytest.mark.parametrize("kind", [AsyncClient, Client])
async def test_all_ids_are_kept_in_little_memory(api: FaultyApi, kind: type[AsyncClient | Client]) -> None:
    """What 8,000 more jobs leave is less than 32 bytes each; texts in a list would be about 90."""
    new_id = IdFactory()
    api.id_of = lambda _number: new_id("job")
    opened = kind(api.url, api.key)
    async with AsyncExitStack() as stack:
        if isinstance(opened, Client):
            stack.enter_context(opened)
        else:
            await stack.enter_async_context(opened)
        # What a first request leaves behind is no id.
        await held_bytes(opened, api, 2000)
        few, many = await held_bytes(opened, api, 2000), await held_bytes(opened, api, 10_000)
    print(f"{(many - few) / 8000:.1f} bytes an id ({few}, {many})")
    assert 8000 * ID_BYTES <= many - few < 8000 * 32
