"""What all shapes of the API have in common.

camelCase outside, snake case inside; times are RFC 3339 UTC with milliseconds. Requests refuse unknown fields;
responses take them, so that an old client reads a newer server.

Models are built where they are first used (`defer_build`): a command needs a few of the fifty, and waited for all.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer
from pydantic.alias_generators import to_camel


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds.

    >>> timestamp(datetime(2026, 1, 2, 3, 4, 5, 678901, UTC))
    '2026-01-02T03:04:05.678Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[datetime, PlainSerializer(timestamp, return_type=str, when_used="json")]


class RequestShape(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_alias=True, validate_by_name=False, extra="forbid", defer_build=True
    )


class ResponseShape(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        extra="ignore",
        frozen=True,
        defer_build=True,
    )


def _as_whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: 5.0 is an integer too (JSON Schema, Validation 6.1.1), as some languages write all their numbers.
Whole = Annotated[int, BeforeValidator(_as_whole)]

#: What a generator of clients or tests should know of a URL; the rest is the guard's to say.
URI: dict[str, Any] = {"format": "uri"}
