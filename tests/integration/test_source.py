"""Ranges and whole files out of a real origin that misbehaves: the right bytes, or the right error."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from fetching import SEED, SIZE, Connect, ask, patience, pinned, read_range, read_whole
from origin import LAST_MODIFIED, Origin, content_bytes

from rayhaul.errors import (
    RayhaulError,
    SourceBusy,
    SourceChanged,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceStalled,
    SourceTimeout,
    SourceTruncated,
)
from rayhaul.metrics import SOURCE_BYTES, Meter
from rayhaul.settings import EgressSettings, SourceSettings
from tasks.egress import GuardedClient
from tasks.source import LinkExpired, RangeIgnored, VersionUnclear, open_range, open_whole


@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, SIZE), (SIZE - 1, SIZE), (70_000, 200_001)])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_range(origin: Origin, client: GuardedClient, first: int, end: int, framing: str) -> None:
    """A half-open range comes byte for byte, however its body is framed."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, framing=framing)
    assert await read_range(client, url, pinned(origin), first, end) == content_bytes(SEED, first, end)
    assert origin.requests[-1].headers["range"] == f"bytes={first}-{end - 1}"


@pytest.mark.parametrize(
    ("etag", "sent"), [(f'"{SEED}-{SIZE}-first"', True), (f'W/"{SEED}-{SIZE}-first"', False), (None, False)]
)
async def test_if_range_needs_a_strong_etag(
    origin: Origin, client: GuardedClient, etag: str | None, *, sent: bool
) -> None:
    """A weak validator must not be used in If-Range (RFC 9110 13.1.5)."""
    kind = "none" if etag is None else "weak" if etag.startswith("W/") else "strong"
    url = origin.add("f.bin", size=SIZE, seed=SEED, etag=kind)
    assert await read_range(client, url, pinned(origin, etag=etag), 0, 10) == content_bytes(SEED, 0, 10)
    assert origin.requests[0].headers.get("if-range") == (etag if sent else None)


#: Says that it has the whole range, and that it has ten bytes.
SHORT_206 = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 100-299/300000\r\n"
    b'ETag: "5-300000-first"\r\nContent-Length: 10\r\n\r\n0123456789'
)

#: Refuses the range and tells how long the file is.
UNSATISFIED = b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */%d\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"content_range": "shifted"}, RangeIgnored),
        ({"content_range": "short"}, RangeIgnored),
        ({"content_range": "missing"}, RangeIgnored),
        ({"content_range": "wrong_unit"}, RangeIgnored),
        ({"content_range": "multipart"}, RangeIgnored),
        ({"content_type": "multipart/byteranges; boundary=x"}, RangeIgnored),
        ({"raw": SHORT_206.replace(b"299", b"9" * 5000)}, RangeIgnored),
        ({"raw": SHORT_206}, RangeIgnored),
        ({"content_length_lie": 1}, RangeIgnored),
        ({"ranges": False}, RangeIgnored),
        ({"ranges": False, "framing": "chunked"}, RangeIgnored),
        ({"content_range": "wrong_total"}, SourceChanged),
        ({"changes_after": 0}, SourceChanged),
        ({"changes_after": 0, "ranges": False}, SourceChanged),
        ({"changes_after": 0, "validators_change": False, "size_changed": SIZE + 1}, SourceChanged),
        ({"changes_after": 0, "validators_change": False, "size_changed": 50}, SourceChanged),
        ({"etag": "weak"}, VersionUnclear),
        ({"edges_count": 2}, VersionUnclear),
        ({"edges_count": 2, "last_modified": None}, SourceChanged),
        ({"changes_after": 0, "last_modified": None}, SourceChanged),
        ({"status": 416}, SourceChanged),
        ({"raw": UNSATISFIED % SIZE}, RangeIgnored),
        ({"raw": UNSATISFIED % (SIZE - 1)}, SourceChanged),
        ({"surplus_bytes": 1, "framing": "chunked"}, SourceChanged),
        ({"truncate_after": 99, "framing": "chunked"}, SourceTruncated),
        ({"truncate_after": 99, "framing": "chunked", "truncate_by": "rst"}, SourceTruncated),
        ({"truncate_after": 99}, SourceTruncated),
        ({"truncate_after": 99, "truncate_by": "rst"}, SourceTruncated),
        ({"truncate_after": 99, "framing": "close"}, SourceTruncated),
        ({"truncate_after": 99, "framing": "close", "truncate_by": "rst"}, SourceTruncated),
        ({"truncate_after": 0}, SourceTruncated),
        ({"framing": "chunked_unended"}, SourceTruncated),
        ({"stall_after": 99}, SourceStalled),
        ({"stall_after": 0}, SourceStalled),
        ({"silent": True}, SourceTimeout),
        ({"coding": "br"}, SourceRefused),
        ({"coding": "identity, gzip"}, SourceRefused),
        ({"status": 404}, SourceNotFound),
        ({"status": 429, "retry_after": "3"}, SourceBusy),
        ({"status": 502}, SourceFailed),
    ],
)
async def test_bad_range(
    origin: Origin, connect: Connect, behaviour: dict[str, Any], error: type[RayhaulError]
) -> None:
    """A 206 that is not exactly the range of the pinned version is an error, and never wrong bytes."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, **behaviour)
    got = bytearray()

    async def read() -> None:
        client = connect(source=patience(behaviour))
        async with open_range(client, url=url, headers={}, pin=pinned(origin), first_byte=100, end_byte=300) as body:
            async for piece in body:
                got.extend(piece)

    with pytest.raises(error) as raised:
        await read()
    assert type(raised.value) is error
    assert raised.value.retryable is (error not in {SourceRefused, SourceNotFound})
    assert got == content_bytes(SEED, 100, 100 + len(got))
    assert len(got) <= 200


async def test_range_of_unknown_total(origin: Origin, client: GuardedClient) -> None:
    """`*` as the complete length is allowed (RFC 9110 14.4)."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, content_range="unknown_total")
    assert await read_range(client, url, pinned(origin), 5, 9) == content_bytes(SEED, 5, 9)


@pytest.mark.parametrize(
    ("etag", "last_modified", "same"),
    [
        ("none", LAST_MODIFIED, True),
        ("none", "Mon, 06 Jan 2025 00:00:01 GMT", False),
        ("none", None, False),
        ("weak", LAST_MODIFIED, True),
        ("weak", None, False),
    ],
)
async def test_date_and_length_pin_where_no_strong_etag_does(
    origin: Origin, client: GuardedClient, etag: str, last_modified: str | None, *, same: bool
) -> None:
    """Without a strong ETag the date must be the pin's; one that is missing proves nothing."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, etag=etag, last_modified=last_modified)
    pin = pinned(origin, etag=None if etag == "none" else f'W/"{SEED}-{SIZE}-first"')
    if same:
        assert await read_range(client, url, pin, 5, 9) == content_bytes(SEED, 5, 9)
    else:
        with pytest.raises(SourceChanged):
            await read_range(client, url, pin, 5, 9)


async def test_other_weak_etag_is_another_version(origin: Origin, client: GuardedClient) -> None:
    """Weak tags that differ tell of a change that matters."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, etag="weak")
    with pytest.raises(SourceChanged):
        await read_range(client, url, pinned(origin, etag='W/"other"'), 5, 9)


async def test_lost_etag_is_no_proof(origin: Origin, client: GuardedClient) -> None:
    """A response without the pin's ETag passes by its date, and without a date not at all."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, etag="none")
    pin = pinned(origin, etag='W/"x"')
    assert await read_range(client, url, pin, 5, 9) == content_bytes(SEED, 5, 9)
    with pytest.raises(SourceChanged):
        await read_range(client, url, replace(pin, last_modified=None), 5, 9)


async def test_source_without_any_validator(origin: Origin, client: GuardedClient) -> None:
    """Where the source never shows a validator, the length is all there is to compare."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, etag="none", last_modified=None)
    pin = await ask(client, url)
    assert await read_range(client, url, pin, 5, 9) == content_bytes(SEED, 5, 9)
    with pytest.raises(SourceChanged):
        await read_range(client, url, replace(pin, size_bytes=SIZE + 1), 5, 9)


async def test_if_range_that_a_cdn_misreads(origin: Origin, client: GuardedClient) -> None:
    """Some CDNs answer any If-Range with the whole file: the range is asked for again without it."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, if_range_quirk=True)
    assert await read_range(client, url, pinned(origin), 5, 9) == content_bytes(SEED, 5, 9)
    assert ["if-range" in seen.headers for seen in origin.requests] == [True, False]


async def test_edges_with_etags_of_their_own(origin: Origin, client: GuardedClient) -> None:
    """Servers that tag the same file differently: one answer is one version, and ranges count with a checksum."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, edges_count=3)
    pin = await ask(client, url)
    assert await read_whole(client, url, pin) == content_bytes(SEED, 0, SIZE)
    for first in (0, 1000, 2000):
        async with open_range(
            client, url=url, headers={}, pin=pin, first_byte=first, end_byte=first + 1000, checksum_tells=True
        ) as body:
            assert b"".join([piece async for piece in body]) == content_bytes(SEED, first, first + 1000)
    with pytest.raises(VersionUnclear):
        await asyncio.gather(*(read_range(client, url, pin, 0, 1000) for _ in range(2)))


async def test_slow_source_is_left(origin: Origin, connect: Connect) -> None:
    """A source that drips is given up after the window; one that is slow but fast enough is not."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, rate_bytes_per_s=100)
    limits = SourceSettings(speed_bytes_per_s_min=10_000, speed_window_s=0.3)
    with pytest.raises(SourceStalled, match="less than 10000 bytes per second"):
        await read_range(connect(source=limits), url, pinned(origin), 0, 1_000)
    url = origin.add("f.bin", size=SIZE, seed=SEED, rate_bytes_per_s=1_000_000)
    client = connect(source=SourceSettings(speed_bytes_per_s_min=50_000, speed_window_s=0.1))
    assert await read_whole(client, url, pinned(origin)) == content_bytes(SEED, 0, SIZE)


async def test_our_own_pauses_are_not_the_sources(origin: Origin, connect: Connect) -> None:
    """Only the time spent waiting for the source counts against its speed."""
    limits = SourceSettings(speed_bytes_per_s_min=500_000, speed_window_s=0.2, read_buffer_bytes=16_384)
    url = origin.add("f.bin", size=SIZE, seed=SEED)
    async with open_whole(connect(source=limits), url=url, headers={}, pin=pinned(origin)) as body:
        got = bytearray()
        async for piece in body:
            got += piece
            await asyncio.sleep(0.1)
    assert got == content_bytes(SEED, 0, SIZE)


@pytest.mark.parametrize("status", [401, 403, 410])
async def test_expired_link_of_a_redirect_is_made_anew(origin: Origin, client: GuardedClient, status: int) -> None:
    """Behind a redirect a refusal may pass, for the next request begins at the original URL; else it is final."""
    target = origin.add("signed", size=SIZE, seed=SEED, statuses=(status,))
    url = origin.add("f.bin", redirect_to="/signed?n={count}")
    with pytest.raises(LinkExpired) as expired:
        await read_range(client, url, pinned(origin), 0, 10)
    assert (expired.value.retryable, expired.value.code) == (True, "source_refused")
    assert await read_range(client, url, pinned(origin), 0, 10) == content_bytes(SEED, 0, 10)
    assert [seen.query for seen in origin.seen("signed")] == ["n=1", "n=2"]
    origin.add("signed", size=SIZE, statuses=(status,))
    with pytest.raises((SourceRefused, SourceNotFound)) as final:
        await read_range(client, target, pinned(origin), 0, 10)
    assert not final.value.retryable


async def test_change_between_ranges(origin: Origin, client: GuardedClient) -> None:
    """A file that changes while it is read is noticed at the next range."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, changes_after=2)
    pin = await ask(client, url)
    assert await read_range(client, url, pin, 0, 100) == content_bytes(SEED, 0, 100)
    with pytest.raises(SourceChanged):
        await read_range(client, url, pin, 100, 200)


async def test_connections_are_used_again_and_broken_ones_are_not(origin: Origin, client: GuardedClient) -> None:
    """Whole bodies leave the connection open for the next range; one left early is closed, so no old byte leaks."""
    url = origin.add("f.bin", size=50_000_000, seed=SEED)
    pin = await ask(client, url)
    for first in (0, 1000):
        await read_range(client, url, pin, first, first + 1000)
    assert origin.connections_count == 1
    async with open_range(client, url=url, headers={}, pin=pin, first_byte=0, end_byte=50_000_000) as body:
        await anext(aiter(body))
    assert await read_range(client, url, pin, 7, 1000) == content_bytes(SEED, 7, 1000)
    assert origin.connections_count == 2


async def test_connections_are_bounded_and_probes_do_not_wait(origin: Origin) -> None:
    """`connections_max` holds for streams; a probe passes beside them, since metadata must come at once."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, stall_after=10)
    pin = pinned(origin)
    async with GuardedClient(
        EgressSettings(allow=(origin.host_port,)), SourceSettings(), connections_max=2, meter=Meter()
    ) as client:
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(read_range(client, url, pin, first, first + 100)) for first in range(5)]
            while origin.connections_open < 2:
                await asyncio.sleep(0)
            assert (await ask(client, origin.add("other", size=3))).size_bytes == 3
            assert len(origin.seen("f.bin")) == 2
            origin.resume()
        assert [read.result() for read in reads] == [content_bytes(SEED, n, n + 100) for n in range(5)]
        assert origin.connections_open_max == 3


async def test_slow_reader_is_no_stalled_source(origin: Origin, connect: Connect) -> None:
    """While the reader holds back, the source's silence is ours: the stall limit does not run."""
    client = connect(
        source=SourceSettings(stall_timeout_s=0.1, read_buffer_bytes=65_536),
    )
    url = origin.add("f.bin", size=8_000_000, seed=SEED)
    pin = await ask(client, url)
    async with open_whole(client, url=url, headers={}, pin=pin) as body:
        pieces = aiter(body)
        got = await anext(pieces)
        await asyncio.sleep(0.4)
        got += b"".join([piece async for piece in pieces])
    assert got == content_bytes(SEED, 0, 8_000_000)


async def test_source_bytes_are_counted(origin: Origin, connect: Connect) -> None:
    """Each byte read from a source counts once."""
    meter = Meter()
    client = connect(meter=meter)
    url = origin.add("f.bin", size=SIZE, seed=SEED)
    await read_range(client, url, pinned(origin), 100, 1100)
    await read_whole(client, url, pinned(origin))
    assert meter.snapshot().counters[SOURCE_BYTES.name, ()] == SIZE + 1000


# --- the whole file ---


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("knows_size", [True, False])
async def test_whole(origin: Origin, client: GuardedClient, framing: str, *, knows_size: bool) -> None:
    """The whole file comes in one stream, its length known or not."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, framing=framing)
    pin = pinned(origin) if knows_size else pinned(origin, size_bytes=None)
    assert await read_whole(client, url, pin) == content_bytes(SEED, 0, SIZE)
    assert "range" not in origin.requests[-1].headers


async def test_whole_empty_file(origin: Origin, client: GuardedClient) -> None:
    """An empty file is a stream that ends at once."""
    url = origin.add("empty", size=0)
    assert await read_whole(client, url, await ask(client, url)) == b""


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ({"changes_after": 0}, SourceChanged),
        ({"changes_after": 0, "validators_change": False, "size_changed": SIZE + 1}, SourceChanged),
        (
            {"changes_after": 0, "validators_change": False, "size_changed": SIZE + 1, "framing": "chunked"},
            SourceChanged,
        ),
        (
            {"changes_after": 0, "validators_change": False, "size_changed": SIZE - 1, "framing": "chunked"},
            SourceTruncated,
        ),
        ({"content_length_lie": 1}, SourceChanged),
        ({"truncate_after": 1000}, SourceTruncated),
        ({"truncate_after": 1000, "truncate_by": "rst"}, SourceTruncated),
        ({"truncate_after": 1000, "framing": "close"}, SourceTruncated),
        ({"framing": "chunked_unended"}, SourceTruncated),
        ({"stall_after": 1000}, SourceStalled),
        ({"coding": "gzip"}, SourceRefused),
        ({"status": 206}, SourceRefused),
        ({"status": 403}, SourceRefused),
        ({"status": 404}, SourceNotFound),
        ({"status": 503, "retry_after": "1"}, SourceBusy),
    ],
)
async def test_bad_whole(
    origin: Origin, connect: Connect, behaviour: dict[str, Any], error: type[RayhaulError]
) -> None:
    """One stream is checked like a range: length, validators, coding, and a proper end."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, **behaviour)
    with pytest.raises(error) as raised:
        await read_whole(connect(source=patience(behaviour)), url, pinned(origin))
    assert type(raised.value) is error


@pytest.mark.parametrize(
    "behaviour",
    [
        {"framing": "chunked_unended"},
        {"framing": "chunked", "truncate_after": 1000},
        {"framing": "chunked", "truncate_after": 1000, "truncate_by": "rst"},
        {"framing": "close", "truncate_after": 1000, "truncate_by": "rst"},
        {"framing": "length", "truncate_after": 1000},
    ],
)
async def test_unknown_length_needs_a_proper_end(
    origin: Origin, client: GuardedClient, behaviour: dict[str, Any]
) -> None:
    """Where the probe knew no length, only the message's own end makes the file complete (RFC 9112 8)."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, **behaviour)
    with pytest.raises(SourceTruncated):
        await read_whole(client, url, pinned(origin, size_bytes=None))
