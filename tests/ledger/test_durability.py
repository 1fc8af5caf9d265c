"""What was acknowledged is there after a crash; what fails says so and does no harm."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from ledger_samples import ANN, OPERATOR, a_job, an_event

from rayhaul.errors import Unavailable
from rayhaul.ledger import connect
from rayhaul.ledger.base import Batch, JobFilter
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings

COMMITTER = Path(__file__).with_name("committer.py")


async def _shown(ledger: SqlLedger, names: tuple[str, ...], show: str) -> dict[str, object]:
    def ask(connection: sa.Connection) -> dict[str, object]:
        return {name: connection.exec_driver_sql(f"{show} {name}").scalar_one() for name in names}

    return await ledger._write(ask)


async def test_commits_wait_for_the_disk(database: str, ledger: SqlLedger) -> None:
    """The very connection that writes syncs at each commit, before and after it had to be opened again."""
    for _ in range(2):
        if database == "sqlite":
            pragmas = await _shown(ledger, ("journal_mode", "synchronous", "foreign_keys"), "PRAGMA")
            assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}  # 2 is FULL
        else:
            names = ("synchronous_commit", "transaction_isolation")
            assert await _shown(ledger, names, "SHOW") == {
                "synchronous_commit": "on",
                "transaction_isolation": "read committed",
            }
        assert ledger._writer is not None
        ledger._writer._engine.dispose()


async def test_busy_timeout_is_the_setting(tmp_path: Path) -> None:
    """SQLite waits for a lock as long as the settings say."""
    ledger = open_ledger(LedgerSettings(busy_timeout_s=1.5), f"sqlite:///{tmp_path}/ledger.db")
    assert await _shown(ledger, ("busy_timeout",), "PRAGMA") == {"busy_timeout": 1500}
    await ledger.close()


def commit_until_killed(url: str, commits: int) -> list[str]:
    """Kill a process in the middle of its commits; return the ids of the jobs that were acknowledged to it."""
    child = subprocess.Popen([sys.executable, COMMITTER, url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        acknowledged = [child.stdout.readline().strip() for _ in range(commits)]
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=10)
        return acknowledged + child.stdout.read().split()


async def committed(url: str) -> tuple[set[str], set[str]]:
    """Return the ids of jobs and those of jobs that have an event, from a ledger that still takes commits."""
    ledger = open_ledger(LedgerSettings(), url)
    jobs = {job.id for job in await ledger.jobs(ANN, JobFilter(limit=100_000))}
    events = {event.job_id for event in await ledger.events_after(OPERATOR, 0, limit=100_000)}
    await ledger.commit(Batch(jobs_new=[a_job()]))
    await ledger.close()
    return jobs, events


@pytest.mark.parametrize("commits", [1, 25, 60])
async def test_a_killed_process_loses_nothing_acknowledged(new_url: Callable[[], str], commits: int) -> None:
    """After SIGKILL in the middle of commits every acknowledged job is there with its event, and at most one more."""
    url = new_url()
    acknowledged = commit_until_killed(url, commits)
    jobs, events = await committed(url)
    assert jobs >= set(acknowledged)
    assert len(jobs) <= len(acknowledged) + 1
    assert events == jobs


async def test_a_full_disk_is_unavailable_and_recovers(tmp_path: Path) -> None:
    """SQLite's own page limit stands for the disk: the batch is refused whole with one sentence; later it fits."""
    ledger = open_ledger(LedgerSettings(), f"sqlite:///{tmp_path}/ledger.db")
    await ledger.commit(Batch(jobs_new=[a_job()]))

    def limit(connection: sa.Connection) -> int:
        pages: int = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        return int(connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 3}").scalar_one())

    await ledger._write(limit)
    batch = Batch(jobs_new=[job := a_job(tags={"long": "x" * 100_000})], events=[an_event(job)])
    with pytest.raises(Unavailable, match=r"^the ledger's disk is full$"):
        await ledger.commit(batch)
    assert len(await ledger.jobs(ANN, JobFilter())) == 1
    # The connection was opened afresh: the limit is gone, as if somebody had made room.
    await ledger.commit(batch)
    assert await ledger.job(ANN, job.id) == job
    await ledger.close()


def commit_until_refused(url: str, file_bytes_max: int) -> tuple[list[str], str]:
    """Return what was acknowledged to a process whose files may not grow beyond a size, and what it was told then."""
    done = subprocess.run(
        [sys.executable, COMMITTER, url, str(file_bytes_max)], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.split(), done.stderr


async def test_a_failing_disk_is_unavailable_and_recovers(tmp_path: Path) -> None:
    """When a write fails in the middle of a commit, nothing acknowledged is lost and nothing refused stays."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    acknowledged, told = commit_until_refused(url, 900_000)
    assert told == "the ledger's disk reports an input or output error\n"
    assert len(acknowledged) > 10
    assert await committed(url) == (set(acknowledged), set(acknowledged))


async def test_a_file_that_may_not_be_written_is_unavailable(tmp_path: Path) -> None:
    """A connection that has no right to write gives one sentence; reading goes on."""
    ledger = open_ledger(LedgerSettings(), f"sqlite:///{tmp_path}/ledger.db")
    await ledger._write(lambda connection: connection.exec_driver_sql("PRAGMA query_only=ON"))
    with pytest.raises(Unavailable, match=r"can not be written$"):
        await ledger.commit(Batch(jobs_new=[a_job()]))
    assert await ledger.jobs(ANN, JobFilter()) == []
    await ledger.commit(Batch(jobs_new=[a_job()]))
    await ledger.close()


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_lost_connection_is_opened_again(url: str, ledger: SqlLedger) -> None:
    """When the server ends all our sessions, each call fails at most once per lost connection, then works."""
    await ledger.commit(Batch(jobs_new=[a_job()]))
    assert await ledger.last_seq() == 0
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'rayhaul'"
        )
    with pytest.raises(Unavailable):
        await ledger.commit(Batch(jobs_new=[a_job()]))
    await ledger.commit(Batch(jobs_new=[a_job()]))
    with pytest.raises(Unavailable):
        await ledger.last_seq()
    assert len(await ledger.jobs(ANN, JobFilter())) == 2


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    """Nobody listens: one sentence, at once, and no password in it."""
    with pytest.raises(Unavailable, match=r"^the ledger's database can not be reached, or does not let us in$"):
        open_ledger(LedgerSettings(), f"postgresql://u:secret@/x?host={tmp_path}")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_database_that_is_not_there_is_unavailable(url: str) -> None:
    """The server is there, the database is not: the sentence says so."""
    missing = connect.parse_url(url).set(database="nothing").render_as_string(hide_password=False)
    with pytest.raises(Unavailable, match=r"^the ledger's database "):
        open_ledger(LedgerSettings(), missing)
