"""Connections to the ledger's database: how they are opened and how a transaction begins.

Laws of this file:
1. A commit is on disk when it returns: SQLite in WAL with synchronous=FULL (NORMAL may lose the last commits at a power
   cut, https://sqlite.org/wal.html), PostgreSQL with synchronous_commit=on.
2. Writing transactions come one after another, in all processes together: a reader that saw event n never later finds
   a smaller one it has not seen.
3. A connection for reading can not write.
4. A process has at most `pool_max` connections for reading, one for writing and, on PostgreSQL, one that listens;
   before them, while it opens the ledger, one for the migration.
"""

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from rayhaul.errors import ServiceError, Unavailable
from rayhaul.settings import LedgerSettings

#: Pages of WAL before it is copied back: 16 MiB, a few large batches, so that not every commit pays for the copying.
_CHECKPOINT_PAGES = 4096
#: The WAL file is cut back to this after a checkpoint.
_WAL_BYTES_MAX = 64 * 1024 * 1024
_CACHE_KIB = 16 * 1024
#: PostgreSQL only: a new connection, and a peer that went silent.
_CONNECT_TIMEOUT_S = 10
_SILENCE_MAX_S = 30
#: PostgreSQL only: longest statement. All of ours are pages or by index, but for the count of all jobs at a start.
_STATEMENT_TIMEOUT_S = 60
#: PostgreSQL only: the advisory lock of writers (law 2) and of migrations; two arbitrary numbers.
WRITER_LOCK = 0x7261_7968_0001
MIGRATION_LOCK = 0x7261_7968_0002

#: PostgreSQL only: where commits tell of new events. The table's oid follows: ledgers in several schemas of a database
#: each have a channel of their own.
NEWS_CHANNEL = "rayhaul_events_"

_WRITER_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
    f"journal_size_limit={_WAL_BYTES_MAX}",
    f"cache_size=-{_CACHE_KIB}",
)
_READER_PRAGMAS = ("query_only=ON",)

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def parse_url(text: str) -> sa.URL:
    """Return the URL with the driver we use.

    Raises: ServiceError where it is neither SQLite in a file nor PostgreSQL.
    """
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as err:
        raise ServiceError("the ledger's URL can not be read") from err
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.database in (None, "", ":memory:"):
            raise ServiceError("the ledger's URL must name a file: sqlite:////absolute/path")
        return url.set(drivername="sqlite+pysqlite")
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise ServiceError("the ledger's URL must begin with sqlite:/// or postgresql://")


def sqlite_file(url: sa.URL) -> Path | None:
    """Return the file of a SQLite URL, None for PostgreSQL."""
    return Path(url.database or "") if url.get_backend_name() == "sqlite" else None


def create_file(path: Path) -> None:
    """Create the database file for our eyes only, unless it exists. SQLite gives its WAL the same mode.

    Raises: Unavailable.
    """
    # O_EXCL: an existing file must not be opened here. Closing it again would drop the locks that SQLite holds on it
    # in this process (POSIX locks belong to the process; https://sqlite.org/howtocorrupt.html 2.2).
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except OSError as err:
        raise Unavailable(f"the ledger's file can not be created: {err.strerror}") from err


def writer(url: sa.URL, settings: LedgerSettings) -> sa.Engine:
    """Return an engine of one connection whose transactions exclude all other writers."""
    if sqlite_file(url) is None:
        engine = _postgresql(url, settings, connections=1, server={"synchronous_commit": "on"})
        sa.event.listen(engine, "begin", _take_writer_lock)
        return engine
    engine = _sqlite(url, settings, connections=1, pragmas=_WRITER_PRAGMAS)
    sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def readers(url: sa.URL, settings: LedgerSettings) -> sa.Engine:
    """Return an engine of `pool_max` connections that can not write."""
    if sqlite_file(url) is None:
        server = {"default_transaction_read_only": "on"}
        engine = _postgresql(url, settings, connections=settings.pool_max, server=server)
        # Most reads are one statement: no round trips for BEGIN and ROLLBACK.
        return engine.execution_options(isolation_level="AUTOCOMMIT")
    engine = _sqlite(url, settings, connections=settings.pool_max, pragmas=_READER_PRAGMAS)
    sa.event.listen(engine, "begin", _begin)
    return engine


def at_hand(url: sa.URL) -> sqlite3.Connection | None:
    """Return a reader's connection that waits for nobody; None for PostgreSQL, which is asked over a network."""
    if sqlite_file(url) is None:
        return None
    return _connected(url, 0.0, _READER_PRAGMAS)


def listener(url: sa.URL, settings: LedgerSettings) -> sa.Engine | None:
    """Return an engine of one connection that can listen for commits; None for SQLite, which tells nobody."""
    if sqlite_file(url) is not None:
        return None
    # Under a name of its own: an operator sees in pg_stat_activity why it is always there and always idle.
    server = {"default_transaction_read_only": "on"}
    engine = _postgresql(url, settings, connections=1, server=server, name="rayhaul listen")
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def migrator(url: sa.URL, *, wait_max_s: float) -> sa.Engine:
    """Return an engine of one connection for changing the tables; its transactions exclude other migrations."""
    settings = LedgerSettings(busy_timeout_s=wait_max_s)
    if sqlite_file(url) is None:
        engine = _postgresql(url, settings, connections=1, server={"statement_timeout": "0"})
        sa.event.listen(engine, "begin", _take_migration_lock)
        return engine
    # No foreign_keys: a table that is copied (batch mode) is dropped while others refer to it.
    engine = _sqlite(url, settings, connections=1, pragmas=("journal_mode=WAL", "synchronous=FULL"))
    sa.event.listen(engine, "begin", _begin_immediate)
    return engine


def of_one_snapshot(connection: sa.Connection) -> sa.Connection:
    """Return a reader's fresh connection, all of whose statements will see the same state of the ledger."""
    if connection.dialect.name == "sqlite":
        return connection
    return connection.execution_options(isolation_level="REPEATABLE READ")


def _begin(connection: sa.Connection) -> None:
    _say(connection, "BEGIN")


def _begin_immediate(connection: sa.Connection) -> None:
    _say(connection, "BEGIN IMMEDIATE")


def _say(connection: sa.Connection, sql: str) -> None:
    """Run a statement past SQLAlchemy, which would take several times as long."""
    with closing(connection.connection.cursor()) as cursor:
        cursor.execute(sql)


def _take_writer_lock(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_catalog.pg_advisory_xact_lock({WRITER_LOCK})")


def _take_migration_lock(connection: sa.Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_catalog.pg_advisory_xact_lock({MIGRATION_LOCK})")


def _sqlite(url: sa.URL, settings: LedgerSettings, *, connections: int, pragmas: Sequence[str]) -> sa.Engine:
    def connect() -> sqlite3.Connection:
        return _connected(url, settings.busy_timeout_s, pragmas)

    return sa.create_engine(url, creator=connect, json_serializer=_encode, **_pool(settings, connections))


def _connected(url: sa.URL, busy_timeout_s: float, pragmas: Sequence[str]) -> sqlite3.Connection:
    # mode=rw: a missing file is an error, not a new and empty ledger.
    path = f"file:{quote(str(sqlite_file(url)))}?mode=rw"
    # isolation_level None: the sqlite3 module begins nothing by itself; our `begin` listeners do.
    # check_same_thread: the pool hands a connection to one thread at a time.
    connection = sqlite3.connect(path, uri=True, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False)
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _postgresql(
    url: sa.URL, settings: LedgerSettings, *, connections: int, server: Mapping[str, str], name: str = "rayhaul"
) -> sa.Engine:
    server = {
        "default_transaction_isolation": r"read\ committed",
        "statement_timeout": f"{_STATEMENT_TIMEOUT_S}s",
        "lock_timeout": f"{int(settings.busy_timeout_s * 1000)}ms",
        **server,
    }
    arguments = {
        "application_name": name,
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "keepalives_idle": _SILENCE_MAX_S // 3,
        "keepalives_interval": _SILENCE_MAX_S // 3,
        "keepalives_count": 2,
        "tcp_user_timeout": _SILENCE_MAX_S * 1000,
        # After what the URL itself may ask for, a search_path say.
        "options": " ".join([*url.normalized_query.get("options", ()), *(f"-c {n}={v}" for n, v in server.items())]),
    }
    # paramstyle format: rows go to both drivers as tuples.
    return sa.create_engine(
        url, connect_args=arguments, paramstyle="format", json_serializer=_encode, **_pool(settings, connections)
    )


def _pool(settings: LedgerSettings, connections: int) -> dict[str, Any]:
    return {
        "poolclass": sa.QueuePool,
        "pool_size": connections,
        "max_overflow": 0,
        "pool_timeout": settings.busy_timeout_s,
    }
