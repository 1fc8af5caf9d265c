"""Pages of lists: their size, and where the next one begins."""

import re
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, BeforeValidator
from pydantic.fields import FieldInfo

from rayhaul.policy.admission import InvalidField

_PAGE_MAX = 1000

_OURS = r"[A-Za-z0-9_-]{1,64}"
#: Of lists in the order of their numbers.
_NUMBER = r"[0-9]{1,18}"


def _cursor(form: str, example: str) -> tuple[BeforeValidator, AfterValidator, FieldInfo]:
    """Return what makes a parameter a cursor of that form: anything else is none of ours, and the document says so."""

    def check(text: str | None) -> str | None:
        if text is not None and not re.fullmatch(form, text):
            raise InvalidField("cursor", "it is nextCursor of the page before")
        return text

    told: FieldInfo = Query(
        description="`nextCursor` of the page before.",
        openapi_examples={"next": {"value": example}},
        json_schema_extra={"pattern": f"^({form})?$"},
    )
    # A form sends what was left empty.
    return BeforeValidator(lambda text: text or None), AfterValidator(check), told


#: `?limit=`
Limit = Annotated[int, Query(ge=1, le=_PAGE_MAX, description="So many on a page, at most.")]
#: `?cursor=`
Cursor = Annotated[str | None, *_cursor(_OURS, "job_01k9x3v7c8m2n4p6q8r0s2t4v6")]
NumberCursor = Annotated[str | None, *_cursor(_NUMBER, "76")]
