"""Bytes of a pinned version out of an origin: one range, or the whole, checked so that wrong bytes never pass.

Laws of this file:
1. Ranges are half-open everywhere; HTTP's inclusive form is made in `_range_header` and read in `ContentRange`.
2. Each response must show the version that the probe pinned: the digest or the strong ETag, else date and length. A
   response that shows another is SourceChanged; one that shows nothing of it is as well.
3. A 206 that is not exactly the range asked for, and a 200 to a range, is RangeIgnored: the caller takes one stream.
   So is a 206 with another ETag but the pin's date and length (the edges of some CDNs differ so): of two answers nobody
   can tell that they belong together, while one answer is one version. With a checksum to tell, they are combined.
4. Requests start at the original URL every time, so that links which expire or are used once are made anew.
5. Where an answer tells a digest of its bytes, its last bytes are given only when they have it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Self

from multidict import CIMultiDictProxy

from rayhaul.errors import (
    SourceBusy,
    SourceChanged,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceStalled,
    SourceTimeout,
    SourceTruncated,
)
from rayhaul.job import Metadata
from rayhaul.policy.retry import RETRY_AFTER_S_MAX
from tasks import digests
from tasks.answer import Answer
from tasks.digests import Digest
from tasks.egress import GuardedClient
from tasks.hashing import hashed
from tasks.speed import SpeedWatch

_CONTENT_RANGE = re.compile(r"bytes[ =]+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII | re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes[ =]+\*/(\d{1,18})", re.ASCII | re.IGNORECASE)
_LENGTH = re.compile(r"\d{1,18}", re.ASCII)
#: S3 keeps the second one from an upload in signed chunks, on a body that has none.
_NO_CODINGS = frozenset({"", "identity", "aws-chunked"})
_GZIP_TYPES = frozenset({"application/gzip", "application/x-gzip", "application/x-tgz", "application/x-gtar"})
_GZIP_ENDINGS = (".gz", ".tgz", ".svgz")
#: What servers answer to a link that was good once.
EXPIRED = frozenset({401, 403, 404, 410})
#: A Last-Modified so much older than Date tells versions apart (RFC 9110 8.8.2.2): nobody changed the file meanwhile.
_STRONG_AFTER = timedelta(seconds=1)
#: What comes along with a look is waited for no longer: its headers have told by then what a look is for.
PEEK_S_MAX = 1.0
#: Below this a thread costs more than the hash.
_HASH_INLINE_BYTES_MAX = 64 * 1024


class RangeIgnored(SourceError):
    """The source does not serve the range that was asked for; the whole file in one stream may still do."""

    code = "source_changed"
    retryable = True


class VersionUnclear(RangeIgnored):
    """The source shows another ETag for the range, but the same date and length; a checksum could tell."""


class LinkExpired(SourceError):
    """A link that the source redirected us to leads nowhere any more; the source may give another one."""

    code = "source_refused"
    retryable = True


class CorruptBody(SourceError):
    """The source sent other bytes than those whose digest it told."""

    code = "checksum_mismatch"
    retryable = True


class _Version(Enum):
    """What an answer shows of its file's version, against the pin."""

    SAME = auto()
    #: Another ETag, the same date and length.
    UNCLEAR = auto()
    OTHER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRange:
    """The Content-Range header of a 206: `first <= byte < end`. `total` None: `*`. Source: RFC 9110 14.4."""

    first: int
    end: int
    total: int | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Self | None:
        """Return the header's value; None where it is missing or cannot be read."""
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        if found is None:
            return None
        return cls(first=int(found[1]), end=int(found[2]) + 1, total=None if found[3] == "*" else int(found[3]))


@asynccontextmanager
async def open_range(
    client: GuardedClient,
    *,
    url: str,
    headers: Mapping[str, str],
    pin: Metadata,
    first_byte: int,
    end_byte: int,
    checksum_tells: bool = False,
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Give the bytes `first_byte <= offset < end_byte` of the pinned version, exactly those, as they arrive.

    `checksum_tells`: the file's checksum will be compared, so that the same date and length are enough.
    Raises, on entry or while iterating: SourceError; RangeIgnored, SourceChanged, SourceTruncated, SourceStalled,
    CorruptBody, LinkExpired and SourceBusy among them; EgressDenied.
    """
    assert 0 <= first_byte < end_byte
    asked = {"Range": _range_header(first_byte, end_byte)}
    condition = {"If-Range": pin.etag} if pin.etag is not None and _is_strong(pin.etag) else {}
    async with AsyncExitStack() as stack:
        answer = await stack.enter_async_context(client.open(url, headers=headers, extra={**asked, **condition}))
        if condition and answer.status == 200 and _version_of(answer, pin) is not _Version.OTHER:
            # Some CDNs answer any If-Range with the whole. The 206 is checked against the pin in any case.
            await stack.aclose()
            answer = await stack.enter_async_context(client.open(url, headers=headers, extra=asked))
        version = _check_partial(answer, pin, first_byte, end_byte)
        if version is _Version.UNCLEAR and not checksum_tells:
            raise VersionUnclear
        yield _Body(answer, bytes_expected=end_byte - first_byte, speed=_speed_of(client))


@asynccontextmanager
async def open_whole(
    client: GuardedClient, *, url: str, headers: Mapping[str, str], pin: Metadata
) -> AsyncIterator[AsyncIterator[bytes]]:
    """Give all bytes of the pinned version as they arrive; where its length is unknown, up to the body's proper end.

    Raises, on entry or while iterating: SourceError; SourceChanged, SourceTruncated, SourceStalled, CorruptBody,
    LinkExpired and SourceBusy among them; EgressDenied.
    """
    async with client.open(url, headers=headers) as answer:
        if answer.status != 200:
            raise _refusal(answer)
        check_coding(answer)
        length = content_length(answer.headers)
        if _version_of(answer, pin) is _Version.OTHER:
            raise SourceChanged
        bytes_expected = length if pin.size_bytes is None else pin.size_bytes
        yield _Body(answer, bytes_expected=bytes_expected, speed=_speed_of(client))


async def read_peeked(client: GuardedClient, answer: Answer, pin: Metadata, *, peek_bytes: int) -> bytes | None:
    """Return the file that came along with the answer it was pinned by; None where it did not, or in doubt.

    Of a larger file the `peek_bytes` that were asked for are read all the same: they are under way, and the connection
    stays fit for the next request.
    """
    size_bytes = pin.size_bytes
    is_small = size_bytes is not None and size_bytes <= peek_bytes
    if peek_bytes == 0 or not (is_small or answer.status == 206):
        return None
    end_byte = size_bytes if is_small and size_bytes is not None else peek_bytes
    try:
        async with asyncio.timeout(PEEK_S_MAX):
            if answer.status == 206:
                _check_partial(answer, pin, 0, end_byte)
            body = _Body(answer, bytes_expected=end_byte, speed=_speed_of(client), is_file=is_small)
            data = b"".join([piece async for piece in body])
    except (SourceError, TimeoutError):
        # The lease asks for itself, and tells what it meets.
        return None
    return data if is_small and pin.has_version else None


class _Body:
    """An iterator over the body that ends after exactly `bytes_expected`; None: at the body's proper end."""

    def __init__(self, answer: Answer, *, bytes_expected: int | None, speed: SpeedWatch, is_file: bool = False) -> None:
        """`is_file`: whatever the status says, the body is the whole file."""
        self._answer = answer
        self._bytes_expected = bytes_expected
        self._bytes_read = 0
        self._speed = speed
        self._digest = digests.of_body(200 if is_file else answer.status, answer.headers)
        self._hash = None if self._digest is None else digests.hasher(self._digest.algorithm)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        piece = await self._read()
        self._bytes_read += len(piece)
        if self._bytes_expected is not None:
            if not piece and self._bytes_read < self._bytes_expected:
                raise SourceTruncated
            if self._bytes_read > self._bytes_expected:
                raise SourceChanged("The source sent more bytes than the file has.")
        await self._check(piece)
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _read(self) -> bytes:
        clock = asyncio.get_running_loop().time
        began_s = clock()
        piece = await self._answer.read()
        if piece and self._speed.is_too_slow(len(piece), clock() - began_s):
            raise SourceStalled(f"The source sends less than {self._speed.bytes_per_s_min} bytes per second.")
        return piece

    async def _check(self, piece: bytes) -> None:
        """Hash a piece; with the last one, before it is given away, compare. Raises: CorruptBody."""
        if self._hash is None or self._digest is None:
            return
        if len(piece) > _HASH_INLINE_BYTES_MAX:
            await hashed(self._hash.update, piece)
        else:
            self._hash.update(piece)
        if self._bytes_read == self._bytes_expected or not piece:
            found = self._hash.digest()
            if found != self._digest.value:
                raise CorruptBody(
                    f"The source told the {self._digest.algorithm} {self._digest.value.hex()}, the bytes have "
                    f"{found.hex()}."
                )


def _speed_of(client: GuardedClient) -> SpeedWatch:
    return SpeedWatch(client.source.speed_bytes_per_s_min, client.source.speed_window_s)


def _range_header(first_byte: int, end_byte: int) -> str:
    # RFC 9110 14.1.2: the last position is included.
    return f"bytes={first_byte}-{end_byte - 1}"


def _check_partial(answer: Answer, pin: Metadata, first_byte: int, end_byte: int) -> _Version:
    """Check the answer to a range request; return what it shows of the version, SAME or UNCLEAR.

    Raises: RangeIgnored, SourceChanged, LinkExpired, and what `classify_status` gives.
    """
    if answer.status == 416:
        # RFC 9110 15.5.17: the length that it tells says whether the file is another one, or ranges are refused.
        total = unsatisfied_total(answer.headers)
        raise RangeIgnored if total is not None and total == pin.size_bytes else SourceChanged
    if answer.status not in {200, 206}:
        raise _refusal(answer)
    check_coding(answer)
    if answer.status == 200:
        raise SourceChanged if _version_of(answer, pin) is _Version.OTHER else RangeIgnored
    shown = ContentRange.of(answer.headers)
    if shown is None or answer.headers.get("Content-Type", "").lower().startswith("multipart/byteranges"):
        # Missing, of another unit, or inside the body.
        raise RangeIgnored
    if None not in {shown.total, pin.size_bytes} and shown.total != pin.size_bytes:
        raise SourceChanged
    version = _shown_version(answer.headers, pin)
    if version is _Version.OTHER:
        raise SourceChanged
    if (shown.first, shown.end) != (first_byte, end_byte) or content_length(answer.headers) not in {
        None,
        end_byte - first_byte,
    }:
        raise RangeIgnored
    return version


def _refusal(answer: Answer) -> SourceError:
    error = classify_status(answer.status, answer.headers)
    if answer.redirects_count and answer.status in EXPIRED:
        # The next request begins at the original URL, which may lead to a fresh link.
        return LinkExpired(error.message, status=answer.status)
    return error


def _version_of(answer: Answer, pin: Metadata) -> _Version:
    """Return what a 200 shows of the pinned version, as far as its headers tell."""
    length = content_length(answer.headers)
    if None not in {length, pin.size_bytes} and length != pin.size_bytes:
        return _Version.OTHER
    return _shown_version(answer.headers, pin)


def _shown_version(headers: CIMultiDictProxy[str], pin: Metadata) -> _Version:
    """Compare digest, ETag, or else Last-Modified with the pin's. Source: RFC 9110 8.8, 13.1.5, 15.3.7; RFC 9530."""
    promised = Digest.parse(pin.digest) if pin.digest else None
    for told in digests.of_file(headers):
        if promised is not None and told.algorithm == promised.algorithm:
            return _Version.SAME if told == promised else _Version.OTHER
    etag = headers.get("ETag")
    is_same_date = pin.last_modified is not None and headers.get("Last-Modified") == pin.last_modified
    if pin.etag is not None and etag is not None:
        if _is_strong(pin.etag):
            if etag == pin.etag:
                return _Version.SAME
            return _Version.UNCLEAR if is_same_date else _Version.OTHER
        if etag.removeprefix("W/") != pin.etag.removeprefix("W/"):
            return _Version.OTHER
    if pin.last_modified is not None:
        return _Version.SAME if is_same_date else _Version.OTHER
    return _Version.SAME if pin.etag is None or etag is not None else _Version.OTHER


def _is_strong(etag: str) -> bool:
    return not etag.startswith(("W/", "w/"))


def strong_date(headers: Mapping[str, str]) -> str | None:
    """Return Last-Modified as it was sent, where it tells versions apart; None else. Source: RFC 9110 8.8.2.2."""
    text = headers.get("Last-Modified", "")
    modified = _date(text)
    if modified is None:
        return None
    seen = _date(headers.get("Date", "")) or datetime.now(UTC)
    return text if seen - modified >= _STRONG_AFTER else None


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the body's announced length; None where there is none. aiohttp refuses one beside a transfer coding."""
    text = headers.get("Content-Length", "")
    return int(text) if _LENGTH.fullmatch(text) else None


def unsatisfied_total(headers: Mapping[str, str]) -> int | None:
    """Return the complete length that a 416 tells (`bytes */N`); None where it does not."""
    found = _UNSATISFIED.fullmatch(headers.get("Content-Range", "").strip())
    return int(found[1]) if found else None


def check_coding(answer: Answer) -> None:
    """Check that the body is the file itself and not a coded form of it (RFC 9110 8.4, RFC 9112 6.1).

    Raises: SourceRefused. Many servers label a file that is a gzip file with a gzip coding; that one is the file.
    """
    named = ",".join(answer.headers.getall("Content-Encoding", [])).lower()
    codings = {coding.strip() for coding in named.split(",")} - _NO_CODINGS
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_gzip_file = media_type in _GZIP_TYPES or answer.final_url.partition("?")[0].lower().endswith(_GZIP_ENDINGS)
    is_coded = bool(codings) and not (is_gzip_file and codings <= {"gzip", "x-gzip"})
    transfer_coding = answer.headers.get("Transfer-Encoding", "").strip().lower()
    if is_coded or transfer_coding not in {"", "identity", "chunked"}:
        raise SourceRefused("The source sends the file only in a coded form.")


def classify_status(status: int, headers: Mapping[str, str]) -> SourceError:
    """Return what a response that is not the file means. Source: RFC 9110 15, RFC 6585 4."""
    match status:
        case 404 | 410:
            return SourceNotFound(f"The source has no such file (HTTP {status}).", status=status)
        case 408:
            return SourceTimeout(f"The source gave up waiting for us (HTTP {status}).")
        case 429 | 503:
            return SourceBusy(f"The source asks to slow down (HTTP {status}).", retry_after_s=retry_after_s(headers))
        case _ if status >= 500:
            return SourceFailed(f"The source failed on its side (HTTP {status}).")
        case _:
            return SourceRefused(f"The source refused the request (HTTP {status}).", status=status)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait that Retry-After asks for, in seconds, cut to RETRY_AFTER_S_MAX. Source: RFC 9110 10.2.3."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), RETRY_AFTER_S_MAX)
    until = _date(text)
    if until is None:
        return None
    # Counted from the source's own clock where it shows it: ours may differ.
    now = _date(headers.get("Date", "")) or datetime.now(UTC)
    return min(max(0.0, (until - now).total_seconds()), RETRY_AFTER_S_MAX)


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
