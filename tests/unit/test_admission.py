"""From a job asked for to a job to be done: what is taken, what is refused, and that no value is shown."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.errors import InvalidRequest
from rayhaul.job import Priority
from rayhaul.policy.admission import InvalidField, admit
from rayhaul.wire import JobRequest

URL = "https://files.example/data.bin"
SHA256 = "0123456789abcdef" * 4


def asked(**fields: Any) -> JobRequest:
    return JobRequest.model_validate({"url": URL, **fields})


def test_every_field_arrives() -> None:
    """What was asked for stands in the spec under its own name."""
    spec = admit(
        asked(
            mirrors=["https://m.example/"],
            key="a/b.bin",
            filename="b.bin",
            headers={"X-Key": "v"},
            checksum=f"sha256:{SHA256}",
            priority="high",
            tags={"team": "media"},
            webhook="https://hook.example/",
            connections=3,
            bandwidthBytesPerSecond=1000,
            notBefore="2026-01-02T03:04:05+01:00",
            sizeBytesMax=5,
            dedupe=True,
            computeSha256=True,
            refreshWebhook="https://refresh.example/",
        )
    )
    assert spec.url == URL
    assert spec.mirrors == ("https://m.example/",)
    assert spec.key == "a/b.bin"
    assert spec.filename == "b.bin"
    assert spec.headers == {"X-Key": "v"}
    assert spec.checksum == f"sha256:{SHA256}"
    assert spec.priority is Priority.HIGH
    assert spec.tags == {"team": "media"}
    assert spec.webhook == "https://hook.example/"
    assert spec.connections == 3
    assert spec.bandwidth_bytes_per_s == 1000
    assert spec.not_before == datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert spec.size_bytes_max == 5
    assert spec.dedupe is True
    assert spec.compute_sha256 is True
    assert spec.refresh_webhook == "https://refresh.example/"


def test_a_url_is_enough() -> None:
    """Everything else has its default."""
    spec = admit(asked())
    assert (spec.url, spec.priority, spec.connections) == (URL, Priority.NORMAL, 8)
    assert (spec.key, spec.checksum, spec.not_before, dict(spec.headers)) == (None, None, None, {})


@pytest.mark.parametrize(
    ("checksum", "kept"),
    [
        (f"sha256:{SHA256}", f"sha256:{SHA256}"),
        (f"SHA256:{SHA256.upper()}", f"sha256:{SHA256}"),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", "md5:d41d8cd98f00b204e9800998ecf8427e"),
        ("crc64nvme:rosUhgp5mIg=", "crc64nvme:rosUhgp5mIg="),
        ("CRC32C:4waSgw==", "crc32c:4waSgw=="),
        (f"sha512:{SHA256.upper()}{SHA256}", f"sha512:{SHA256}{SHA256}"),
        (f"sha512:{SHA256}", None),
        ("crc32c:rosUhgp5mIg=", None),
        (f"sha256:{SHA256[:-1]}", None),
        (f"sha256:{SHA256}0", None),
        (f"sha256:{SHA256[:-1]}g", None),
        (f"sha256:{SHA256}\n", None),
        (SHA256, None),
        ("", None),
        ("md5:", None),
        ("sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", None),
        ("crc64nvme:rosUhgp5mIg", None),
        ("crc64nvme:rosUhgp5", None),
        ("crc64nvme:rosUhgp5mI!=", None),
        ("crc64nvme:٣٣٣٣٣٣٣٣٣٣٣=", None),
    ],
)
def test_checksums(checksum: str, kept: str | None) -> None:
    """Algorithm and hex digits in lower case; another algorithm or length is refused."""
    if kept is None:
        with pytest.raises(InvalidField) as caught:
            admit(asked(checksum=checksum))
        assert caught.value.field == "checksum"
    else:
        assert admit(asked(checksum=checksum)).checksum == kept


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "internal"},
        {"range": "bytes=0-"},
        {"If-Range": "x"},
        {"If-None-Match": "x"},
        {"Content-Length": "1"},
        {"Transfer-Encoding": "chunked"},
        {"Connection": "close"},
        {"Proxy-Authorization": "x"},
        {"Accept-Encoding": "br"},
        {"X-Forwarded-For": "10.0.0.1"},
        {"X Key": "v"},
        {"": "v"},
        {"X-Key:": "v"},
        {"X-Ké": "v"},
        {"X-Key": "a\r\nHost: b"},
        {"X-Key": "a\nb"},
        {"X-Key": "a\x00b"},
        {"X-Key": "é"},
        {"X-Key": "1", "x-key": "2"},
        {"X-Key": "v" * 20_000},
    ],
)
def test_headers_that_are_refused(headers: dict[str, str]) -> None:
    """Those that frame or address the request, and those that would break out of it."""
    with pytest.raises(InvalidField) as caught:
        admit(asked(headers=headers))
    assert caught.value.field == "headers"
    for value in headers.values():
        assert len(value) < 3 or value not in caught.value.message


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer abc"},
        {"Cookie": "a=b; c=d"},
        {"Referer": URL},
        {"User-Agent": "me\t1"},
        {"X-Empty": ""},
    ],
)
def test_headers_that_are_taken(headers: dict[str, str]) -> None:
    """What a browser or a token needs goes to the source as it is."""
    assert admit(asked(headers=headers)).headers == headers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tags", {"": "v"}),
        ("tags", {"a b": "v"}),
        ("tags", {"a:b": "v"}),
        ("tags", {"a=b": "v"}),
        ("tags", {"a" * 65: "v"}),
        ("tags", {"a": "v" * 257}),
        ("tags", {"a": "v\x00"}),
        ("filename", "a/b"),
        ("filename", "..\\b"),
        ("filename", ".."),
        ("filename", "a\x00"),
        ("filename", " "),
        ("key", "\x00"),
        ("key", "a/../b"),
        ("notBefore", "2026-01-02T03:04:05"),
        ("notBefore", "9999-12-31T23:59:59-12:00"),
        ("notBefore", "0001-01-01T00:00:00+12:00"),
        ("sizeBytesMax", 2**53),
        ("bandwidthBytesPerSecond", 10**30),
    ],
)
def test_what_else_is_refused(field: str, value: Any) -> None:
    """Names that cannot be filtered by, paths that lead elsewhere, times without an offset, numbers beyond reason."""
    with pytest.raises(InvalidField) as caught:
        admit(asked(**{field: value}))
    assert caught.value.field == field
    assert caught.value.message == f"{field}: {caught.value.reason}"


def test_tags_that_are_taken() -> None:
    """Names and values of any script, and of the greatest length."""
    tags = {"équipe": "média tv", "a" * 64: "v" * 256, "a/b.c-d": "k:v=w"}
    assert admit(asked(tags=tags)).tags == tags


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=40), max_size=4))
def test_no_header_can_break_out(headers: dict[str, str]) -> None:
    """Whatever is taken has no control characters but tabs, and a name that is a token."""
    try:
        taken = admit(asked(headers=headers)).headers
    except InvalidRequest:
        return
    for name, value in taken.items():
        assert name.isascii()
        assert not set(name) & set(" :\r\n\t\x00")
        assert all(letter == "\t" or " " <= letter <= "~" for letter in value)
