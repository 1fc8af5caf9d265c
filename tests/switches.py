"""What a null test is made of: a check, what stands in its place when it is off, and a test that must then fail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Null:
    check: str
    switch: Callable[[], None]
    test: str


def replaced(owner: Any, name: str, instead: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, instead)


def everywhere(name: str, instead: Any, *owners: Any) -> Callable[[], None]:
    def switch() -> None:
        for owner in owners:
            setattr(owner, name, instead)

    return switch


def nothing(*_args: Any, **_more: Any) -> None:
    pass


async def nothing_later(*_args: Any, **_more: Any) -> None:
    pass
