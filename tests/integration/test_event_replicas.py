"""Two replicas of the API over one PostgreSQL: both tell what a third process commits, and streams change sides."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from plane import Site, SmallPlane, listening, site_at
from postgresql import running_postgresql
from streams import PATIENCE_S, stream

from actors.ports import Submission
from rayhaul.job import JobEvent, JobSpec
from rayhaul.ledger.base import Viewer
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings

ALICE = Viewer("alice")
#: Nobody looks by himself within a test: what is heard was told.
_NEVER_S = 3600.0


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with running_postgresql() as url:
        yield url


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """A database of the test's own."""
    name = request.node.name
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Replica:
    site: Site
    http: httpx.AsyncClient


@dataclass(frozen=True, slots=True)
class Cluster:
    replicas: tuple[Replica, Replica]
    #: A ledger that no replica has, and who writes to it.
    ledger: SqlLedger
    writer: SmallPlane
    #: Alice's key is the same everywhere.
    headers: dict[str, str]

    async def submit(self, count: int = 1) -> str:
        specs = tuple(JobSpec(url="https://files.example/") for _ in range(count))
        accepted = await self.writer.submit(Submission(user_id="alice", correlation_id="correlation", specs=specs))
        return accepted.job_ids[0]


async def _replica(stack: AsyncExitStack, directory: Path, url: str) -> Replica:
    ledger = open_ledger(LedgerSettings(event_poll_s=_NEVER_S, pool_max=2), url)
    site = await stack.enter_async_context(site_at(directory, ledger=ledger))

    async def news(seq: int, _timeout_s: float) -> None:
        await ledger.news(seq, _NEVER_S)

    site.ledger_seam.instead["news"] = news
    origin = await stack.enter_async_context(listening(site.app))
    http = await stack.enter_async_context(httpx.AsyncClient(base_url=origin, timeout=PATIENCE_S))
    return Replica(site, http)


@pytest.fixture
async def cluster(url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        first, second = [await _replica(stack, tmp_path, url) for _ in range(2)]
        ledger = open_ledger(LedgerSettings(pool_max=1), url)
        stack.push_async_callback(ledger.close)
        yield Cluster((first, second), ledger, SmallPlane(ledger), second.site.auth["alice"])


async def test_every_replica_tells_what_another_process_commits(cluster: Cluster) -> None:
    """Listeners of both replicas hear each commit, though neither replica wrote it nor looks for it."""
    first, second = cluster.replicas
    job_id = await cluster.submit()
    async with (
        stream(first.http, f"/jobs/{job_id}/events", **cluster.headers) as one,
        stream(second.http, f"/jobs/{job_id}/events", **cluster.headers) as two,
    ):
        for told in (one, two):
            assert [event.event for event in await told.until("created")] == ["created"]
        for event in (JobEvent.PAUSED, JobEvent.RESUMED, JobEvent.STARTED, JobEvent.CANCELLED):
            await cluster.writer.move(job_id, event)
            for told in (one, two):
                assert [each.event for each in await told.until(event)] == [event]
        assert await one.rest() == await two.rest() == []


async def test_a_stream_goes_on_at_the_other_replica(cluster: Cluster) -> None:
    """A client that is cut off again and again, each time resuming elsewhere, gets each event once and in order."""
    dice = random.Random(11)
    ids = ["0"]
    following = True

    async def commit() -> None:
        while following:
            job_id = await cluster.submit(dice.randint(1, 4))
            await cluster.writer.move(job_id, JobEvent.STARTED, JobEvent.REQUEUED)

    async def read(http: httpx.AsyncClient, count: int) -> None:
        headers: dict[str, Any] = {**cluster.headers, "Last-Event-ID": ids[-1]}
        async with stream(http, "/events", **headers) as told:
            for _ in range(count):
                event = await told.next()
                assert event is not None
                assert event.id is not None
                ids.append(event.id)

    async with asyncio.TaskGroup() as group:
        committing = group.create_task(commit())
        for turn in range(20):
            await read(cluster.replicas[turn % 2].http, dice.randint(1, 40))
        following = False
        await committing
        await read(cluster.replicas[0].http, len(await cluster.ledger.events_after(ALICE, int(ids[-1]), limit=100_000)))
    records = await cluster.ledger.events_after(ALICE, 0, limit=100_000)
    assert ids[1:] == [str(record.seq) for record in records]
