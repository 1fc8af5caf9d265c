"""Datagrams as SOCKS5 wraps them: what is read out of one, and what is not carried."""

import struct

import pytest

from tasks.torrent_datagrams import unwrapped, wrapped

CONNECT = struct.pack(">QII", 0x41727101980, 0, 1)
ANNOUNCE = struct.pack(">QII", 5, 1, 1) + bytes(82)
SCRAPE = struct.pack(">QII", 5, 2, 1) + bytes(20)
HERE = b"\x00\x00\x00\x01\x5d\xb8\xd8\x22\x1a\xe1"


@pytest.mark.parametrize("request_", [CONNECT, ANNOUNCE, ANNOUNCE + b"\x02\x03/an", SCRAPE])
def test_questions(request_: bytes) -> None:
    """By name or by address."""
    assert unwrapped(HERE + request_) == ("93.184.216.34", 6881, request_)
    assert unwrapped(b"\x00\x00\x00\x03\x03a.b\x1a\xe1" + request_) == ("a.b", 6881, request_)
    v6 = b"\x00\x00\x00\x04" + bytes(15) + b"\x01\x1a\xe1"
    assert unwrapped(v6 + request_) == ("::1", 6881, request_)


@pytest.mark.parametrize(
    "datagram",
    [
        *(b"", HERE, HERE[:9], HERE + CONNECT[:15], HERE + CONNECT + b"x", HERE + bytes(16)),
        *(b"\x00\x00\x01" + HERE[3:] + CONNECT, b"\x00\x01\x00" + HERE[3:] + CONNECT),
        *(b"\x00\x00\x00\x02" + HERE[4:] + CONNECT, b"\x00\x00\x00\x03\xff" + CONNECT),
        *(b"\x00\x00\x00\x03\x01\xff\x1a\xe1" + CONNECT, b"\x00\x00\x00\x04" + CONNECT),
        *(HERE + ANNOUNCE[:97], HERE + ANNOUNCE + bytes(258), HERE + SCRAPE + bytes(20)),
        HERE + struct.pack(">QII", 5, 3, 1),
    ],
)
def test_what_is_not_carried(datagram: bytes) -> None:
    """Fragments, what is cut off, and what no tracker is asked (BEP 15)."""
    with pytest.raises(ValueError, match=r"\w"):
        unwrapped(datagram)


def test_answers() -> None:
    """From an address, as it is."""
    assert wrapped(b"answer", "93.184.216.34", 6881) == HERE + b"answer"
