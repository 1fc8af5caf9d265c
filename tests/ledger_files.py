"""Fresh ledgers on SQLite, for tests that are about something else: migrated once in a process, then copied."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from rayhaul.ledger import migrate


@cache
def _empty() -> bytes:
    with TemporaryDirectory(prefix="rayhaul-ledger-") as directory:
        path = Path(directory) / "ledger.db"
        migrate.upgrade(f"sqlite:///{path}")
        return path.read_bytes()


def sqlite_url(directory: Path, name: str = "ledger.db") -> str:
    """Return the URL of a ledger in a directory: a new one with empty tables, unless it is there already."""
    path = directory / name
    if not path.exists():
        path.touch(0o600)
        path.write_bytes(_empty())
    return f"sqlite:///{path}"
