"""Errors on their way between processes: as values, for a pickled exception would bring its own class with it."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from rayhaul.errors import Internal, RayhaulError


@dataclass(frozen=True, slots=True)
class Failed:
    kind: str
    message: str
    retry_after_s: float | None


def _kinds(kind: type[RayhaulError] = RayhaulError) -> dict[str, type[RayhaulError]]:
    found = {kind.__name__: kind}
    for child in kind.__subclasses__():
        found |= _kinds(child)
    return found


async def as_value(call: Awaitable[Any]) -> Any:
    """Return what a call returns, or its RayhaulError as a value."""
    try:
        return await call
    except RayhaulError as error:
        return Failed(type(error).__name__, error.message, error.retry_after_s)


def opened(answer: Any) -> Any:
    """Return what crossed. Raises: RayhaulError, where it is one."""
    if isinstance(answer, Failed):
        kind = _kinds().get(answer.kind, Internal)
        raise kind(answer.message, retry_after_s=answer.retry_after_s)
    return answer
