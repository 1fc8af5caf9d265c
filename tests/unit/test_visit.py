"""The trace a request comes with."""

import pytest

from serve_app.visit import Visit, valid_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("offered", "kept"),
    [
        (GOOD, GOOD),
        (f"01-{TRACE}-{PARENT}-01", GOOD),
        (f"01-{TRACE}-{PARENT}-01-more", GOOD),
        (f"{GOOD}-more", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (GOOD.upper(), None),
        (f"{GOOD}\n", None),
        (f"00-{TRACE}-{PARENT}", None),
        ("", None),
        (None, None),
    ],
)
def test_traceparents(offered: str | None, kept: str | None) -> None:
    """W3C Trace Context 3.2.2: newer versions are read as 00, what breaks the rules is dropped."""
    assert valid_traceparent(offered) == kept


def test_the_trace_id_is_logged() -> None:
    """Bound to log lines, where there is one."""
    assert Visit("corr", GOOD).trace_id == TRACE
    assert Visit("corr").trace_id is None
