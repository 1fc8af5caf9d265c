"""What a database's error means: the one place where errors of SQLAlchemy, sqlite3 and psycopg are read.

Laws of this file:
1. Locked, full, out of reach, read-only, cut off: `Unavailable`, one sentence, worth another try.
2. A row that is already there: `LedgerConflict`; there is only one writer, so somebody else is writing.
3. A value no column can hold is the caller's: `InvalidRequest`.
4. Everything else is our bug and is not touched.
"""

import sqlite3

import psycopg
import sqlalchemy as sa

from rayhaul.errors import InvalidRequest, RayhaulError, Unavailable
from rayhaul.ledger.base import LedgerConflict

#: By primary result code (https://sqlite.org/rescode.html).
_SQLITE = {
    sqlite3.SQLITE_BUSY: "the ledger is locked by another process",
    sqlite3.SQLITE_LOCKED: "the ledger is locked by another process",
    sqlite3.SQLITE_NOMEM: "the ledger ran out of memory",
    sqlite3.SQLITE_READONLY: "the ledger's file or directory can not be written",
    sqlite3.SQLITE_INTERRUPT: "the ledger's statement was interrupted",
    sqlite3.SQLITE_IOERR: "the ledger's disk reports an input or output error",
    sqlite3.SQLITE_FULL: "the ledger's disk is full",
    sqlite3.SQLITE_CANTOPEN: "the ledger's file can not be opened",
    sqlite3.SQLITE_PROTOCOL: "the ledger is locked by another process",
}
_SQLITE_DUPLICATES = (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)

#: By SQLSTATE or its class, the first two characters (PostgreSQL, appendix A).
_POSTGRESQL = {
    "08": "the connection to the ledger's database was lost",
    "25006": "the ledger's database is a read-only standby",
    "28": "the ledger's database refuses our user or password",
    "3D": "the ledger's database does not exist",
    "40": "the ledger's database undid the transaction because another was in its way",
    "53": "the ledger's database has run out of disk, memory or connections",
    "55P03": "the ledger is locked by another process",
    "57": "the ledger's database is shutting down or stopped the statement",
    "58": "the ledger's database reports a system error",
}
_POSTGRESQL_DUPLICATE = "23505"

#: All that a call of the database may raise, wrapped up by SQLAlchemy or not. The last two come from the driver's own
#: encoding: a text that is no Unicode, a number of more than 64 bits.
DATABASE_ERRORS = (sa.exc.SQLAlchemyError, sqlite3.Error, psycopg.Error, UnicodeEncodeError, OverflowError)


def classified(error: Exception) -> RayhaulError | None:
    """Return what `error` means to the ledger's user; None where it is our bug and should be raised as it is."""
    original = error.orig if isinstance(error, sa.exc.StatementError) else error
    if isinstance(original, UnicodeEncodeError | OverflowError | psycopg.DataError):
        return InvalidRequest("the ledger can not store one of the values")
    if isinstance(original, sa.exc.TimeoutError):
        return Unavailable("all connections to the ledger are in use")
    if isinstance(original, sqlite3.Error):
        return _of_sqlite(original)
    if isinstance(original, psycopg.Error):
        return _of_postgresql(original)
    return None


def _of_sqlite(error: sqlite3.Error) -> RayhaulError | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code in _SQLITE_DUPLICATES:
        return LedgerConflict()
    sentence = _SQLITE.get(code & 0xFF)
    return None if sentence is None else Unavailable(sentence)


def _of_postgresql(error: psycopg.Error) -> RayhaulError | None:
    state = error.sqlstate
    if state == _POSTGRESQL_DUPLICATE:
        return LedgerConflict()
    if state is None:
        # There is no connection (any more). Why one was refused (no place left, wrong password, no such database) the
        # server says in its own language only: libpq hands out no SQLSTATE for it.
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Unavailable("the ledger's database can not be reached, or does not let us in") if lost else None
    sentence = _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2])
    return None if sentence is None else Unavailable(sentence)
