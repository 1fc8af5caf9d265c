"""What is known of one request while it is served: its ids, and who asks once the key was checked."""

import re
from dataclasses import dataclass

from starlette.types import Scope

from rayhaul.policy.rate_limit import Verdict

_SCOPE_KEY = "rayhaul.visit"

# W3C Trace Context 3.2: version, trace-id, parent-id, flags; a version newer than 00 may go on after another dash.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(slots=True)
class Visit:
    correlation_id: str
    #: A valid W3C traceparent of version 00, or None.
    traceparent: str | None = None
    #: Set when the key was checked.
    user_id: str | None = None
    #: The job that the request has made; one that it is about stands in its path.
    job_id: str | None = None
    #: What the key's rate limit said.
    rate: Verdict | None = None

    @property
    def trace_id(self) -> str | None:
        return self.traceparent.split("-")[1] if self.traceparent else None


def enter(scope: Scope, visit: Visit) -> None:
    scope[_SCOPE_KEY] = visit


def visit_of(scope: Scope) -> Visit:
    visit: Visit = scope[_SCOPE_KEY]
    return visit


def valid_traceparent(offered: str | None) -> str | None:
    """Return the header as version 00, or None where it breaks the rules (W3C Trace Context 3.2.2).

    >>> valid_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
    >>> valid_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
    True
    """
    match = _TRACEPARENT.fullmatch(offered or "")
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return f"00-{trace_id}-{parent_id}-{flags}"
