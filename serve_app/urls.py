"""URLs that callers send: checked before anything is done with them, and by the connection itself once more."""

from collections.abc import Iterator
from contextlib import contextmanager

from rayhaul.errors import EgressDenied, InvalidRequest
from rayhaul.metrics import EGRESS_DENIED
from rayhaul.policy.admission import InvalidField
from serve_app.replica import Replica
from tasks.guard import Denied


def check_url(replica: Replica, field: str, url: str) -> None:
    """Check a URL that is posted to, or asked. Raises: InvalidField where it is no URL; EgressDenied."""
    with _named(field):
        replica.guard.check_url(url)


def check_source(replica: Replica, field: str, url: str) -> None:
    """Check a URL that a file is read from. Raises: InvalidField where it is none that can be; EgressDenied."""
    with _named(field):
        replica.sources.check(url)


@contextmanager
def _named(field: str) -> Iterator[None]:
    try:
        yield
    except InvalidRequest as err:
        raise InvalidField(field, err.message) from None
    except Denied as err:
        raise _DeniedField(field, err) from None


class _DeniedField(EgressDenied):
    """A URL of the request leads where nobody may fetch."""

    def __init__(self, field: str, denied: Denied) -> None:
        super().__init__(f"{field}: {denied.message}")
        self.reason = denied.reason


@contextmanager
def counting_denials(replica: Replica) -> Iterator[None]:
    """Count the URLs that `check_url` refuses; from the event loop's thread, where the meter lives."""
    try:
        yield
    except _DeniedField as err:
        replica.meter.inc(EGRESS_DENIED, err.reason)
        raise
