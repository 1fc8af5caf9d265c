"""Request bodies, read by pydantic itself: fast, and without half surrogate pairs, which no database takes.

Strictly: `"8"` and `true` are no numbers.
"""

from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from serve_app.edge import BodyTooLarge
from serve_app.problems import from_validation

M = TypeVar("M", bound=BaseModel)

#: One job or key, with all that the wire allows, fits; only a batch may be as large as the API's limit.
ONE_BYTES_MAX = 1024 * 1024
#: Values in a body; one job's fields, headers, tags and mirrors are at most 140, the rest is for commas in texts.
VALUES_MAX = 1024


async def parsed(
    request: Request, model: type[M], *, bytes_max: int = ONE_BYTES_MAX, values_max: int = VALUES_MAX
) -> M:
    """Return the body as `model`.

    Raises: Malformed where it is no JSON; InvalidFields where it is not of that shape; BodyTooLarge.
    """
    body = await request.body()
    # A wrong value takes two bytes of a body and hundreds of the error about it: seconds and gigabytes for a large
    # body. So their number is bounded before any is read; there are at most as many as commas, and one.
    if len(body) > bytes_max or body.count(b",") > values_max:
        raise BodyTooLarge
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as err:
        # The cause would carry the caller's values into the log.
        raise from_validation(err) from None
