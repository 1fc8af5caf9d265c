"""Waiting for events: told by PostgreSQL, found by looking on SQLite; nothing is missed and nobody waits in vain."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa
from ledger_samples import a_job, an_event

from rayhaul.errors import Unavailable
from rayhaul.job import JobEvent
from rayhaul.ledger import migrate
from rayhaul.ledger.base import Batch, LedgerConflict
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings

_PATIENCE_S = 30
#: Longer than any test: who hears of something must have been told.
_NEVER_S = 3600.0
JOB = a_job()

on_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def settings(database: str) -> LedgerSettings:
    return LedgerSettings(event_poll_s=0.01 if database == "sqlite" else _NEVER_S, pool_max=2)


@pytest.fixture
async def replica(url: str, ledger: SqlLedger, database: str) -> AsyncIterator[SqlLedger]:
    """Reads what `ledger` writes, as in another process."""
    opened = open_ledger(settings(database), url, read_only=True)
    await ledger.commit(Batch(jobs_new=[JOB]))
    yield opened
    await opened.close()


def told(count: int = 1) -> Batch:
    return Batch(events=[an_event(JOB, JobEvent.METADATA)] * count)


async def hears(replica: SqlLedger, seq: int) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        await replica.news(seq, _NEVER_S)


async def until_it_listens(replica: SqlLedger) -> None:
    ear = replica._news._ear
    assert ear is not None
    async with asyncio.timeout(_PATIENCE_S):
        while ear.heard is None:
            await replica.news(0, 0.01)


async def test_what_is_there_already_is_news(ledger: SqlLedger, replica: SqlLedger) -> None:
    """Whoever has read less than there is does not wait: before listening began and after."""
    await ledger.commit(told(3))
    for seq in (0, 2, 1):
        await hears(replica, seq)


async def test_a_commit_elsewhere_ends_the_wait(ledger: SqlLedger, replica: SqlLedger) -> None:
    """Each commit wakes the reader of another process, and the event can be read by then."""
    for seq in range(20):
        waiting = asyncio.create_task(hears(replica, seq))
        # Some begin to wait before the commit, some after it.
        await asyncio.sleep(0.01 * (seq % 3))
        await ledger.commit(told())
        await waiting
        assert await replica.last_seq() == seq + 1


async def test_each_waits_for_its_own(ledger: SqlLedger, replica: SqlLedger) -> None:
    """Of many who wait in one process those are let go whose event came."""
    waiting = [asyncio.create_task(hears(replica, seq)) for seq in (0, 0, 2, 3)]
    await ledger.commit(told(2))
    await asyncio.gather(*waiting[:2])
    assert [task.done() for task in waiting] == [True, True, False, False]
    await ledger.commit(told(2))
    await asyncio.gather(*waiting)


async def test_without_news_the_wait_ends_in_time(ledger: SqlLedger, replica: SqlLedger) -> None:
    """A commit without events, a refused one and silence wake nobody before the time is over."""
    await ledger.commit(told())
    await hears(replica, 0)
    began_s = asyncio.get_running_loop().time()
    waiting = asyncio.create_task(replica.news(1, 0.3))
    await ledger.commit(Batch(jobs_new=[a_job()]))
    with pytest.raises(LedgerConflict):
        await ledger.commit(Batch(jobs_changed=[JOB], events=told().events))
    await waiting
    assert asyncio.get_running_loop().time() - began_s >= 0.3


async def test_closing_lets_everybody_go(ledger: SqlLedger, replica: SqlLedger) -> None:
    """Who waits is told that the ledger is closed; the thread is gone, and no wait begins another one."""
    waiting = asyncio.create_task(replica.news(0, 1.0))
    await ledger.commit(told())
    await waiting
    waiting = asyncio.create_task(replica.news(1, 1.0))
    await asyncio.sleep(0)
    await replica.close()
    for late in (waiting, replica.news(1, 1.0)):
        with pytest.raises(Unavailable, match="closed"):
            await late
    await replica.close()
    assert "ledger-listen" not in {thread.name for thread in threading.enumerate()}


@on_postgresql
async def test_who_gives_up_leaves_nothing(replica: SqlLedger) -> None:
    """A cancelled wait is forgotten; the next one shares the same connection."""
    await until_it_listens(replica)
    ear = replica._news._ear
    assert ear is not None
    waiting = [asyncio.create_task(replica.news(0, _NEVER_S)) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(ear._waiters) == 3
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert ear._waiters == set()


# --- a listening connection that is lost ---

_LISTENERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = %s AND application_name = 'rayhaul listen'
"""


def hang_up(server: str, url: str) -> int:
    """End the sessions that listen; return how many there were."""
    with psycopg.connect(server, autocommit=True) as connection:
        return len(connection.execute(_LISTENERS, [sa.make_url(url).database]).fetchall())


@contextmanager
def shut(server: str, url: str) -> Iterator[None]:
    """Let nobody connect to the database; who is connected stays."""
    name = sa.make_url(url).database
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        try:
            yield
        finally:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


@on_postgresql
async def test_a_lost_connection_listens_again(
    url: str, postgresql_server: str, ledger: SqlLedger, replica: SqlLedger, caplog: pytest.LogCaptureFixture
) -> None:
    """What was committed while nobody listened is noticed as soon as somebody does; the loss is logged once."""
    await until_it_listens(replica)
    for seq in range(3):
        waiting = asyncio.create_task(hears(replica, seq))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(hang_up, postgresql_server, url) == 1
        await ledger.commit(told())
        await waiting
        await until_it_listens(replica)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.partition(": ")[0] for message in warnings] == ["events are looked for, not heard"] * 3


@on_postgresql
async def test_while_nobody_listens_somebody_looks(url: str, postgresql_server: str, ledger: SqlLedger) -> None:
    """When the listening connection is lost and none is to be had, events are found by looking, as on SQLite."""
    await ledger.commit(Batch(jobs_new=[JOB]))
    replica = open_ledger(LedgerSettings(event_poll_s=0.01, pool_max=1), url, read_only=True)
    try:
        await until_it_listens(replica)
        await replica.last_seq()
        with shut(postgresql_server, url):
            assert await asyncio.to_thread(hang_up, postgresql_server, url) == 1
            for seq in range(5):
                waiting = asyncio.create_task(hears(replica, seq))
                await ledger.commit(told())
                await waiting
        await until_it_listens(replica)
    finally:
        await replica.close()


@on_postgresql
async def test_ledgers_of_one_database_do_not_hear_each_other(url: str, ledger: SqlLedger, replica: SqlLedger) -> None:
    """Another schema's events have other numbers: taken for ours they would end every wait at once."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA other")
    try:
        elsewhere = f"{url}&options=-csearch_path%3Dother"
        migrate.upgrade(elsewhere)
        other = open_ledger(LedgerSettings(), elsewhere)
        try:
            await until_it_listens(replica)
            began_s = asyncio.get_running_loop().time()
            waiting = asyncio.create_task(replica.news(0, 0.5))
            await other.commit(Batch(jobs_new=[JOB], events=told(5).events))
            await hears(other, 4)
            await waiting
            assert asyncio.get_running_loop().time() - began_s >= 0.5
        finally:
            await other.close()
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA other CASCADE")
