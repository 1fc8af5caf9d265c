"""One embedded cluster and one origin for the tests that do not break them."""

from collections.abc import Iterator

import pytest
from embedded import Embedded, embedded
from origin import Origin, OriginThread


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """A cluster of two agents; tests leave it running."""
    with embedded(tmp_path_factory.mktemp("cluster") / "data") as running:
        yield running


@pytest.fixture
def origin() -> Iterator[Origin]:
    """An origin in a thread of its own."""
    with OriginThread() as running:
        yield running
