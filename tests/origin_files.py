"""What the tests' origin serves: content made from a seed, how a file behaves, and the reply that follows from it.

Nothing here touches a socket; `origin.py` does. Content is a function of (seed, offset), made in windows: a file of
many GiB costs no memory.
"""

import base64
import gzip
import hashlib
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from awscrt.checksums import crc32c

LAST_MODIFIED = "Mon, 06 Jan 2025 00:00:00 GMT"
#: Of the version that follows a change.
LAST_MODIFIED_LATER = "Tue, 07 Jan 2025 00:00:00 GMT"

_WINDOW_BYTES = 64 * 1024
#: Written to a socket at a time.
WRITE_BYTES = 4 * _WINDOW_BYTES


@lru_cache(maxsize=64)
def _noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(_WINDOW_BYTES)


def _window(seed: int, index: int) -> bytes:
    # The window's number is in its bytes, so that a window written twice or at the wrong place shows.
    return struct.pack(">qQ", seed, index) + _noise(seed)[16:]


def content_bytes(seed: int, first: int, end: int) -> bytes:
    """Return the bytes `first <= offset < end` of the content made from `seed`."""
    if first >= end:
        return b""
    start = first // _WINDOW_BYTES
    joined = b"".join(_window(seed, index) for index in range(start, (end - 1) // _WINDOW_BYTES + 1))
    return joined[first - start * _WINDOW_BYTES : end - start * _WINDOW_BYTES]


def content_windows(seed: int, size: int) -> Iterator[bytes]:
    """Yield the whole content, piece by piece."""
    for first in range(0, size, WRITE_BYTES):
        yield content_bytes(seed, first, min(size, first + WRITE_BYTES))


def content_sha256(seed: int, size: int) -> str:
    """Return the SHA-256 of the whole content, as hex."""
    digest = hashlib.sha256()
    for window in content_windows(seed, size):
        digest.update(window)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a file is served. The defaults are a good origin."""

    #: Whether ranges are served; else every GET is answered 200 with the whole file.
    ranges: bool = True
    etag: Literal["strong", "weak", "none"] = "strong"
    last_modified: str | None = LAST_MODIFIED
    content_type: str = "application/octet-stream"
    content_disposition: str | None = None
    #: Accept-Ranges; None: not sent; empty: what is true.
    accept_ranges: str | None = ""
    #: Sent with every body.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: Digest headers that are sent, with the true values: names of DIGESTS.
    digests: tuple[str, ...] = ()
    #: As many servers as answer in turn, each with an ETag of its own (a CDN's edges); the bytes are the same.
    edges_count: int = 1

    #: How a 206 lies in its Content-Range. `short`: serves, and says, one byte less than asked.
    content_range: Literal[
        "right", "shifted", "short", "missing", "wrong_total", "unknown_total", "wrong_unit", "multipart"
    ] = "right"
    #: How the body ends: by Content-Length, by the last chunk, never (chunked without the last chunk), by closing.
    framing: Literal["length", "chunked", "chunked_unended", "close"] = "length"
    #: Added to the Content-Length that is announced; the body stays as it is and the connection is closed after it.
    content_length_lie: int = 0
    #: Bytes sent beyond the range; to be seen they need a framing other than `length`.
    surplus_bytes: int = 0
    #: Content-Encoding; with `gzip` the whole body is really coded, and ranges are not served.
    coding: str | None = None

    #: Answered to every request.
    status: int | None = None
    #: Answered to the first requests, one each; then, and where it is 0, all is well.
    statuses: tuple[int, ...] = ()
    #: After so many GETs every one is answered with `status`.
    status_after: int = 0
    #: How often each query string is good; then it is answered 403.
    uses_max: int | None = None
    #: Answered to requests with a Range header, after so many GETs; from then on a 416 tells the file's length.
    ranged_status: int | None = None
    ranged_status_after: int = 0
    #: Sent with statuses of 400 and above.
    retry_after: str | None = None
    #: Sent raw in place of a response; then the connection is closed.
    raw: bytes | None = None
    #: Whether HEAD is served; else 405.
    head: bool = True
    #: Request headers (names in lower case) without which the answer is 401.
    needs: Mapping[str, str] = field(default_factory=dict)
    #: Location to redirect to: a path, an absolute URL, or the file's own URL for a loop. `{count}`: the GET's number.
    redirect_to: str | None = None
    redirect_status: int = 302
    #: Whether any request with If-Range is answered 200 with the whole file.
    if_range_quirk: bool = False

    #: Close after so many bytes of a body, and how.
    truncate_after: int | None = None
    #: `ragged`: on TLS, the TCP connection ends without a close_notify.
    truncate_by: Literal["fin", "rst", "ragged"] = "fin"
    #: A bit of the byte at this offset of the file is flipped on its way.
    flip_at: int | None = None
    #: Send nothing after so many bytes of a body until `origin.resume()`. 0: after the headers.
    stall_after: int | None = None
    #: Send nothing at all until `origin.resume()`.
    silent: bool = False
    #: An answer with a byte at one of these offsets comes at this rate: above what is given up for its speed.
    drips_at: tuple[int, ...] = ()
    drip_bytes_per_s: int = 20 * 1024
    #: How often truncation, a flipped bit, stall, silence or dripping strike; None: always.
    faults_max: int | None = None
    #: Limit of one connection.
    rate_bytes_per_s: int | None = None

    #: After so many GETs of this file it is another version: other seed, ETag and date.
    changes_after: int | None = None
    #: Whether the ETag and date change with it (False: a liar that keeps its validators).
    validators_change: bool = True
    #: Size of that version; None: the same.
    size_changed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as the origin saw it. Header names are in lower case."""

    method: str
    #: Decoded, without the leading slash and the query.
    path: str
    query: str
    headers: Mapping[str, str]
    #: Half-open; the end is None where it was left open.
    range: tuple[int, int | None] | None
    #: Connections are numbered from 1.
    connection: int


@dataclass(slots=True, kw_only=True)
class File:
    seed: int
    size: int
    behaviour: Behaviour
    gets_count: int = 0
    faults_count: int = 0
    uses: Counter[str] = field(default_factory=Counter)
    #: How often each fault was made, by name (origin_faults.py).
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def is_changed(self) -> bool:
        return self.behaviour.changes_after is not None and self.gets_count > self.behaviour.changes_after

    def version(self) -> "_Version":
        behaviour = self.behaviour
        changed = self.is_changed
        size = behaviour.size_changed if changed and behaviour.size_changed is not None else self.size
        shows_change = changed and behaviour.validators_change
        mark = f"{self.seed}-{self.size}-{'later' if shows_change else 'first'}"
        if behaviour.edges_count > 1:
            mark += f"-edge{self.gets_count % behaviour.edges_count}"
        etag = {"strong": f'"{mark}"', "weak": f'W/"{mark}"', "none": None}[behaviour.etag]
        date = LAST_MODIFIED_LATER if shows_change and behaviour.last_modified else behaviour.last_modified
        return _Version(seed=self.seed + (1_000_000 if changed else 0), size=size, etag=etag, last_modified=date)

    def strikes(self, fault: str) -> bool:
        """Whether a fault that is due now may strike; counts it."""
        if self.behaviour.faults_max is not None and self.faults_count >= self.behaviour.faults_max:
            return False
        self.faults_count += 1
        self.happened[fault] += 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    seed: int
    size: int
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: tuple[tuple[str, str], ...] = ()
    #: Of the body; where `body` is None, bytes `first <= offset < end` of the content.
    seed: int = 0
    first: int = 0
    end: int = 0
    body: bytes | None = None
    framing: Literal["length", "chunked", "chunked_unended", "close"] = "length"
    content_length_lie: int = 0
    #: Of a refusal: the field of Behaviour that it comes from.
    why: str | None = None

    @property
    def body_bytes(self) -> int:
        return len(self.body) if self.body is not None else self.end - self.first


def plan_reply(file: File, request: Seen) -> Reply:
    """Return what this file answers, faults of the transport aside."""
    behaviour = file.behaviour
    if (refusal := _refusal(file, request)) is not None:
        status, why = refusal
        headers = [("Retry-After", behaviour.retry_after)] if behaviour.retry_after else []
        if status == 416 and behaviour.ranged_status_after:
            headers.append(("Content-Range", f"bytes */{file.version().size}"))
        # RFC 9110 15.3.5: a 204 has no body.
        body = b"" if status == 204 else b"<html>no</html>"
        return Reply(status=status, headers=tuple(headers), body=body, why=why)
    if behaviour.redirect_to is not None:
        location = behaviour.redirect_to.format(count=file.gets_count)
        return Reply(status=behaviour.redirect_status, headers=(("Location", location),), body=b"")
    version = file.version()
    about = [("Content-Type", behaviour.content_type)]
    if behaviour.accept_ranges is not None:
        about += [("Accept-Ranges", behaviour.accept_ranges or ("bytes" if behaviour.ranges else "none"))]
    about += [*behaviour.headers.items()]
    about += [("ETag", version.etag)] if version.etag else []
    about += [("Last-Modified", version.last_modified)] if version.last_modified else []
    about += [("Content-Disposition", behaviour.content_disposition)] if behaviour.content_disposition else []
    about += [("Content-Encoding", behaviour.coding)] if behaviour.coding else []
    if behaviour.coding == "gzip":
        body = gzip.compress(content_bytes(version.seed, 0, version.size), mtime=0)
        return Reply(status=200, headers=tuple(about), body=body, framing=behaviour.framing)
    if _wants_range(behaviour, version, request):
        return _ranged(behaviour, version, request, about)
    about += _digests(behaviour, version, 0, version.size)
    return Reply(
        status=200,
        headers=tuple(about),
        seed=version.seed,
        end=version.size + behaviour.surplus_bytes,
        framing=behaviour.framing,
        content_length_lie=behaviour.content_length_lie,
    )


def _refusal(file: File, request: Seen) -> tuple[int, str] | None:
    """Return the status with which this is refused, and the field of Behaviour that it comes from."""
    behaviour = file.behaviour
    if (unmet := _unmet(behaviour, request)) is not None:
        return unmet
    if file.gets_count <= len(behaviour.statuses) and (status := behaviour.statuses[file.gets_count - 1]):
        return status, "statuses"
    if behaviour.ranged_status and request.range is not None and file.gets_count > behaviour.ranged_status_after:
        return behaviour.ranged_status, "ranged_status_after" if behaviour.ranged_status_after else "ranged_status"
    file.uses[request.query] += 1
    if behaviour.uses_max is not None and file.uses[request.query] > behaviour.uses_max:
        return 403, "uses_max"
    if behaviour.status is None or file.gets_count <= behaviour.status_after:
        return None
    return behaviour.status, "status_after" if behaviour.status_after else "status"


def _unmet(behaviour: Behaviour, request: Seen) -> tuple[int, str] | None:
    if request.method not in {"GET", "HEAD"} or (request.method == "HEAD" and not behaviour.head):
        return 405, "head"
    if any(request.headers.get(name) != value for name, value in behaviour.needs.items()):
        return 401, "needs"
    return None


def _wants_range(behaviour: Behaviour, version: _Version, request: Seen) -> bool:
    if not behaviour.ranges or request.range is None:
        return False
    condition = request.headers.get("if-range")
    if condition is None:
        return True
    # RFC 9110 13.1.5: a weak entity tag never matches.
    return condition == version.etag and not condition.startswith("W/") and not behaviour.if_range_quirk


def _ranged(behaviour: Behaviour, version: _Version, request: Seen, about: list[tuple[str, str]]) -> Reply:
    assert request.range is not None
    first, end = request.range[0], min(request.range[1] or version.size, version.size)
    if first >= version.size:
        return Reply(status=416, headers=(("Content-Range", f"bytes */{version.size}"),), body=b"")
    end -= behaviour.content_range == "short"
    shown_first, shown_end, unit, total = first, end, "bytes", str(version.size)
    match behaviour.content_range:
        case "shifted":
            shown_first, shown_end = first + 1, end + 1
        case "wrong_total":
            total = str(version.size + 1)
        case "unknown_total":
            total = "*"
        case "wrong_unit":
            unit = "lines"
        case _:
            pass
    if behaviour.content_range == "multipart":
        about = [("Content-Type", "multipart/byteranges; boundary=x"), *about[1:]]
    elif behaviour.content_range != "missing":
        about = [*about, ("Content-Range", f"{unit} {shown_first}-{shown_end - 1}/{total}")]
    about += _digests(behaviour, version, first, end)
    return Reply(
        status=206,
        headers=tuple(about),
        seed=version.seed,
        first=first,
        end=end + behaviour.surplus_bytes,
        framing=behaviour.framing,
        content_length_lie=behaviour.content_length_lie,
    )


def _digests(behaviour: Behaviour, version: _Version, first: int, end: int) -> list[tuple[str, str]]:
    """Return the digest headers of an answer with these bytes: of the file, or of what is sent."""
    whole = (0, version.size)
    return [
        (name, write(version.seed, *((first, end) if name == "Content-Digest" else whole)))
        for name, write in DIGESTS.items()
        if name in behaviour.digests
    ]


def _hash64(algorithm: str, seed: int, first: int, end: int) -> str:
    return base64.b64encode(hashlib.new(algorithm, content_bytes(seed, first, end)).digest()).decode()


def _crc32c64(seed: int, first: int, end: int) -> str:
    return base64.b64encode(crc32c(content_bytes(seed, first, end)).to_bytes(4, "big")).decode()


#: Header names, and how their values are written for bytes of a content.
DIGESTS: Mapping[str, Callable[[int, int, int], str]] = {
    "Repr-Digest": lambda *of: f"sha-256=:{_hash64('sha256', *of)}:, unixsum=:AAA=:",
    "Content-Digest": lambda *of: f"sha-512=:{_hash64('sha512', *of)}:",
    "Digest": lambda *of: f"SHA-256={_hash64('sha256', *of)},UNIXsum=30637",
    "Content-MD5": lambda *of: _hash64("md5", *of),
    "x-goog-hash": lambda *of: f"crc32c={_crc32c64(*of)},md5={_hash64('md5', *of)}",
}
