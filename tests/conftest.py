"""Fixtures shared by all tests."""

import signal
from collections.abc import Iterator
from functools import cache

import pytest
from botocore.loaders import JSONFileLoader
from hypothesis import HealthCheck, settings
from log_watch import watch
from store import running_store

from serve_app.seaweed import Seaweed

# What is true must not hang on how busy the machine is.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# A process makes one client of a store, and reads megabytes of JSON for it; tests make hundreds.
_read_json = cache(JSONFileLoader().load_file)
setattr(JSONFileLoader, "load_file", lambda _, path: _read_json(path))  # noqa: B010 - mypy knows it as a method


def pytest_configure(config: pytest.Config) -> None:
    """Have every log line of the session checked, and Ctrl-C heard."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what runs in its background deaf to it, and so would be all that tests start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(watch, "log-watch")


@pytest.fixture(scope="session")
def store() -> Iterator[Seaweed]:
    """A running SeaweedFS: `store.settings` is its S3Settings. Shared, so each test uses keys of its own."""
    with running_store() as store:
        yield store
