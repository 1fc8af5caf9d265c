"""Identifiers: time-ordered, random, and made by a factory that tests can replace."""

import re
import secrets
import time
import uuid
from collections.abc import Callable

NewId = Callable[[str], str]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


#: Two digits each: half the steps.
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_ID_BITS = 130

#: Of an id without its prefix. 26 digits of five bits hold two more than the ULID layout has.
ID_BYTES = 16
_DIGITS = re.compile(f"[0-7][{_ALPHABET}]{{25}}")
#: To the digits that `int` knows.
_TO_INT = str.maketrans(_ALPHABET, "0123456789abcdefghijklmnopqrstuv")


def pack(prefix: str, made_id: str) -> bytes | None:
    """Return the ID_BYTES bytes that an IdFactory's id with this prefix is; None where it is none."""
    named, _, digits = made_id.partition("_")
    if named != prefix or not _DIGITS.fullmatch(digits):
        return None
    return int(digits.translate(_TO_INT), 32).to_bytes(ID_BYTES)


def unpack(prefix: str, packed: bytes | bytearray) -> str:
    return f"{prefix}_{_base32(int.from_bytes(packed))}"


def _base32(value: int) -> str:
    """Return 26 digits of five bits."""
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(_ID_BITS - 10, -1, -10)])


class IdFactory:
    """Makes ids like `job_01jd…`: 48 bits of milliseconds and 80 random bits (the ULID layout, ulid/spec).

    Ids of one factory never go backwards, so a batch keeps its order when sorted by id.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._last = 0

    def __call__(self, prefix: str) -> str:
        fresh = (int(self._clock() * 1000) << 80) | secrets.randbits(80)
        # Within one millisecond, or when the clock steps back, count on from the last id.
        self._last = fresh if fresh >> 80 > self._last >> 80 else self._last + 1 + secrets.randbits(16)
        return f"{prefix}_{_base32(self._last)}"


def correlation_id(offered: str | None) -> str:
    """Return the caller's correlation id when it is sane (8 to 64 of `A-Za-z0-9._-`), else a new UUIDv4."""
    if offered and _CORRELATION_ID.fullmatch(offered):
        return offered
    return str(uuid.uuid4())
