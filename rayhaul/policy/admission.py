"""From a job asked for to a job to be done: what the shapes of the wire cannot say about a request.

Whether a URL may be fetched is not decided here; that is the guard's (tasks/guard.py).
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from rayhaul.errors import InvalidRequest
from rayhaul.job import JobSpec
from rayhaul.policy import naming
from rayhaul.wire import JobRequest

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")  # RFC 9110 5.5, without obs-text
#: What common servers take for all headers of a request.
_HEADERS_CHARACTERS_MAX = 16_384

#: Headers that the transfer itself must decide: addressing, framing, conditions, encoding and hop-by-hop ones.
_HEADERS_DENIED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "forwarded",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "keep-alive",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
_HEADER_PREFIXES_DENIED = ("proxy-", "x-forwarded-", "sec-")

#: What every reader of JSON takes exactly (RFC 8259 6), and every database.
_INTEGER_MAX = 2**53 - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TAG_NAME = re.compile(r"[^\x00-\x20\x7f:=]{1,64}")
_TAG_CHARACTERS_MAX = 256

_HEX_DIGITS = {"sha256": 64, "sha512": 128, "md5": 32}
_CRC_BYTES = {"crc64nvme": 8, "crc32c": 4}


class InvalidField(InvalidRequest):
    """One field of the request is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def admit(request: JobRequest) -> JobSpec:
    """Return what is to be done.

    Raises: InvalidField naming the first field that cannot be taken; never its value.
    """
    return JobSpec(
        url=request.url,
        mirrors=tuple(request.mirrors),
        key=_checked_key(request.key),
        filename=_checked_filename(request.filename),
        headers=_checked_headers(request.headers),
        checksum=_checked_checksum(request.checksum),
        compute_sha256=request.compute_sha256,
        priority=request.priority,
        tags=_checked_tags(request.tags),
        webhook=request.webhook,
        connections=request.connections,
        bandwidth_bytes_per_s=_exact("bandwidthBytesPerSecond", request.bandwidth_bytes_per_second),
        not_before=aware("notBefore", request.not_before),
        size_bytes_max=_exact("sizeBytesMax", request.size_bytes_max),
        dedupe=request.dedupe,
        refresh_webhook=request.refresh_webhook,
    )


def aware(field: str, moment: datetime | None) -> datetime | None:
    """Return the time in UTC. Raises: InvalidField where it has no offset (RFC 3339 4.4) or UTC has no such year."""
    if moment is None:
        return None
    if moment.utcoffset() is None:
        raise InvalidField(field, "the time needs an offset, such as Z")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidField(field, "the time is out of range") from None


def _exact(field: str, number: int | None) -> int | None:
    if number is not None and number > _INTEGER_MAX:
        raise InvalidField(field, f"it is at most {_INTEGER_MAX}")
    return number


def _checked_key(key: str | None) -> str | None:
    if key is None:
        return None
    try:
        naming.check_key(key)
    except InvalidRequest as err:
        raise InvalidField("key", err.message) from err
    return key


def _checked_filename(filename: str | None) -> str | None:
    if filename is None:
        return None
    if _CONTROL.search(filename) or "/" in filename or "\\" in filename or not filename.strip(". "):
        raise InvalidField("filename", "a file name has no slashes and no control characters; a path goes into key")
    return filename


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    seen: set[str] = set()
    for name, value in headers.items():
        folded = name.lower()
        if not _TOKEN.fullmatch(name):
            raise InvalidField("headers", "a name has characters that HTTP does not allow")
        if folded in seen:
            raise InvalidField("headers", f"{folded} is given twice")
        if folded in _HEADERS_DENIED or folded.startswith(_HEADER_PREFIXES_DENIED):
            raise InvalidField("headers", f"{folded} is set by the transfer itself")
        if not _HEADER_VALUE.fullmatch(value):
            raise InvalidField("headers", f"the value of {folded} has characters that HTTP does not allow")
        seen.add(folded)
    if sum(len(name) + len(value) for name, value in headers.items()) > _HEADERS_CHARACTERS_MAX:
        raise InvalidField("headers", f"together they have more than {_HEADERS_CHARACTERS_MAX} characters")
    return headers


def _checked_checksum(checksum: str | None) -> str | None:
    """Return `algorithm:value`, hex digits in lower case.

    >>> _checked_checksum("MD5:D41D8CD98F00B204E9800998ECF8427E")
    'md5:d41d8cd98f00b204e9800998ecf8427e'
    """
    if checksum is None:
        return None
    algorithm, _, value = checksum.partition(":")
    algorithm = algorithm.lower()
    if algorithm in _CRC_BYTES:
        if not _is_base64_of(value, _CRC_BYTES[algorithm]):
            raise InvalidField("checksum", f"{algorithm} is base64 of {_CRC_BYTES[algorithm]} bytes")
        return f"{algorithm}:{value}"
    digits = _HEX_DIGITS.get(algorithm)
    if digits is None:
        raise InvalidField("checksum", "it begins with sha256:, sha512:, md5:, crc64nvme: or crc32c:")
    if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value):
        raise InvalidField("checksum", f"{algorithm} has {digits} hex digits")
    return f"{algorithm}:{value.lower()}"


def _is_base64_of(value: str, bytes_count: int) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == bytes_count
    except (binascii.Error, ValueError):
        return False


def _checked_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in tags.items():
        if not _TAG_NAME.fullmatch(name):
            raise InvalidField("tags", "a name has 1 to 64 characters, without spaces, colons and equal signs")
        if len(value) > _TAG_CHARACTERS_MAX or _CONTROL.search(value):
            raise InvalidField("tags", f"a value has at most {_TAG_CHARACTERS_MAX} characters, no control characters")
    return tags
