"""The faults that the tests' origin can make, by name, and which of them an answer shows.

A fault is a field of `Behaviour`, `edges_count` say; where the field has a choice of values, one of them: `etag=weak`.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from origin_files import Behaviour, File, Reply, Seen

_HINTS = get_type_hints(Behaviour)
_DEFAULTS = Behaviour()
#: What shows in every answer that has the file, or a part of it.
_ABOUT_THE_FILE = (
    "etag",
    "last_modified",
    "content_type",
    "content_disposition",
    "accept_ranges",
    "headers",
    "digests",
    "edges_count",
    "framing",
    "content_length_lie",
    "surplus_bytes",
    "coding",
    "rate_bytes_per_s",
)
#: What shows once the file is another version.
_ABOUT_A_CHANGE = ("changes_after", "validators_change", "size_changed")


def faults() -> frozenset[str]:
    """Return the names of all faults, and of what else there is to say of a file."""
    return frozenset(name for field in fields(Behaviour) for name in _names(field.name))


def chosen(behaviour: Behaviour) -> frozenset[str]:
    """Return the names of those that a file has."""
    return frozenset(name for field in fields(Behaviour) if (name := _name(behaviour, field.name)) is not None)


def shown(file: File, request: Seen, reply: Reply) -> Iterator[str]:
    """Yield the names of those that this answer shows; those that strike in the middle of a body are told by `File`."""
    behaviour = file.behaviour
    if reply.why is not None:
        yield reply.why
        yield f"status={reply.status}"
        yield from _some(behaviour, ("retry_after",))
        return
    if behaviour.redirect_to is not None:
        yield from _some(behaviour, ("redirect_to", "redirect_status"))
        return
    if reply.status == 416:
        yield "status=416"
        return
    yield from _some(behaviour, _ABOUT_THE_FILE)
    if file.is_changed:
        yield from _some(behaviour, _ABOUT_A_CHANGE)
    if reply.status == 206:
        yield from _some(behaviour, ("content_range",))
    elif request.range is not None:
        yield from _some(behaviour, ("ranges", "if_range_quirk") if "if-range" in request.headers else ("ranges",))


def _some(behaviour: Behaviour, names: tuple[str, ...]) -> Iterator[str]:
    for field in names:
        name = _name(behaviour, field)
        if name is not None:
            yield name


def _name(behaviour: Behaviour, field: str) -> str | None:
    value = getattr(behaviour, field)
    if value == getattr(_DEFAULTS, field):
        return None
    return f"{field}={value}" if get_origin(_HINTS[field]) is Literal else field


def _names(field: str) -> Iterator[str]:
    hint: Any = _HINTS[field]
    if get_origin(hint) is not Literal:
        yield field
        return
    for value in get_args(hint):
        if value != getattr(_DEFAULTS, field):
            yield f"{field}={value}"
