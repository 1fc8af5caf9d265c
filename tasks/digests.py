"""Digests that a source tells in its headers: of the whole file, or of the bytes of one answer.

Laws of this file:
1. Repr-Digest (RFC 9530), Digest (RFC 3230) and x-goog-hash are of the whole file, also on a 206.
2. Content-Digest (RFC 9530) is of the answer's body. Content-MD5 (RFC 1864) is so by its definition, but servers send
   the file's with a 206: it counts only where the body is the whole file.
3. What cannot be read is as if it was not there; of several algorithms the strongest counts.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from awscrt.checksums import crc32c
from multidict import CIMultiDictProxy

#: The strongest first, by their names in RFC 9530; the number of bytes they have.
_BYTES = {"sha-512": 64, "sha-256": 32, "md5": 16, "crc32c": 4}
_HASHLIB = {"sha-512": "sha512", "sha-256": "sha256", "md5": "md5"}
#: What a job's checksum may be (tasks.checksum.Algorithm): first what receipts and copies have a use for.
_CHECKSUMS = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5"}
#: A structured dictionary of byte sequences: `sha-256=:…:` (RFC 8941 3.2, 3.3.5).
_STRUCTURED = re.compile(r"([a-z0-9*_.-]{1,32})=:([A-Za-z0-9+/=]{1,128}):")
_PLAIN = re.compile(r"([A-Za-z0-9-]{1,32})=([A-Za-z0-9+/]{1,128}={0,2})")


class Hash(Protocol):
    def update(self, piece: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Digest:
    #: As RFC 9530 names it, in lower case.
    algorithm: str
    value: bytes

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read `algorithm:hex`, as a job's checksum is written; None where it is of another algorithm."""
        name, _, value = text.partition(":")
        algorithm = next((told for told, ours in _CHECKSUMS.items() if ours == name), None)
        return None if algorithm is None else cls(algorithm, bytes.fromhex(value))


def of_file(headers: CIMultiDictProxy[str], *, is_whole: bool = False) -> Sequence[Digest]:
    """Return the digests of the whole file, the strongest first; `is_whole`: the body is the whole file."""
    found = [*_structured(headers, "Repr-Digest"), *_plain(headers, "Digest")]
    if headers.get("x-goog-stored-content-encoding", "identity") == "identity":
        # Else Google decodes what is stored, and the hash is of the coded bytes.
        found += _plain(headers, "x-goog-hash")
    if is_whole:
        found += _structured(headers, "Content-Digest")
        found += _read("md5", headers.get("Content-MD5", ""))
    return sorted(found, key=lambda digest: list(_BYTES).index(digest.algorithm))


def of_body(status: int, headers: CIMultiDictProxy[str]) -> Digest | None:
    """Return the strongest digest of what is in the answer's body; None where it tells none."""
    found = of_file(headers, is_whole=True) if status == 200 else [*_structured(headers, "Content-Digest")]
    return min(found, key=lambda digest: list(_BYTES).index(digest.algorithm), default=None)


def checksum_of(headers: CIMultiDictProxy[str], *, is_whole: bool) -> str | None:
    """Return the file's digest written as a job's checksum is; None where the source tells none of these algorithms."""
    told = {digest.algorithm: digest.value for digest in of_file(headers, is_whole=is_whole)}
    return next((f"{ours}:{told[name].hex()}" for name, ours in _CHECKSUMS.items() if name in told), None)


def crc32c_of(headers: CIMultiDictProxy[str], *, is_whole: bool) -> str | None:
    """Return the file's CRC-32C as base64; None where the source does not tell it."""
    told = (digest for digest in of_file(headers, is_whole=is_whole) if digest.algorithm == "crc32c")
    return next((base64.b64encode(digest.value).decode() for digest in told), None)


def hasher(algorithm: str) -> Hash:
    return _Crc32c() if algorithm == "crc32c" else hashlib.new(_HASHLIB[algorithm], usedforsecurity=False)


class _Crc32c:
    def __init__(self) -> None:
        self._value = 0

    def update(self, piece: bytes, /) -> None:
        self._value = crc32c(piece, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _structured(headers: CIMultiDictProxy[str], name: str) -> Iterator[Digest]:
    for found in _STRUCTURED.finditer(",".join(headers.getall(name, []))):
        yield from _read(found[1], found[2])


def _plain(headers: CIMultiDictProxy[str], name: str) -> Iterator[Digest]:
    for found in _PLAIN.finditer(",".join(headers.getall(name, []))):
        yield from _read(found[1].lower(), found[2])


def _read(algorithm: str, text: str) -> Iterator[Digest]:
    try:
        value = base64.b64decode(text, validate=True)
    except ValueError:
        return
    if algorithm in _BYTES and len(value) == _BYTES[algorithm]:
        yield Digest(algorithm, value)
