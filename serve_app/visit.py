"""What is known of one request while it is served: its ids, and who asks once the key was checked."""

from dataclasses import dataclass

from starlette.types import Scope

from rayhaul.policy.rate_limit import Verdict
from rayhaul.tracing import TraceContext

_SCOPE_KEY = "rayhaul.visit"


@dataclass(slots=True)
class Visit:
    correlation_id: str
    #: Of the span that serves it; of the caller's where we record none; made up where there was none either.
    trace: TraceContext
    #: Set when the key was checked.
    user_id: str | None = None
    #: The job that the request has made; one that it is about stands in its path.
    job_id: str | None = None
    #: What the key's rate limit said.
    rate: Verdict | None = None


def enter(scope: Scope, visit: Visit) -> None:
    scope[_SCOPE_KEY] = visit


def visit_of(scope: Scope) -> Visit:
    visit: Visit = scope[_SCOPE_KEY]
    return visit
