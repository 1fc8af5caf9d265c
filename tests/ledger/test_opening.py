"""Opening, waiting and closing: what a ledger does beside other processes, on each database."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledger_samples import ANN, a_job

from rayhaul.errors import Unavailable
from rayhaul.ledger import connect, tables
from rayhaul.ledger.base import Batch, JobFilter
from rayhaul.ledger.sealing import Sealer
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings


async def test_a_read_only_ledger_reads_what_the_writer_commits(url: str, ledger: SqlLedger) -> None:
    """An API replica sees each commit as soon as it is acknowledged, and can not write."""
    replica = open_ledger(LedgerSettings(), url, read_only=True)
    try:
        for _ in range(3):
            await ledger.commit(Batch(jobs_new=[job := a_job()]))
            assert await replica.job(ANN, job.id) == job
        with pytest.raises(AssertionError, match="reading only"):
            await replica.commit(Batch(jobs_new=[a_job()]))
        with pytest.raises((sa.exc.DBAPIError, Unavailable)):
            await replica._readers.call(lambda connection: connection.exec_driver_sql("DELETE FROM jobs"))
    finally:
        await replica.close()
    assert len(await ledger.jobs(ANN, JobFilter())) == 3


async def test_state_sees_one_moment(url: str, ledger: SqlLedger) -> None:
    """What is committed while the state is being read is in all of it or in none of it."""
    with connect.readers(connect.parse_url(url), LedgerSettings()).connect() as connection:
        snapshot = connect.of_one_snapshot(connection)
        before = snapshot.execute(sa.select(sa.func.count()).select_from(tables.jobs)).scalar_one()
        await ledger.commit(Batch(jobs_new=[a_job()]))
        after = snapshot.execute(sa.select(sa.func.count()).select_from(tables.jobs)).scalar_one()
        engine = connection.engine
    engine.dispose()
    assert (before, after) == (0, 0)


async def test_a_locked_ledger_is_unavailable_and_recovers(database: str, url: str, ledger: SqlLedger) -> None:
    """While another process holds the writer's lock a commit fails within its time with one sentence, then works."""
    engine = sa.create_engine(connect.parse_url(url), poolclass=sa.NullPool)
    with engine.connect() as other:
        if database == "sqlite":
            other.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            other.exec_driver_sql(f"SELECT pg_advisory_xact_lock({connect.WRITER_LOCK})")
        with pytest.raises(Unavailable, match=r"^the ledger is locked by another process$"):
            await ledger.commit(Batch(jobs_new=[a_job()]))
        assert await ledger.jobs(ANN, JobFilter()) == []
    engine.dispose()
    await ledger.commit(Batch(jobs_new=[a_job()]))


async def test_too_many_waiting_calls_are_refused(ledger: SqlLedger) -> None:
    """The queue for a thread is bounded."""
    ledger._readers._waiting = 10_000
    with pytest.raises(Unavailable, match="too many"):
        await ledger.jobs(ANN, JobFilter())
    ledger._readers._waiting = 0
    assert await ledger.jobs(ANN, JobFilter()) == []


async def test_what_is_not_to_be_had_at_once_is_waited_for(tmp_path: Path) -> None:
    """One job is read on the event loop; while another process has the file for itself, a thread waits for it."""
    path = tmp_path / "ledger.db"
    job = a_job()
    ledger = open_ledger(LedgerSettings(), f"sqlite:///{path}")
    await ledger.commit(Batch(jobs_new=[job]))
    assert await ledger.job(ANN, job.id) == job
    await ledger.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE jobs SET attempt = attempt")
    read = SqlLedger(sa.make_url(f"sqlite:///{path}"), LedgerSettings(), Sealer(), read_only=True)
    asked = asyncio.ensure_future(read.job(ANN, job.id))
    await asyncio.sleep(0.2)
    assert not asked.done()
    other.close()
    assert await asked == job
    await read.close()


async def test_closing_finishes_what_was_asked(url: str) -> None:
    """Commits under way when the ledger closes are carried out; later calls are refused; closing twice is fine."""
    ledger = open_ledger(LedgerSettings(), url)
    commits = [asyncio.ensure_future(ledger.commit(Batch(jobs_new=[a_job()]))) for _ in range(10)]
    await asyncio.sleep(0)
    await ledger.close()
    await asyncio.gather(*commits)
    for late in (ledger.commit(Batch(jobs_new=[a_job()])), ledger.last_seq()):
        with pytest.raises(Unavailable, match="closed"):
            await late
    await ledger.close()
    again = open_ledger(LedgerSettings(), url, read_only=True)
    assert len(await again.jobs(ANN, JobFilter())) == 10
    await again.close()
