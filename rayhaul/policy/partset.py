"""Sets of part numbers as the bits of one integer: 10,000 parts are 1,250 bytes, and sets are compared at once.

>>> sorted_numbers(missing(with_numbers(0, [1, 2, 5]), 1, 7))
[3, 4, 6]
"""

from collections.abc import Iterable

#: Bit n stands for part n.
PartSet = int


def with_numbers(parts: PartSet, numbers: Iterable[int]) -> PartSet:
    for number in numbers:
        parts |= 1 << number
    return parts


def between(first_part: int, end_part: int) -> PartSet:
    """Return the numbers of a stripe, half-open."""
    return (1 << end_part) - (1 << first_part) if end_part > first_part else 0


def missing(recorded: PartSet, first_part: int, end_part: int) -> PartSet:
    """Return the numbers of a stripe that are not in `recorded`."""
    return between(first_part, end_part) & ~recorded


def lowest(parts: PartSet) -> int:
    assert parts, "empty"
    return (parts & -parts).bit_length() - 1


def highest(parts: PartSet) -> int:
    assert parts, "empty"
    return parts.bit_length() - 1


def without_lowest(parts: PartSet, count: int) -> PartSet:
    """Return the set without its `count` lowest numbers."""
    for _ in range(count):
        parts &= parts - 1
    return parts


def sorted_numbers(parts: PartSet) -> list[int]:
    found = []
    while parts:
        found.append(lowest(parts))
        parts &= parts - 1
    return found


def bytes_of(parts: PartSet, *, part_bytes: int, size_bytes: int | None) -> int:
    """Return how many bytes these parts have; the last part of a file of known size may be shorter."""
    found = parts.bit_count() * part_bytes
    if parts and size_bytes is not None:
        found -= max(0, highest(parts) * part_bytes - size_bytes)
    return found
