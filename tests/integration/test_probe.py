"""The probe against a real origin that misbehaves."""

import itertools
from typing import Any

import pytest
from fetching import SEED, SIZE, Connect, ask, patience, read_range, read_whole
from origin import LAST_MODIFIED, Origin, content_bytes

from rayhaul.errors import (
    RayhaulError,
    SourceBusy,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceTimeout,
    SourceTooLarge,
    SourceUnreachable,
)
from rayhaul.job import Metadata
from rayhaul.metrics import SOURCE_BYTES
from rayhaul.settings import SourceSettings
from tasks.egress import GuardedClient


async def test_probe_of_a_good_file(origin: Origin, client: GuardedClient) -> None:
    """One request for one byte tells size, validator, type, name and range support; the clock is the caller's."""
    url = origin.add("dir/f ü.bin", size=SIZE, seed=SEED, content_type="video/mp4")
    clock = itertools.count(10.0, 0.25)
    metadata = await ask(client, url, clock=lambda: next(clock))
    assert metadata == Metadata(
        size_bytes=SIZE,
        content_type="video/mp4",
        etag=f'"{SEED}-{SIZE}-first"',
        last_modified=LAST_MODIFIED,
        rangeable=True,
        filename="f ü.bin",
        final_url=url,
        fetch_ms=250,
    )
    assert [(seen.method, seen.range) for seen in origin.requests] == [("GET", (0, 1))]
    assert origin.requests[0].headers["accept-encoding"] == "identity"
    assert origin.requests[0].headers["user-agent"] == "rayhaul"


@pytest.mark.parametrize(
    ("behaviour", "size", "rangeable"),
    [
        ({"etag": "weak"}, SIZE, True),
        ({"etag": "none"}, SIZE, True),
        ({"head": False}, SIZE, True),
        ({"content_range": "unknown_total"}, None, False),
        ({"content_range": "missing"}, SIZE, False),
        ({"content_range": "shifted"}, SIZE, False),
        ({"content_range": "wrong_unit"}, SIZE, False),
        ({"content_range": "multipart"}, SIZE, False),
        ({"ranges": False}, SIZE, False),
        ({"ranges": False, "framing": "chunked"}, None, False),
        ({"ranges": False, "framing": "close"}, None, False),
        ({"coding": "identity"}, SIZE, True),
        ({"coding": "aws-chunked"}, SIZE, True),
        ({"ranged_status": 400}, SIZE, False),
        ({"ranged_status": 405}, SIZE, False),
        ({"ranged_status": 416}, SIZE, False),
        ({"ranged_status": 501}, SIZE, False),
        # Accept-Ranges is advice: neither its absence nor its promise proves anything (RFC 9110 14.3).
        ({"accept_ranges": None}, SIZE, True),
        ({"accept_ranges": "none"}, SIZE, True),
        ({"accept_ranges": "bytes", "ranges": False}, SIZE, False),
    ],
)
async def test_probe_of_an_odd_file(
    origin: Origin, client: GuardedClient, behaviour: dict[str, Any], size: int | None, *, rangeable: bool
) -> None:
    """Size is known only where the source really says it, ranges count only where a 206 proves them."""
    metadata = await ask(client, origin.add("f.bin", size=SIZE, seed=SEED, **behaviour))
    assert (metadata.size_bytes, metadata.rangeable) == (size, rangeable)
    assert (metadata.etag or "").startswith({"weak": "W/", "none": ""}.get(behaviour.get("etag", ""), '"'))
    assert client._meter.snapshot().counters.get((SOURCE_BYTES.name, ()), 0) == 0, "a body was read"


@pytest.mark.parametrize(
    ("last_modified", "kept"),
    [
        (LAST_MODIFIED, True),
        ("Tue, 07 Jan 2025 23:59:59 GMT", True),
        # The second in which the origin answers: another change may follow within it.
        ("Wed, 08 Jan 2025 00:00:00 GMT", False),
        ("Wed, 08 Jan 2025 09:00:00 GMT", False),
        ("yesterday", False),
        (None, False),
    ],
)
async def test_a_date_that_may_repeat_is_no_validator(
    origin: Origin, client: GuardedClient, last_modified: str | None, *, kept: bool
) -> None:
    """Last-Modified tells versions apart only where it is a second older than Date (RFC 9110 8.8.2.2)."""
    metadata = await ask(client, origin.add("f.bin", size=SIZE, seed=SEED, last_modified=last_modified))
    assert metadata.last_modified == (last_modified if kept else None)


async def test_probe_of_an_empty_file(origin: Origin, client: GuardedClient) -> None:
    """An empty file has no byte 0: its 416 says so, and nothing of the error page is taken for the file."""
    metadata = await ask(client, origin.add("empty", size=0, seed=SEED))
    assert (metadata.size_bytes, metadata.rangeable, metadata.content_type) == (0, False, None)
    metadata = await ask(client, origin.add("empty2", size=0, seed=SEED, ranges=False))
    assert (metadata.size_bytes, metadata.rangeable) == (0, False)


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"status": 404}, SourceNotFound),
        ({"status": 410}, SourceNotFound),
        ({"status": 401}, SourceRefused),
        ({"status": 403}, SourceRefused),
        ({"status": 400}, SourceRefused),
        ({"status": 451}, SourceRefused),
        ({"status": 408}, SourceTimeout),
        ({"status": 429}, SourceBusy),
        ({"status": 503}, SourceBusy),
        ({"status": 500}, SourceFailed),
        ({"status": 521}, SourceFailed),
        ({"status": 204}, SourceRefused),
        ({"status": 300}, SourceRefused),
        ({"silent": True}, SourceTimeout),
        ({"raw": b""}, SourceUnreachable),
        ({"raw": b"SSH-2.0-OpenSSH_9\r\n"}, SourceFailed),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"}, SourceFailed),
        ({"raw": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 20_000 + b"\r\n\r\n"}, SourceFailed),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"}, SourceFailed),
        ({"raw": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"}, SourceRefused),
        ({"coding": "gzip"}, SourceRefused),
        ({"coding": "br"}, SourceRefused),
    ],
)
async def test_failed_probe(
    origin: Origin, connect: Connect, behaviour: dict[str, Any], error: type[RayhaulError]
) -> None:
    """Every refusal, silence and nonsense of a source has its own error."""
    with pytest.raises(error) as raised:
        await ask(connect(source=patience(behaviour)), origin.add("f.bin", size=SIZE, seed=SEED, **behaviour))
    assert type(raised.value) is error


async def test_probe_is_bounded_as_a_whole(origin: Origin, connect: Connect) -> None:
    """A source that redirects slowly can not stretch the probe beyond its own limit."""
    source = SourceSettings(first_byte_timeout_s=60, probe_timeout_s=0.2)
    with pytest.raises(SourceTimeout):
        await ask(connect(source=source), origin.add("f.bin", size=SIZE, silent=True))


async def test_probe_refuses_what_is_too_large(origin: Origin, client: GuardedClient) -> None:
    """The limit itself is allowed, one byte more is not."""
    url = origin.add("f.bin", size=SIZE)
    assert (await ask(client, url, size_bytes_max=SIZE)).size_bytes == SIZE
    with pytest.raises(SourceTooLarge):
        await ask(client, url, size_bytes_max=SIZE - 1)


async def test_name_comes_from_the_header_or_the_final_url(origin: Origin, client: GuardedClient) -> None:
    """The caller's wish counts before Content-Disposition, that before the URL that answered; all are made safe."""
    named = origin.add("a", size=1, content_disposition="attachment; filename*=UTF-8''..%2Fna%C3%AFve.txt")
    assert (await ask(client, named)).filename == "naïve.txt"
    assert (await ask(client, named, filename="../mine.txt")).filename == "mine.txt"
    origin.add("real.zip", size=1)
    assert (await ask(client, origin.add("latest", redirect_to="/real.zip?x=1"))).filename == "real.zip"


async def test_retry_after(origin: Origin, client: GuardedClient) -> None:
    """The wait that a source asks for is read as seconds or as a date on its own clock, and cut to an hour."""
    for text, wait_s in (
        ("7", 7.0),
        ("Wed, 08 Jan 2025 00:02:00 GMT", 120.0),
        ("Tue, 07 Jan 2025 00:00:00 GMT", 0.0),
        ("999999", 3600.0),
        ("Wed, 08 Jan 2031 00:00:00 GMT", 3600.0),
        ("soon", None),
        ("Wed, 08 Jan 99999999999999999999 00:00:00 GMT", None),
    ):
        url = origin.add("f.bin", size=SIZE, statuses=(503,), retry_after=text)
        with pytest.raises(SourceBusy) as busy:
            await ask(client, url)
        assert busy.value.retry_after_s == wait_s, text
        assert (await ask(client, url)).size_bytes == SIZE


async def test_gzip_file_with_a_gzip_label(origin: Origin, client: GuardedClient) -> None:
    """A file that is gzip, labelled as a gzip coding by its server, is stored as it is and still read in ranges."""
    url = origin.add("f.tar.gz", size=SIZE, seed=SEED, coding="x-gzip")
    pin = await ask(client, url)
    assert pin.rangeable
    assert await read_range(client, url, pin, 10, 20) == content_bytes(SEED, 10, 20)
    assert await read_whole(client, url, pin) == content_bytes(SEED, 0, SIZE)
