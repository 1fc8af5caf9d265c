"""Pages of lists: their size, and where the next one begins."""

import re
from typing import Annotated

from fastapi import Query
from pydantic import AfterValidator, BeforeValidator

from rayhaul.policy.admission import InvalidField

PAGE_JOBS_MAX = 1000

_CURSOR = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _cursor(text: str | None) -> str | None:
    """Return the cursor. Raises: InvalidField where it is none of ours."""
    if text is not None and not _CURSOR.fullmatch(text):
        raise InvalidField("cursor", "it is nextCursor of the page before")
    return text


#: `?cursor=`; a form sends what was left empty.
Cursor = Annotated[
    str | None,
    BeforeValidator(lambda text: text or None),
    AfterValidator(_cursor),
    Query(description="`nextCursor` of the page before."),
]
