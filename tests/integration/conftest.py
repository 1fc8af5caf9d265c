"""An origin of its own for each test, and connections to it; a file that needs another one says so itself."""

from collections.abc import AsyncIterator

import pytest
from fetching import Connect, connecting
from origin import Origin

from tasks.egress import GuardedClient


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin


@pytest.fixture
async def connect(origin: Origin) -> AsyncIterator[Connect]:
    async with connecting(origin) as connect:
        yield connect


@pytest.fixture
def client(connect: Connect) -> GuardedClient:
    return connect()
