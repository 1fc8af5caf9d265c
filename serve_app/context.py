"""What surrounds every request: correlation id, log line, metrics, body limit, security headers.

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
from serve_app import edge, problems
from serve_app.limits import Limiter
from serve_app.visit import Visit, enter, valid_traceparent

log = logging.getLogger(__name__)

#: Others count as one, so that a client cannot make up metric labels.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
#: Route label of a request that no route wanted.
_UNMATCHED = "(unmatched)"
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
#: Data is never a document; a page says by itself what it may load, and is framed by nobody.
_CSP_DATA = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_CSP_PAGE = (b"content-security-policy", b"frame-ancestors 'none'; base-uri 'none'; object-src 'none'")


class Context:
    def __init__(self, app: ASGIApp, *, meter: Meter, limiter: Limiter, body_bytes_max: int) -> None:
        self.app = app
        self.meter = meter
        self.limiter = limiter
        self.body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _visit(scope["headers"])
        enter(scope, visit)
        with rayhaul_log.bind(correlationId=visit.correlation_id, traceId=visit.trace_id):
            await _Exchange(self, visit, scope, receive, send).run()


def _visit(headers: Iterable[tuple[bytes, bytes]]) -> Visit:
    correlation = traceparent = None
    for name, value in headers:
        if name == b"x-correlation-id":
            correlation = correlation or value.decode("latin-1")
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
    return Visit(ids.correlation_id(correlation), valid_traceparent(traceparent))


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

    async def run(self) -> None:
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
                is_page = said.get(b"content-type", b"").startswith(b"text/html")
                headers.append(_CSP_PAGE if is_page else _CSP_DATA)
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
        self._meter.observe(HTTP_DURATION, time.perf_counter() - self._began, self._method, self._route)

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
