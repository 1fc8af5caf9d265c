"""What surrounds every request: correlation id, span, log line, metrics, body limit, security headers.

Pure ASGI, so that event streams pass through unbuffered and a client that hangs up is seen at once. It stands outermost
of ours: it also answers what nobody expected.
"""

import logging
import re
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayhaul import ids
from rayhaul import log as rayhaul_log
from rayhaul.errors import Internal, RayhaulError
from rayhaul.metrics import HTTP_DURATION, HTTP_REQUESTS, Meter
from rayhaul.tracing import NO_SPAN, OFF, Kind, Span, TraceContext, Tracer, parsed, unrecorded
from serve_app import edge, problems
from serve_app.limits import Limiter
from serve_app.visit import Visit, enter

log = logging.getLogger(__name__)

#: Others count as one, so that a client cannot make up metric labels.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
#: Route label of a request that no route wanted.
_UNMATCHED = "(unmatched)"
#: Asked every few seconds by machines; nobody looks for their traces.
_UNTRACED = frozenset({"/livez", "/readyz", "/metrics"})
#: What is logged where the client went away before an answer began (nginx's code for it).
_CLIENT_CLOSED = 499

_JOB_ID = re.compile(r"job_[0-9a-z]{26}")

_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_STORE = (b"cache-control", b"no-store")
#: Data is never a document; the page says by itself what it may load.
_CSP = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Context:
    def __init__(
        self, app: ASGIApp, *, meter: Meter, limiter: Limiter, body_bytes_max: int, tracer: Tracer = OFF
    ) -> None:
        self.app = app
        self.meter = meter
        self.limiter = limiter
        self.body_bytes_max = body_bytes_max
        self.tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        correlation_id, caller = _ids(scope["headers"])
        with self._span(scope, caller) as span:
            visit = Visit(correlation_id, span.context or caller or unrecorded())
            enter(scope, visit)
            with rayhaul_log.bind(correlationId=correlation_id, traceId=visit.trace.trace_id):
                await _Exchange(self, visit, scope, receive, send).run(span)

    def _span(self, scope: Scope, caller: TraceContext | None) -> Span:
        return NO_SPAN if scope["path"] in _UNTRACED else self.tracer.span("", Kind.SERVER, parent=caller)


def _ids(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, TraceContext | None]:
    """Return the correlation id, and what the caller's trace is; of several traceparents none counts (W3C 3.2.1)."""
    correlation = None
    traceparents = []
    for name, value in headers:
        if name == b"x-correlation-id":
            correlation = correlation or value.decode("latin-1")
        elif name == b"traceparent":
            traceparents.append(value.decode("latin-1"))
    return ids.correlation_id(correlation), parsed(traceparents[0]) if len(traceparents) == 1 else None


class _Exchange:
    """One request and its answer."""

    def __init__(self, context: Context, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        self._app = context.app
        self._meter = context.meter
        self._limiter = context.limiter
        self._body_bytes_max = context.body_bytes_max
        self._visit = visit
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began = time.perf_counter()
        self._body_bytes = 0
        self._status: int | None = None

    async def run(self, span: Span) -> None:
        try:
            refused = edge.refusal(self._scope, body_bytes_max=self._body_bytes_max)
            if refused is not None:
                await self._answer(refused)
            else:
                await self._app(self._scope, self._read, self._write)
        except Exception as err:  # whatever a route did not expect is answered and logged here, once
            log.exception("unexpected error")
            if self._status is not None:
                raise
            await self._answer(Internal(str(err)))
        finally:
            self._describe(span)
            self._log()

    async def _answer(self, error: RayhaulError) -> None:
        answer = problems.response(error, self._visit.correlation_id)
        await answer(self._scope, self._receive, self._write)

    async def _read(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._body_bytes += len(message.get("body", b""))
            if self._body_bytes > self._body_bytes_max:
                raise edge.BodyTooLarge
        return message

    async def _write(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = message["headers"] = list(message["headers"])
            headers.append((b"x-correlation-id", self._visit.correlation_id.encode("ascii")))
            headers.extend(_SECURITY_HEADERS)
            if self._visit.rate is not None:
                headers.extend(self._limiter.headers(self._visit.rate))
            said = dict(headers)
            if b"cache-control" not in said:
                headers.append(_NO_STORE)
            if b"content-security-policy" not in said:
                headers.append(_CSP)
            self._count(message["status"])
        await self._send(message)

    @property
    def _method(self) -> str:
        method: str = self._scope["method"]
        return method if method in _METHODS else "OTHER"

    @property
    def _route(self) -> str:
        return getattr(self._scope.get("route"), "path", _UNMATCHED)

    def _count(self, status: int) -> None:
        self._meter.inc(HTTP_REQUESTS, self._method, self._route, str(status))
        trace = self._visit.trace
        self._meter.observe(
            HTTP_DURATION,
            time.perf_counter() - self._began,
            self._method,
            self._route,
            trace_id=trace.trace_id if trace.sampled else None,
        )

    def _describe(self, span: Span) -> None:
        """Say what was asked, by OpenTelemetry's names for HTTP servers. The path may be long, the query secret."""
        span.name(f"{self._method} {self._route}")
        span.set(
            {
                "http.request.method": self._method,
                "http.route": self._route,
                "http.response.status_code": self._status or _CLIENT_CLOSED,
                "correlationId": self._visit.correlation_id,
                "userId": self._visit.user_id,
            }
        )

    def _log(self) -> None:
        if not log.isEnabledFor(logging.INFO):
            return
        status = self._status or _CLIENT_CLOSED
        fields = {
            "handler": f"{self._method} {self._route}",
            "statusCode": status,
            "durationMs": round((time.perf_counter() - self._began) * 1000, 1),
        }
        if self._visit.user_id is not None:
            fields["userId"] = self._visit.user_id
        job_id = self._visit.job_id or self._scope.get("path_params", {}).get("job_id", "")
        # What a caller put in its place is not told.
        if _JOB_ID.fullmatch(job_id):
            fields["jobId"] = job_id
        log.info("%s %s", fields["handler"], status, extra=fields)
