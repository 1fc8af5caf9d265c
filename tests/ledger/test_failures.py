"""What the databases' errors mean, from those that are hard to cause: one table, one sentence each."""

import sqlite3

import psycopg
import pytest
import sqlalchemy as sa

from rayhaul.errors import InvalidRequest, Unavailable
from rayhaul.ledger.base import LedgerConflict
from rayhaul.ledger.failures import classified


def of_sqlite(code: int) -> Exception:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorcode = code
    return sa.exc.OperationalError("SELECT 1", None, error)


def of_postgresql(state: str) -> Exception:
    return sa.exc.DBAPIError("SELECT 1", None, psycopg.errors.lookup(state)("as PostgreSQL says it"))


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (of_sqlite(sqlite3.SQLITE_BUSY), "locked"),
        (of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), "locked"),
        (of_sqlite(sqlite3.SQLITE_FULL), "full"),
        (of_sqlite(sqlite3.SQLITE_IOERR_FSYNC), "input or output"),
        (of_sqlite(sqlite3.SQLITE_READONLY_DBMOVED), "written"),
        (of_sqlite(sqlite3.SQLITE_CANTOPEN_ISDIR), "opened"),
        (of_postgresql("08006"), "lost"),
        (of_postgresql("25006"), "standby"),
        (of_postgresql("28P01"), "password"),
        (of_postgresql("3D000"), "not exist"),
        (of_postgresql("40P01"), "in its way"),
        (of_postgresql("53100"), "disk"),
        (of_postgresql("53300"), "connections"),
        (of_postgresql("55P03"), "locked"),
        (of_postgresql("57P01"), "shutting down"),
        (of_postgresql("57014"), "stopped"),
        (of_postgresql("58030"), "system error"),
        (sa.exc.OperationalError("", None, psycopg.OperationalError("connection is bad")), "reached"),
        (sa.exc.InterfaceError("", None, psycopg.InterfaceError("the connection is closed")), "reached"),
        (sa.exc.TimeoutError("QueuePool limit"), "in use"),
    ],
)
def test_what_may_pass_is_unavailable(error: Exception, word: str) -> None:
    """Each is worth another try, and says in one sentence of ours what is wrong."""
    found = classified(error)
    assert isinstance(found, Unavailable)
    assert found.retryable
    assert word in found.message
    assert "says it" not in found.message


@pytest.mark.parametrize(
    "error",
    [
        of_sqlite(sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY),
        of_sqlite(sqlite3.SQLITE_CONSTRAINT_UNIQUE),
        of_postgresql("23505"),
    ],
)
def test_a_row_that_exists_is_a_conflict(error: Exception) -> None:
    """Both databases say in their way that somebody else has written."""
    assert isinstance(classified(error), LedgerConflict)


@pytest.mark.parametrize("error", [of_postgresql("22021"), OverflowError(), "\ud800"])
def test_a_value_that_fits_nowhere_is_the_callers(error: Exception | str) -> None:
    """A byte 0 in PostgreSQL's text, a number beyond 64 bits, half a character: nothing to retry."""
    if isinstance(error, str):
        try:
            error.encode()
        except UnicodeEncodeError as raised:
            error = raised
    assert isinstance(error, Exception)
    assert isinstance(classified(error), InvalidRequest)


@pytest.mark.parametrize(
    "error",
    [
        of_sqlite(sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY),
        of_sqlite(sqlite3.SQLITE_CONSTRAINT_NOTNULL),
        of_sqlite(sqlite3.SQLITE_ERROR),
        of_sqlite(sqlite3.SQLITE_CORRUPT),
        of_postgresql("23503"),
        of_postgresql("42P01"),
        sa.exc.ProgrammingError("", None, sqlite3.ProgrammingError("closed")),
        sa.exc.ArgumentError("no such column"),
        ValueError("ours"),
    ],
)
def test_our_bugs_stay_what_they_are(error: Exception) -> None:
    """Nothing of ours hides behind a retry."""
    assert classified(error) is None
