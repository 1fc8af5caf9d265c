"""What is refused before any route sees it: too much of anything, and the knobs that Ray Serve leaves to clients.

It stands in every replica, so a replica's own port is no way round it.
"""

from collections.abc import Iterable

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from rayhaul.errors import InvalidRequest, RayhaulError

#: As many as HAProxy takes (tune.http.maxhdr is 101, the request line included).
HEADERS_MAX = 100
HEADER_BYTES_MAX = 16 * 1024
TARGET_BYTES_MAX = 8 * 1024

#: Serve reads them (ray/serve/_private/constants.py): how long it waits for an answer, whether it notices that a client
#: is gone, and which replica is preferred. None of this is the client's to say.
_SERVE_KNOBS = frozenset(
    {
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"serve_multiplexed_model_id",
        b"serve-multiplexed-model-id",
    }
)

#: Serve would send those of one session to one replica; it is no reason to refuse a request.
_SESSION = frozenset({b"x-session-id", b"x_session_id"})


class BodyTooLarge(InvalidRequest):
    """The body is larger than the API takes."""

    http_status = 413


class TargetTooLong(InvalidRequest):
    """Path and query are longer than the API takes."""

    http_status = 414


class HeadersTooLarge(InvalidRequest):
    """The header fields are more or longer than the API takes."""

    http_status = 431


class KnobRefused(InvalidRequest):
    """A header field asks for what only the server decides."""

    http_status = 400


class WithoutKnobs:
    """An ASGI application that never sees Serve's knobs.

    Serve reads them before it asks the application: a deadline of a millisecond would be its 408, and one that is no
    UTF-8 its 500. This stands before Serve's own reading, in each replica and in its proxies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope["headers"] = [field for field in scope["headers"] if field[0].lower() not in _SERVE_KNOBS | _SESSION]
        await self._app(scope, receive, send)


def before_serve() -> list[Middleware]:
    """Return what stands before Serve: it is told where this is by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(WithoutKnobs)]


def refusal(scope: Scope, *, body_bytes_max: int) -> RayhaulError | None:
    """Return why this request goes no further; None where it may."""
    headers: list[tuple[bytes, bytes]] = list(scope["headers"])
    if len(headers) > HEADERS_MAX or sum(len(name) + len(value) for name, value in headers) > HEADER_BYTES_MAX:
        return HeadersTooLarge()
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > TARGET_BYTES_MAX:
        return TargetTooLong()
    if _announced_bytes(headers) > body_bytes_max:
        return BodyTooLarge()
    for name, _ in headers:
        if name in _SERVE_KNOBS:
            return KnobRefused(f"the header field {name.decode()} is not taken from clients")
    return None


def _announced_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
