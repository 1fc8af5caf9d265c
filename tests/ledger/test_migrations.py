"""The tables that migrations make are the tables the code uses, and making them is safe at any start."""

import fcntl
import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from first_release import DONE, EVERYTHING, FULL, JOBS, OLD_SESSION, OPEN_SESSION, QUEUED, RUNNING
from ledger_samples import ANN, BOB, NOW, OPERATOR, a_job, a_lease, a_message, an_event, changed

from rayhaul.errors import ServiceError, Unavailable
from rayhaul.job import JobStatus, Priority
from rayhaul.ledger import connect, migrate, tables
from rayhaul.ledger.base import Batch, JobFilter
from rayhaul.ledger.store import open_ledger
from rayhaul.settings import LedgerSettings

RELEASED = Path(__file__).with_name("released")


def definitions(connection: sa.Connection) -> list[str]:
    """Return what the database itself says of its tables and indexes, in its own words."""
    if connection.dialect.name == "sqlite":
        query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
    else:
        query = """
            SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
            UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
                FROM pg_constraint WHERE connamespace = 'public'::regnamespace
            UNION ALL SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default,
                is_identity, identity_generation) FROM information_schema.columns WHERE table_schema = 'public'
        """
    found = [row[0] for row in connection.exec_driver_sql(query) if "alembic_version" not in row[0]]
    # SQLite keeps the statement as it was written; it adds a column in white space of its own, and quotes a new name.
    return sorted(re.sub(r"\s*,\s*", ", ", text).replace('"', "") for text in found)


def test_migrated_tables_are_the_code_s_tables(empty_url: str) -> None:
    """Alembic finds no difference, and neither does the database: types, constraints, partial indexes, identities."""
    migrate.upgrade(empty_url)
    engine = sa.create_engine(connect.parse_url(empty_url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []
        migrated = definitions(connection)
        tables.metadata.drop_all(connection)
        tables.metadata.create_all(connection)
        assert definitions(connection) == migrated
    engine.dispose()


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    """Each start migrates; at the newest revision nothing happens."""
    migrate.upgrade(empty_url)
    engine = sa.create_engine(connect.parse_url(empty_url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        before = definitions(connection)
    migrate.upgrade(empty_url)
    with engine.begin() as connection:
        assert definitions(connection) == before
    engine.dispose()


@pytest.mark.parametrize("open_it", [migrate.upgrade, migrate.check])
def test_a_newer_ledger_is_refused(empty_url: str, open_it: object) -> None:
    """Code that does not know the ledger's revision neither writes nor reads it, and says which one it is."""
    migrate.upgrade(empty_url)
    engine = sa.create_engine(connect.parse_url(empty_url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    assert callable(open_it)
    with pytest.raises(ServiceError, match=r"newer Rayhaul \(revision 9999\)") as caught:
        open_it(empty_url)
    assert not caught.value.retryable


def test_a_reader_waits_for_the_migration(empty_url: str) -> None:
    """A replica that starts before the ledger is made is told to come again, and makes nothing itself."""
    for _ in range(2):
        with pytest.raises(Unavailable):
            open_ledger(LedgerSettings(), empty_url, read_only=True)
    migrate.upgrade(empty_url)
    migrate.check(empty_url)


def test_a_migration_that_fails_leaves_nothing(empty_url: str) -> None:
    """All of it is one transaction: a table in the way leaves the ledger as it was."""
    connect_url = connect.parse_url(empty_url)
    if (path := connect.sqlite_file(connect_url)) is not None:
        connect.create_file(path)
    engine = sa.create_engine(connect_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE outbox (x INTEGER)")
        before = definitions(connection)
    with pytest.raises(sa.exc.DBAPIError):
        migrate.upgrade(empty_url)
    with engine.begin() as connection:
        assert definitions(connection) == before
        connection.exec_driver_sql("DROP TABLE outbox")
    engine.dispose()
    migrate.upgrade(empty_url)


def fill_first_release(url: str) -> None:
    """Make a ledger as the first release left it."""
    if (path := connect.sqlite_file(connect.parse_url(url))) is not None:
        connect.create_file(path)
    engine = connect.migrator(connect.parse_url(url), wait_max_s=5)
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    found = sa.MetaData()
    found.reflect(engine)
    released: dict[str, list[dict[str, Any]]] = json.loads((RELEASED / "v0001.json").read_text())
    with engine.begin() as connection:
        for name, rows in released.items():
            for row in rows:
                # The database numbers the events: they stand in their order.
                values = {key: value for key, value in row.items() if (name, key) != ("job_events", "seq")}
                connection.execute(sa.insert(found.tables[name]).values(values))
    engine.dispose()


async def test_a_ledger_of_the_first_release_reads_the_same(empty_url: str) -> None:
    """Everything that was written under the first schema is there after the way up, value by value."""
    fill_first_release(empty_url)
    with pytest.raises(Unavailable, match="not migrated yet"):
        migrate.check(empty_url)
    ledger = open_ledger(LedgerSettings(), empty_url)
    try:
        assert await ledger.jobs(OPERATOR, JobFilter()) == sorted(JOBS, key=lambda job: job.id, reverse=True)
        assert await ledger.jobs(ANN, JobFilter(tag=("team", "vidéo"))) == [FULL]
        events = [replace(event, seq=number) for number, event in enumerate(EVERYTHING.events, 1)]
        assert await ledger.events_after(OPERATOR, 0) == events
        assert await ledger.history(BOB, DONE.id) == [event for event in events if event.job_id == DONE.id]
        state = await ledger.state()
        assert (state.open_jobs, state.leases) == ([QUEUED, RUNNING], list(EVERYTHING.leases_granted))
        assert (state.sessions, state.dead_letters_count) == ([OPEN_SESSION], 1)
        assert state.paused == frozenset()
        for session in (OPEN_SESSION, OLD_SESSION):
            parts = [part for part in EVERYTHING.parts if part.session_id == session.session_id]
            assert await ledger.parts(session.session_id) == parts
        spent = {(record.user_id, record.key): record for record in EVERYTHING.idempotency}
        assert await ledger.spent(list(spent)) == spent
        assert await ledger.outbox(NOW, 10) == list(EVERYTHING.outbox)
        assert await ledger.keys(OPERATOR) == list(EVERYTHING.keys)
    finally:
        await ledger.close()


async def test_a_ledger_of_the_first_release_goes_on(empty_url: str) -> None:
    """Its jobs move on under a first leader, its events count on, and what is new finds its place."""
    fill_first_release(empty_url)
    ledger = open_ledger(LedgerSettings(), empty_url)
    try:
        epoch = await ledger.lead("after the upgrade")
        moved = changed(RUNNING, status=JobStatus.PAUSED)
        await ledger.commit(
            Batch(
                leader_epoch=epoch,
                jobs_changed=[moved],
                events=[an_event(moved)],
                leases_ended=["lease_1"],
                leases_granted=[lease := a_lease(QUEUED, lease_id="lease_3")],
                outbox=[message := a_message(RUNNING)],
                paused=frozenset({Priority.LOW}),
            )
        )
        await ledger.postpone_outbox([replace(EVERYTHING.outbox[0], attempts=1, next_attempt_at=NOW)])
        state = await ledger.state()
        assert (epoch, state.paused, state.open_jobs) == (1, frozenset({Priority.LOW}), [QUEUED, moved])
        assert state.leases == [EVERYTHING.leases_granted[1], lease]
        assert await ledger.last_seq() == len(EVERYTHING.events) + 1
        assert {each.outbox_id: each.attempts for each in await ledger.outbox(NOW, 10)} == {
            "msg_1": 1,
            "msg_2": 0,
            message.outbox_id: 0,
        }
    finally:
        await ledger.close()


@contextmanager
def migrating_elsewhere(url: str) -> Iterator[None]:
    """Hold what another process holds while it migrates."""
    path = connect.sqlite_file(connect.parse_url(url))
    if path is None:
        with psycopg.connect(url) as connection:
            connection.execute(f"SELECT pg_advisory_lock({connect.MIGRATION_LOCK})".encode())
            yield
        return
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_migration_waits_for_another_one(empty_url: str) -> None:
    """While another process migrates nothing is touched, and the wait has an end; afterwards it is our turn."""
    with migrating_elsewhere(empty_url):
        with pytest.raises(Unavailable, match="another process"):
            migrate.upgrade(empty_url, wait_max_s=0.2)
        with pytest.raises(Unavailable):
            migrate.check(empty_url)
    migrate.upgrade(empty_url, wait_max_s=0.2)
    migrate.check(empty_url)


def test_several_processes_may_start_at_once(empty_url: str) -> None:
    """Of processes that open an empty ledger together one migrates; all of them end up with a ledger that works."""
    program = (
        "import sys; from rayhaul.ledger.store import open_ledger; from rayhaul.settings import LedgerSettings;"
        "print('ready', flush=True); sys.stdin.read(1); open_ledger(LedgerSettings(), sys.argv[1])"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("x")
        child.stdin.flush()
    outcomes = [(child.communicate(timeout=120)[1], child.returncode) for child in children]
    assert outcomes == [("", 0)] * 4
    migrate.check(empty_url)


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


@pytest.mark.parametrize("name", ["ledger.db", "a b.db", "100%.db", "what?.db", "ü#1.db"])
async def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    """The path in a URL is taken as it stands, and the file is for its owner's eyes only, its WAL too."""
    url = sa.URL.create("sqlite", database=str(tmp_path / name)).render_as_string()
    ledger = open_ledger(LedgerSettings(), url)
    await ledger.commit(Batch(jobs_new=[job := a_job()]))
    assert await ledger.jobs(ANN, JobFilter()) == [job]
    found = modes(tmp_path)
    await ledger.close()
    assert found == {f"{name}{end}": 0o600 for end in ("", ".lock", "-wal", "-shm")}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://u:secret@h/x", "must begin with"),
        ("postgresql+asyncpg://u:secret@h/x", "must begin with"),
        ("secret", "can not be read"),
        ("sqlite://", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, sentence: str) -> None:
    """A URL we can not use is refused with a sentence that does not repeat the password."""
    with pytest.raises(ServiceError, match=sentence) as caught:
        open_ledger(LedgerSettings(), url)
    assert "secret" not in caught.value.message


def test_a_missing_directory_is_unavailable(tmp_path: Path) -> None:
    """What the file system refuses is told with its own words."""
    with pytest.raises(Unavailable, match="can not be created: No such file or directory"):
        open_ledger(LedgerSettings(), f"sqlite:///{tmp_path}/none/ledger.db")
    with pytest.raises(Unavailable, match="can not be opened"):
        open_ledger(LedgerSettings(), f"sqlite:///{tmp_path}/none.db", read_only=True)
    assert list(tmp_path.iterdir()) == []
