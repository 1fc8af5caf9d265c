"""A real S3 server for tests: one SeaweedFS for the whole test session, one key prefix for each test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve_app.kept_store import KeptStore
from serve_app.seaweed import Seaweed


@contextmanager
def running_store() -> Iterator[Seaweed]:
    """Yield a started SeaweedFS over a directory that goes away with it."""
    directory = Path(tempfile.mkdtemp(prefix=f"rayhaul-store-{os.getpid()}-"))
    store = Seaweed(directory)
    try:
        store.start()
        yield store
    finally:
        store.kill()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def kept_store() -> Iterator[Seaweed]:
    """Yield a started SeaweedFS that is started again when it dies."""
    directory = Path(tempfile.mkdtemp(prefix=f"rayhaul-store-{os.getpid()}-"))
    store = Seaweed(directory)
    kept = KeptStore(store)
    try:
        kept.start()
        yield store
    finally:
        kept.stop()
        shutil.rmtree(directory, ignore_errors=True)
