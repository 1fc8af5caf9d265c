"""What a check of the bucket found out."""

from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    YES = "yes"
    #: The store takes the request, and does not do it.
    NO = "no"
    #: The store says that it does not know that, or does not allow it.
    REFUSED = "refused"
    #: No answer that says anything.
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    result: Result
    #: What was seen, in a few words; may be empty.
    detail: str = ""


def found_out(holds: bool, otherwise: str = "") -> Finding:  # noqa: FBT001 - it reads as a sentence where it is called
    """Return YES, or NO with what was seen instead."""
    return Finding(Result.YES) if holds else Finding(Result.NO, otherwise)
