"""Each ledger test runs on a SQLite file and on a real PostgreSQL, started once per test session."""

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from ledger_files import sqlite_url
from postgresql import running_postgresql

from rayhaul.ledger import migrate, tables
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings

#: A lock that is not given up in tests is reported after this.
SETTINGS = LedgerSettings(busy_timeout_s=0.3, pool_max=2)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a server's own database."""
    with running_postgresql() as url:
        yield url


class Databases:
    """Databases of one server; one given back is emptied and used again, which takes a tenth of making one."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._numbers = count()
        self._free: list[str] = []

    def create(self) -> str:
        """Return the URL of a database with nothing in it."""
        name = f"ledger_{next(self._numbers)}"
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self._server.replace("/postgres?", f"/{name}?")

    def take(self) -> str:
        """Return the URL of a database with empty tables in it."""
        if self._free:
            return self._free.pop()
        url = self.create()
        migrate.upgrade(url)
        return url

    def give_back(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"TRUNCATE {', '.join(tables.metadata.tables)} RESTART IDENTITY".encode())
        self._free.append(url)


@pytest.fixture(scope="session")
def databases(postgresql_server: str) -> Databases:
    return Databases(postgresql_server)


@pytest.fixture(params=("sqlite", "postgresql"))
def database(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Return the URL of a fresh ledger each time; the tables may or may not be there yet."""
    if database == "sqlite":
        numbers = count()
        yield lambda: sqlite_url(tmp_path, f"ledger{next(numbers)}.db")
        return
    databases: Databases = request.getfixturevalue("databases")
    taken: list[str] = []

    def take() -> str:
        taken.append(databases.take())
        return taken[-1]

    yield take
    for url in taken:
        databases.give_back(url)


@pytest.fixture
def empty_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a ledger without tables."""
    if database == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    databases: Databases = request.getfixturevalue("databases")
    return databases.create()


@pytest.fixture
def url(new_url: Callable[[], str]) -> str:
    return new_url()


@pytest.fixture
async def ledger(url: str) -> AsyncIterator[SqlLedger]:
    opened = open_ledger(SETTINGS, url)
    yield opened
    await opened.close()
