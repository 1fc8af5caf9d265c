"""What the API says of itself: OpenAPI 3.1, with one security scheme and problems for every error."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rayhaul.errors import (
    Conflict,
    EgressDenied,
    Forbidden,
    IdempotencyMismatch,
    NotFound,
    QuotaExceeded,
    RayhaulError,
    Unauthorized,
    Unavailable,
)
from rayhaul.policy.admission import InvalidField
from rayhaul.wire import (
    BatchRequest,
    EventView,
    JobRequest,
    KeyRequest,
    PriorityRequest,
    Problem,
    RotateRequest,
    SessionRequest,
    StopRequest,
    WebhookTestRequest,
)
from serve_app import examples
from serve_app.edge import BodyTooLarge, HeadersTooLarge, KnobRefused, TargetTooLong
from serve_app.limits import AskedTooOften
from serve_app.problems import Malformed

DESCRIPTION = """\
Ask for a URL; agents fetch it in parallel ranges and stream it part by part into your bucket.

Send `Authorization: Bearer KEY`. `X-Correlation-ID` is taken when it is sane, made when it is not, and always echoed.
Errors are `application/problem+json` with a stable `code`. Times are RFC 3339 in UTC, sizes are bytes.
"""

_SECURITY_SCHEME = "apiKey"
_TEMPLATE = "#/components/schemas/{model}"
#: Models that no response declares by itself.
_MODELS: tuple[type[BaseModel], ...] = (
    BatchRequest,
    EventView,
    JobRequest,
    KeyRequest,
    PriorityRequest,
    Problem,
    RotateRequest,
    SessionRequest,
    StopRequest,
    WebhookTestRequest,
)

_REASONS = {
    400: "The body is no JSON, or a header field asks for what only the server decides.",
    401: "The API key is missing, wrong, expired or revoked.",
    403: "The key has not the scope, or the route is for operators only.",
    404: "There is no such thing, or it is not yours.",
    409: "The job's state does not allow this.",
    413: "The body is too large.",
    414: "Path and query are too long.",
    422: "A field is wrong, the URL may not be fetched, or the Idempotency-Key was used with another body.",
    429: "Too many; `Retry-After` says when to come back.",
    431: "The header fields are too many or too long.",
    503: "The control plane cannot be reached for the moment; `Retry-After` says when to come back.",
}

#: What a status may tell of; the classes' own words stand for the message.
_ERRORS: Mapping[int, Sequence[RayhaulError]] = {
    400: (Malformed(), KnobRefused("the header field x-request-timeout-seconds is not taken from clients")),
    401: (Unauthorized(),),
    403: (Forbidden(),),
    404: (NotFound(),),
    409: (Conflict(),),
    413: (BodyTooLarge(),),
    414: (TargetTooLong(),),
    422: (InvalidField("url", "it is no URL of http or https"), EgressDenied(), IdempotencyMismatch()),
    429: (AskedTooOften(), QuotaExceeded()),
    431: (HeadersTooLarge(),),
    503: (Unavailable(),),
}

Responses = dict[int | str, dict[str, Any]]


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _TEMPLATE.format(model=model.__name__)}


def problems_of(*statuses: int) -> Responses:
    """Return the declarations of problems with these statuses, with an example of each error they may tell."""
    return {
        status: {
            "description": _REASONS[status],
            "content": {
                "application/problem+json": {
                    "schema": _ref(Problem),
                    "examples": {type(error).__name__: {"value": _problem(error, status)} for error in _ERRORS[status]},
                }
            },
        }
        for status in statuses
    }


def _problem(error: RayhaulError, status: int) -> Mapping[str, Any]:
    return examples.problem(error, HTTPStatus(status).phrase, status)


def event_stream() -> Responses:
    """Return the declaration of a stream of events."""
    return {
        200: {
            "description": "Server-sent events; `data:` is an EventView. `Last-Event-ID` resumes.",
            "content": {"text/event-stream": {"x-event-data": _ref(EventView), "example": examples.EVENTS_TEXT}},
        },
        204: {"description": "The job is final and `Last-Event-ID` is its last event."},
    }


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return the declaration of a request body that the route reads by itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _ref(model)}}}}


def told(description: str, **content: Any) -> Responses:
    """Return the declaration of a 200 that is no model of ours: an example by media type, `_` for `/`."""
    media = {name.replace("_", "/", 1): {"example": example} for name, example in content.items()}
    return {200: {"description": description, "content": media}}


def header(name: str, description: str) -> dict[str, Any]:
    """Return the declaration of an optional request header that the route reads by itself."""
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


#: What any route may answer, and any that needs a key (serve_app/edge.py, serve_app/auth.py).
_OF_ALL = (400, 414, 431)
_OF_CLOSED = (401, 403, 429, 503)

#: Declares a route that needs no key.
OPEN: dict[str, Any] = {"security": []}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the application's OpenAPI document."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            openapi_version="3.1.0",
            description=DESCRIPTION,
            routes=app.routes,
        )
        _drop_framework_errors(document)
        _add_problems_of_all(document)
        _, definitions = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_TEMPLATE)
        components = document["components"]
        components["schemas"] = dict(sorted({**definitions["$defs"], **components["schemas"]}.items()))
        _add_examples(document)
        components["securitySchemes"] = {_SECURITY_SCHEME: {"type": "http", "scheme": "bearer"}}
        document["security"] = [{_SECURITY_SCHEME: []}]
        app.openapi_schema = document
    return app.openapi_schema


def _add_problems_of_all(document: dict[str, Any]) -> None:
    for operations in document["paths"].values():
        for operation in operations.values():
            statuses = _OF_ALL if operation.get("security") == [] else (*_OF_ALL, *_OF_CLOSED)
            everywhere = {str(status): told for status, told in problems_of(*statuses).items()}
            operation["responses"] = dict(sorted({**everywhere, **operation["responses"]}.items()))


def _add_examples(document: dict[str, Any]) -> None:
    """Give each schema, and each parameter, body and answer that has one of them for its schema, an example."""
    for name, schema in document["components"]["schemas"].items():
        schema["examples"] = [examples.BY_MODEL[name]]
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if "examples" not in parameter:
                    parameter["example"] = examples.BY_PARAMETER[parameter["name"]]
            for told in (operation.get("requestBody", {}), *operation["responses"].values()):
                _add_example(told.get("content", {}).get("application/json", {}))


def _add_example(media: dict[str, Any]) -> None:
    model = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
    if model:
        media["example"] = examples.BY_MODEL[model]


def _drop_framework_errors(document: dict[str, Any]) -> None:
    """Remove the framework's own validation error, which it adds to every route with a parameter and we never send.

    Nor is a stream of events JSON, which it takes for granted.
    """
    for operations in document["paths"].values():
        for operation in operations.values():
            good = operation["responses"].get("200", {}).get("content", {})
            if "text/event-stream" in good:
                good.pop("application/json", None)
            if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
