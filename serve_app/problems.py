"""Every error as `application/problem+json` (RFC 9457), with the stable `code` and the correlation id.

Laws of this file:
1. What a caller sent is never shown back: a field's name and what is wrong with it, not its value.
2. A thing of somebody else and a thing that does not exist get the same answer.
3. What went wrong on our side stands in the log; the caller gets the code and the correlation id to ask with.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rayhaul import tracing
from rayhaul.errors import Fault, Internal, InvalidRequest, NotFound, RayhaulError, Unauthorized
from rayhaul.policy.admission import InvalidField
from rayhaul.wire import Problem
from serve_app.limits import POLICY, AskedTooOften
from serve_app.visit import visit_of

MEDIA_TYPE = "application/problem+json"
#: Of a key that asks too often; its other members are as for any problem (RFC 9457 4.2.1).
_QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"

log = logging.getLogger(__name__)

#: Wrong fields named in one answer; a batch can have thousands of them.
_ERRORS_MAX = 20
#: Beyond it the list is not even built; reading a million of them takes many seconds.
_ERRORS_READ_MAX = 1000
_FIELD_CHARACTERS_MAX = 100
#: What a caller is asked to wait where the error does not say.
_RETRY_AFTER_S = 1.0

FieldErrors = Sequence[Mapping[str, str]]


class InvalidFields(InvalidRequest):
    """Some fields of the request are wrong."""

    def __init__(self, errors: FieldErrors) -> None:
        super().__init__()
        self.errors = errors


class Malformed(InvalidRequest):
    """The body is no JSON."""

    http_status = 400


def invalid_fields(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> InvalidRequest:
    """Return the error for what pydantic found, without the first `skip` steps of each place and without any value."""
    if any(error["type"] == "json_invalid" for error in errors):
        return Malformed()
    return InvalidFields(
        [
            {"field": ".".join(map(str, error["loc"][skip:]))[:_FIELD_CHARACTERS_MAX], "message": error["msg"]}
            for error in errors[:_ERRORS_MAX]
        ]
    )


def from_validation(error: ValidationError) -> InvalidRequest:
    if error.error_count() > _ERRORS_READ_MAX:
        return InvalidRequest("far too many fields are wrong")
    return invalid_fields(error.errors(include_url=False, include_context=False, include_input=False))


def response(
    error: RayhaulError, correlation_id: str, *, status: int | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the problem that tells of `error`."""
    status = status or error.http_status
    span = tracing.current()
    span.set({"code": error.code})
    if status >= 500:
        span.fail(error.code)
    limited = isinstance(error, AskedTooOften)
    problem = Problem(
        type=_QUOTA_EXCEEDED if limited else "about:blank",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_detail(error),
        code=error.code,
        correlation_id=correlation_id,
        errors=_errors(error),
        violated_policies=[POLICY] if limited else None,
    )
    return Response(
        problem.model_dump_json(by_alias=True, exclude_none=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={**_headers(error, status), **(headers or {})},
    )


def _detail(error: RayhaulError) -> str:
    if isinstance(error, NotFound):
        return NotFound().message
    if error.fault is Fault.US and error.http_status == 500:
        return Internal().message
    return error.message


def _errors(error: RayhaulError) -> list[dict[str, Any]] | None:
    if isinstance(error, InvalidFields):
        return [dict(entry) for entry in error.errors]
    if isinstance(error, InvalidField):
        return [{"field": error.field, "message": error.reason}]
    return None


def _headers(error: RayhaulError, status: int) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if status in {429, 503}:
        wait_s = _RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        return {"Retry-After": str(max(1, math.ceil(wait_s)))}
    return {}


def install(app: FastAPI) -> None:
    """Make the application answer with problems."""
    # Starlette's signature asks for handlers of any Exception; each gets the kind it is registered for.
    app.add_exception_handler(RayhaulError, _on_rayhaul_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _on_validation_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _on_http_exception)  # type: ignore[arg-type]


async def _on_rayhaul_error(request: Request, error: RayhaulError) -> Response:
    if error.http_status == 500:
        log.error("%s", error.message, exc_info=error)
    return response(error, visit_of(request.scope).correlation_id)


async def _on_validation_error(request: Request, error: RequestValidationError) -> Response:
    return response(invalid_fields(error.errors(), skip=1), visit_of(request.scope).correlation_id)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Answer what the framework refuses by itself: no such route, no such method."""
    correlation_id = visit_of(request.scope).correlation_id
    if error.status_code == 404:
        return response(NotFound(), correlation_id)
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        return response(
            InvalidRequest(f"this route takes {allowed}"), correlation_id, status=405, headers={"Allow": allowed}
        )
    return response(InvalidRequest(), correlation_id, status=error.status_code)


def _methods(request: Request) -> set[str]:
    """Return the methods of all routes of this path (RFC 9110 10.2.1); the framework knows the first one's only."""
    path = request.scope["path"]
    routes = [route for route in iter_route_contexts(request.app.routes) if route.path_regex.match(path)]
    # `/jobs/batch` is no job's id, though it has the form of one.
    exact = [route for route in routes if route.path == path] or routes
    return set().union(*(route.methods or set() for route in exact))
