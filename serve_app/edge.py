"""What is refused before any route sees it: too much of anything, and the knobs that Ray Serve leaves to clients.

It stands in every replica, so a replica's own port is no way round it.
"""

from collections.abc import Iterable

from starlette.types import Scope

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
