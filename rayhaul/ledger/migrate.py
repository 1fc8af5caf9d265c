"""Bringing the ledger's tables up to date, from any earlier version, in one transaction.

Laws of this file:
1. Everything happens or nothing: both databases can undo the creation of tables.
2. Several processes may start at once: one migrates, the others wait and find nothing to do.
3. A ledger from a newer Rayhaul is refused: old code would write rows the newer one can not read.
"""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rayhaul.errors import ServiceError, Unavailable
from rayhaul.ledger import connect
from rayhaul.ledger.failures import DATABASE_ERRORS, classified
from rayhaul.settings import LedgerSettings

_SCRIPTS = Path(__file__).with_name("migrations")
#: Longest wait for another process that migrates: it may have a large table to copy.
_WAIT_MAX_S = 600
_WAIT_STEP_S = 0.05


def upgrade(url: str, *, wait_max_s: float = _WAIT_MAX_S) -> None:
    """Bring the ledger at `url` to the newest revision; an empty or missing one is created.

    Waits at most `wait_max_s` for another process that does the same.

    Raises: ServiceError where it is newer than this code; Unavailable.
    """
    parsed = connect.parse_url(url)
    path = connect.sqlite_file(parsed)
    try:
        if path is None:
            _upgrade(connect.migrator(parsed, wait_max_s=wait_max_s))
            return
        connect.create_file(path)
        with _alone(path, wait_max_s):
            _upgrade(connect.migrator(parsed, wait_max_s=wait_max_s))
    except DATABASE_ERRORS as err:
        raise _meaning(err) from err


def check(url: str) -> None:
    """Make sure that the ledger at `url` can be read by this code.

    Raises: ServiceError where it is newer; Unavailable where it is older, and so about to be migrated by its writer.
    """
    engine = connect.readers(connect.parse_url(url), LedgerSettings(pool_max=1))
    try:
        with engine.connect() as connection:
            found = _revision(connection)
    except DATABASE_ERRORS as err:
        raise _meaning(err) from err
    finally:
        engine.dispose()
    if found != _revisions()[0]:
        raise Unavailable("the ledger is not migrated yet")


def _upgrade(engine: sa.Engine) -> None:
    try:
        with engine.begin() as connection:
            if _revision(connection) == _revisions()[0]:
                return
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def _revision(connection: sa.Connection) -> str | None:
    """Return the ledger's revision, None where it is empty.

    Raises: ServiceError where this code does not know it.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in _revisions():
        raise ServiceError(f"the ledger was written by a newer Rayhaul (revision {found}): upgrade this one")
    return found


def _config() -> Config:
    config = Config()
    # The option's value is a format string: % is doubled.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config


@cache
def _revisions() -> Sequence[str]:
    """Return what this code knows, the newest first. To find out it runs every script, so it is asked once."""
    return [script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions()]


def _meaning(error: Exception) -> Exception:
    return classified(error) or error


@contextmanager
def _alone(path: Path, wait_max_s: float) -> Iterator[None]:
    """Hold the lock file beside the database.

    BEGIN IMMEDIATE alone would not do: the switch to WAL comes before it, and of processes that switch at the same time
    now and then one is told "database is locked" at once (one in 1,500 starts of six together).

    Raises: Unavailable.
    """
    try:
        lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise Unavailable(f"the ledger's lock file can not be opened: {err.strerror}") from err
    try:
        deadline_s = time.monotonic() + wait_max_s
        while not _try_lock(lock):
            if time.monotonic() > deadline_s:
                raise Unavailable("another process is still migrating the ledger")
            time.sleep(_WAIT_STEP_S)
        yield
    finally:
        os.close(lock)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
