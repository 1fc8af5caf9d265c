"""How many connections a ledger opens on PostgreSQL, and what it does when there is none to be had."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa
from ledger_samples import ANN, a_job, an_event

from rayhaul.errors import Unavailable
from rayhaul.ledger.base import Batch, JobFilter
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings

_PATIENCE_S = 30
_POOL_MAX = 3

pytestmark = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@contextmanager
def as_somebody(server: str, url: str) -> Iterator[tuple[str, psycopg.Connection]]:
    """Yield the URL for a role that is no superuser (no limit holds for those), and a superuser's connection."""
    parsed = sa.make_url(url)
    administrator = sa.make_url(server).set(database=parsed.database).render_as_string(hide_password=False)
    with psycopg.connect(administrator, autocommit=True) as connection:
        connection.execute("CREATE ROLE somebody LOGIN")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO somebody")
        try:
            yield parsed.set(username="somebody").render_as_string(hide_password=False), connection
        finally:
            connection.execute("DROP OWNED BY somebody")
            connection.execute("DROP ROLE somebody")


def settles_at(count: int, administrator: psycopg.Connection) -> bool:
    """Return whether somebody comes to have so many sessions; one that ended lingers for a moment."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'somebody'"
    for _ in range(_PATIENCE_S * 20):
        if administrator.execute(query).fetchall() == [(count,)]:
            return True
        administrator.execute("SELECT pg_sleep(0.05)")
    return False


async def everything_at_once(ledger: SqlLedger) -> None:
    """Read, write and listen, more than there are connections for."""
    job = a_job()
    async with asyncio.timeout(_PATIENCE_S), asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(ledger.jobs(ANN, JobFilter()))
            group.create_task(ledger.state())
            group.create_task(ledger.commit(Batch(jobs_new=[a_job()])))
            group.create_task(ledger.news(0, _PATIENCE_S))
        group.create_task(ledger.commit(Batch(jobs_new=[job], events=[an_event(job)])))


async def test_connections_are_bounded(postgresql_server: str, url: str) -> None:
    """However much is asked for: readers, one writer, one that listens. Also after the server ended them all."""
    with as_somebody(postgresql_server, url) as (theirs, administrator):
        ledger = open_ledger(LedgerSettings(pool_max=_POOL_MAX), theirs)
        try:
            assert await asyncio.to_thread(settles_at, 0, administrator)
            await everything_at_once(ledger)
            for _ in range(3):
                assert await asyncio.to_thread(settles_at, _POOL_MAX + 2, administrator)
                administrator.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'somebody'"
                )
                calls = [ledger.jobs(ANN, JobFilter()) for _ in range(2 * _POOL_MAX)]
                results = await asyncio.gather(*calls, ledger.commit(Batch(jobs_new=[a_job()])), return_exceptions=True)
                assert {type(result) for result in results} <= {list, Unavailable, type(None)}
                await everything_at_once(ledger)
        finally:
            await ledger.close()
        assert await asyncio.to_thread(settles_at, 0, administrator)


async def test_a_server_without_a_free_connection_is_unavailable(postgresql_server: str, url: str) -> None:
    """Each call that finds no place says so, disturbs nobody who has one, and works when there is room."""
    with as_somebody(postgresql_server, url) as (theirs, administrator):
        ledger = open_ledger(LedgerSettings(pool_max=_POOL_MAX), theirs)
        try:
            administrator.execute("ALTER ROLE somebody CONNECTION LIMIT 1")
            await ledger.commit(Batch(jobs_new=[first := a_job()]))
            for _ in range(3):
                with pytest.raises(Unavailable, match=r"does not let us in$"):
                    await ledger.jobs(ANN, JobFilter())
                # Looking in the place of listening finds no place either.
                with pytest.raises(Unavailable):
                    await ledger.news(0, _PATIENCE_S)
                await ledger.commit(Batch(jobs_new=[a_job()]))
            administrator.execute("ALTER ROLE somebody CONNECTION LIMIT -1")
            assert len(await ledger.jobs(ANN, JobFilter())) == 4
            await everything_at_once(ledger)
            assert await ledger.job(ANN, first.id) == first
        finally:
            await ledger.close()
