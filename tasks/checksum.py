"""Checksums: what a caller expects of the object, and what its bytes have."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from awscrt.checksums import combine_crc32c, combine_crc64nvme

from rayhaul.errors import ChecksumMismatch, InvalidRequest
from rayhaul.lease import PartDone

_CRC_BYTES = 8
_CRC32C_BYTES = 4
_HEX_DIGITS = {"sha256": 64, "sha512": 128, "md5": 32}


class Algorithm(StrEnum):
    SHA256 = "sha256"
    SHA512 = "sha512"
    MD5 = "md5"
    #: These two can be computed of parts in any order, and combined.
    CRC64NVME = "crc64nvme"
    CRC32C = "crc32c"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    algorithm: Algorithm
    #: Lower-case hex; of the CRCs base64 of their big-endian bytes, as S3 and Google write them.
    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `algorithm:value`.

        Raises: InvalidRequest.
        """
        name, _, value = text.strip().partition(":")
        try:
            algorithm = Algorithm(name.lower())
        except ValueError:
            raise InvalidRequest(f"unknown checksum algorithm: {name[:32]}") from None
        if algorithm is Algorithm.CRC64NVME:
            return cls(algorithm=algorithm, value=crc_text(crc_value(value)))
        if algorithm is Algorithm.CRC32C:
            return cls(algorithm=algorithm, value=_text(_number(value, _CRC32C_BYTES, "crc32c"), _CRC32C_BYTES))
        value = value.lower()
        if len(value) != _HEX_DIGITS[algorithm] or set(value) - set("0123456789abcdef"):
            raise InvalidRequest(f"a {algorithm} checksum is {_HEX_DIGITS[algorithm]} hex digits")
        return cls(algorithm=algorithm, value=value)

    @property
    def needs_order(self) -> bool:
        """Whether the bytes have to be read from first to last."""
        return self.algorithm in _HEX_DIGITS

    def check(self, found: str) -> None:
        """Raises: ChecksumMismatch."""
        if found != self.value:
            raise ChecksumMismatch(f"The {self.algorithm} of the bytes is {found}, expected was {self.value}.")


class Hasher:
    """Hashes bytes in order, where something is expected of them or their SHA-256 is wanted."""

    def __init__(self, expected: Checksum | None, *, wants_sha256: bool = False) -> None:
        self._expected = expected if expected is not None and expected.needs_order else None
        self._wants_sha256 = wants_sha256
        algorithms = {Algorithm.SHA256} if wants_sha256 else set()
        if self._expected is not None:
            algorithms.add(self._expected.algorithm)
        self._hashes = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms}

    @property
    def needs_order(self) -> bool:
        """Whether the bytes have to be read from first to last."""
        return bool(self._hashes)

    def fresh(self) -> Self:
        """Return one that expects the same and has seen nothing."""
        return type(self)(self._expected, wants_sha256=self._wants_sha256)

    def update(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Blocks for a second per GiB or two: call it in a thread for more than a little."""
        for known in self._hashes.values():
            known.update(piece)

    def check(self) -> None:
        """Raises: ChecksumMismatch where the bytes so far are not what was expected."""
        if self._expected is not None:
            self._expected.check(self._hashes[self._expected.algorithm].hexdigest())

    @property
    def sha256(self) -> str | None:
        """Hex; None where SHA-256 was neither expected nor wanted."""
        known = self._hashes.get(Algorithm.SHA256)
        return None if known is None else known.hexdigest()


def crc_text(crc64nvme: int) -> str:
    """Return a CRC-64/NVME as S3 writes it.

    >>> crc_text(0xAE8B14860A799888)
    'rosUhgp5mIg='
    """
    return _text(crc64nvme, _CRC_BYTES)


def crc_value(text: str) -> int:
    """Return the CRC-64/NVME that S3 wrote.

    Raises: InvalidRequest.
    """
    return _number(text, _CRC_BYTES, "crc64nvme")


def crc32c_text(crc32c: int) -> str:
    """Return a CRC-32C as Google writes it in x-goog-hash.

    >>> crc32c_text(0xE3069283)
    '4waSgw=='
    """
    return _text(crc32c, _CRC32C_BYTES)


def _text(number: int, bytes_count: int) -> str:
    return base64.b64encode(number.to_bytes(bytes_count, "big")).decode()


def _number(text: str, bytes_count: int, name: str) -> int:
    """Raises: InvalidRequest."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != bytes_count:
        raise InvalidRequest(f"a {name} checksum is base64 of {bytes_count} bytes")
    return int.from_bytes(raw, "big")


def combined_crc(parts: Iterable[PartDone]) -> int | None:
    """Return the CRC-64/NVME of all parts in a row, given in their order; None where one of them has none."""
    total = 0
    for part in parts:
        if part.crc64nvme is None:
            return None
        total = combine_crc64nvme(total, part.crc64nvme, part.size_bytes)
    return total


def combined_crc32c(parts: Iterable[PartDone]) -> int | None:
    """Return the CRC-32C of all parts in a row, given in their order; None where one of them has none."""
    total = 0
    for part in parts:
        if part.crc32c is None:
            return None
        total = combine_crc32c(total, part.crc32c, part.size_bytes)
    return total


def combined_etag(parts: Sequence[PartDone]) -> str | None:
    """Return the ETag that a store gives an object of these parts; None where their ETags are no MD5s.

    Source: S3, "Checking object integrity": MD5 of the parts' binary MD5s, and their number.
    """
    try:
        joined = b"".join(bytes.fromhex(part.etag) for part in parts)
    except ValueError:
        return None
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"
