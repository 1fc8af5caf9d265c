"""Reads Metalink 4 documents: where a file is to be had, how long it is, and what its bytes hash to. Source: RFC 5854.

Laws of this file:
1. A document is a stranger's: without entities and document types, and bounded in every list.
2. What it says twice or wrongly is refused, not guessed: its hashes are what the file will be compared with.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Self
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from rayhaul.errors import SourceRefused

DOCUMENT_BYTES_MAX = 4 * 1024 * 1024
_NAMESPACE = "{urn:ietf:params:xml:ns:metalink}"
_URLS_MAX = 100
_PRIORITY_LAST = 999_999
_SIZE = re.compile(r"\d{1,18}", re.ASCII)
_PIECE_BYTES_MAX = 16 * 1024 * 1024
#: By their names in IANA's registry of hash function textual names; the strongest first.
_HASHLIB = {"sha-512": "sha512", "sha-384": "sha384", "sha-256": "sha256", "sha-1": "sha1", "md5": "md5"}
#: What a job's checksum may be.
_CHECKSUMS = {"sha-256": "sha256", "md5": "md5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Hashes of a file's uniform pieces, the last one shorter."""

    #: As hashlib names it.
    algorithm: str
    piece_bytes: int
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metalink:
    filename: str
    #: The best first.
    urls: tuple[str, ...]
    size_bytes: int | None
    #: `algorithm:hex` of the whole, as a job's checksum is written.
    digest: str | None
    pieces: Pieces | None

    @classmethod
    def parse(cls, document: bytes) -> Self:
        """Raises: SourceRefused."""
        try:
            root = fromstring(document, forbid_dtd=True)
        except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
            raise SourceRefused("The Metalink document cannot be read.") from error
        files = root.findall(f"{_NAMESPACE}file")
        if root.tag != f"{_NAMESPACE}metalink" or len(files) != 1:
            raise SourceRefused("A Metalink 4 document that describes one file is needed.")
        return cls._of(files[0])

    @classmethod
    def _of(cls, file: Element) -> Self:
        size_bytes = _size(file.find(f"{_NAMESPACE}size"))
        hashes = _hashes(file)
        digest = next((f"{_CHECKSUMS[name]}:{hashes[name]}" for name in _CHECKSUMS if name in hashes), None)
        found = cls(
            filename=file.get("name", ""),
            urls=_urls(file),
            size_bytes=size_bytes,
            digest=digest,
            pieces=_pieces(file, size_bytes),
        )
        if not found.urls:
            raise SourceRefused("The Metalink document names no URL.")
        return found


def _size(element: Element | None) -> int | None:
    if element is None:
        return None
    text = _text(element)
    if not _SIZE.fullmatch(text):
        raise SourceRefused("The Metalink document tells no proper size.")
    return int(text)


def _urls(file: Element) -> tuple[str, ...]:
    found = file.findall(f"{_NAMESPACE}url")
    if len(found) > _URLS_MAX:
        raise SourceRefused(f"The Metalink document names more than {_URLS_MAX} URLs.")
    return tuple(dict.fromkeys(_text(element) for element in sorted(found, key=_priority)))


def _priority(element: Element) -> int:
    text = element.get("priority", "")
    return int(text) if _SIZE.fullmatch(text) and int(text) > 0 else _PRIORITY_LAST


def _hashes(file: Element) -> dict[str, str]:
    """Return the hashes of the whole in lower-case hex, by the names that we know."""
    found: dict[str, str] = {}
    for element in file.findall(f"{_NAMESPACE}hash"):
        name = element.get("type", "").lower()
        if name not in _HASHLIB:
            continue
        value = _hash(name, element).hex()
        if found.setdefault(name, value) != value:
            raise SourceRefused("The Metalink document tells two hashes of one kind.")
    return found


def _pieces(file: Element, size_bytes: int | None) -> Pieces | None:
    """Return the strongest of the lists that are of use; None where there is none."""
    lists = {element.get("type", "").lower(): element for element in file.findall(f"{_NAMESPACE}pieces")}
    name = next((name for name in _HASHLIB if name in lists), None)
    if name is None or size_bytes is None:
        return None
    text = lists[name].get("length", "")
    if not _SIZE.fullmatch(text) or int(text) == 0:
        raise SourceRefused("The Metalink document tells no proper length of its pieces.")
    piece_bytes = int(text)
    hashes = tuple(_hash(name, element) for element in lists[name].findall(f"{_NAMESPACE}hash"))
    if len(hashes) != -(-size_bytes // piece_bytes):
        raise SourceRefused("The Metalink document has not as many pieces as its file.")
    if piece_bytes > _PIECE_BYTES_MAX:
        # To compare them, more would have to be read around each part than is worth it.
        return None
    return Pieces(algorithm=_HASHLIB[name], piece_bytes=piece_bytes, hashes=hashes)


def _hash(name: str, element: Element) -> bytes:
    try:
        value = bytes.fromhex(_text(element))
    except ValueError:
        value = b""
    if len(value) != hashlib.new(_HASHLIB[name], usedforsecurity=False).digest_size:
        raise SourceRefused(f"The Metalink document has a {name} that is none.")
    return value


def _text(element: Element) -> str:
    return (element.text or "").strip()
