"""What is raised where something that must always hold does not."""

from typing import NoReturn


class Violation(AssertionError):
    """An invariant is broken. Its name comes first: I1 to I8 as in the reliability plan, or one of our own."""


def violated(name: str, sentence: str) -> NoReturn:
    raise Violation(f"{name}: {sentence}")


def must(holds: object, name: str, sentence: str) -> None:
    if not holds:
        violated(name, sentence)
