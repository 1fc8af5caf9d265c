"""Magnet links: what is read out of them, and what is left out of what a stranger wrote."""

import base64

import pytest

from rayhaul.errors import EgressDenied, InvalidRequest
from rayhaul.settings import EgressSettings
from tasks.guard import AddressGuard
from tasks.magnet import InfoHash, Magnet, allowed_trackers, file_index_of_fragment, shown

V1, V2 = "0123456789abcdef0123456789abcdef01234567", "ab" * 32
TRACKER = "tr=https%3A%2F%2Ftracker.example%2Fannounce"
PORTS = (80, 443)


def read(link: str, *allow: str) -> Magnet:
    return Magnet.parse(AddressGuard(EgressSettings(allow=allow)), link, tracker_ports=PORTS)


@pytest.mark.parametrize(
    ("topics", "info_hash"),
    [
        (f"xt=urn:btih:{V1.upper()}", InfoHash(v1=V1, v2=None)),
        (f"xt=urn:btih:{base64.b32encode(bytes.fromhex(V1)).decode()}", InfoHash(v1=V1, v2=None)),
        (f"xt=urn:btmh:1220{V2}", InfoHash(v1=None, v2=V2)),
        (f"xt.1=urn:btih:{V1}&xt.2=urn:btmh:1220{V2}", InfoHash(v1=V1, v2=V2)),
        (f"xt=urn%3Abtih%3A{V1}&xt=urn:sha1:XYZ&dn=a+b", InfoHash(v1=V1, v2=None)),
    ],
)
def test_info_hashes(topics: str, info_hash: InfoHash) -> None:
    """In hex, in base32, of either version, or of both."""
    assert read(f"magnet:?{topics}&{TRACKER}").info_hash == info_hash


def test_who_is_asked() -> None:
    """Trackers by HTTP and UDP, and peers' addresses, each once; what leads elsewhere is left out, the rest is used."""
    found = read(
        f"magnet:?xt=urn:btih:{V1}&{TRACKER}&{TRACKER}"
        "&tr.1=http://tracker.example:6969/announce&tr=udp://tracker.example:1337&tr=wss://tracker.example/"
        "&tr=udp://tracker.example/announce&tr=udp://tracker.example:53&tr=udp://10.0.0.1:1337&tr=udp://0x7f.1:1337"
        "&tr=udp://[2606:2800:220:1::1]:1337&tr=udp://tracker.example:80/announce"
        "&tr=http://10.0.0.1/announce&tr=http://tracker.example:22/announce&tr=file:///etc/passwd&tr=http://0x7f.1/a"
        "&x.pe=93.184.216.34:51413&x.pe=[2606:2800:220:1::1]:6881&x.pe=93.184.216.34:22&x.pe=192.168.0.1:6881"
        "&x.pe=[::1]:6881&x.pe=peer.example:6881&x.pe=nothing"
        "&ws=http://93.184.216.34/seed&as=http://93.184.216.34/file"
    )
    assert found.trackers == (
        "https://tracker.example/announce",
        "http://tracker.example:6969/announce",
        "udp://tracker.example:1337",
        "udp://tracker.example:80/announce",
    )
    assert found.peers == (("93.184.216.34", 51413), ("2606:2800:220:1::1", 6881))


@pytest.mark.parametrize(
    "link", [f"magnet:?xt=urn:btih:{V1}&{who}" for who in ("tr=http://10.0.0.1/a", "x.pe=[::1]:99")]
)
def test_nobody_who_may_be_asked(link: str) -> None:
    """Where the guard leaves nobody, it says so; an operator may allow them."""
    with pytest.raises(EgressDenied):
        read(link)
    found = read(link, "10.0.0.0/8", "::1/128")
    assert found.trackers or found.peers


@pytest.mark.parametrize(
    "link",
    [
        *(f"magnet:?{TRACKER}", f"magnet:?xt=urn:btih:{V1}", f"magnet:?xt=urn:btih:{V1[1:]}&{TRACKER}"),
        *(f"magnet:?xt=urn:btmh:1320{V2}&{TRACKER}", f"magnet:xt=urn:btih:{V1}", "magnet:?", "magnet:?a&b"),
        *(f"magnet:?xt=urn:btih:{V1}&{TRACKER}&so={so}" for so in ("1,2", "0-3", "-1", "x", "", "1&so=2", "1234567")),
        f"magnet:?xt=urn:btih:{V1}&{TRACKER}&dn=%ff",
        f"magnet:?xt=urn:btih:{V1}&{TRACKER}" + "&a=b" * 300,
        f"magnet:?xt=urn:btih:{V1}&{TRACKER}&dn=\n",
    ],
)
def test_what_is_refused(link: str) -> None:
    """Without a hash, without anybody to ask, for more than one file, or not to be read at all."""
    with pytest.raises(InvalidRequest):
        read(link)


def test_lists_are_bounded() -> None:
    """However many a stranger names."""
    trackers = "".join(f"&tr=http://t{number}.example/a" for number in range(80))
    peers = "".join(f"&x.pe=93.184.216.34:{number}" for number in range(2000, 2080))
    found = read(f"magnet:?xt=urn:btih:{V1}{trackers}{peers}")
    assert (len(found.trackers), len(found.peers)) == (20, 50)
    guard = AddressGuard(EgressSettings())
    assert len(allowed_trackers(guard, (f"http://t{number}.example/a" for number in range(80)), ports=PORTS)) == 20


def test_one_file() -> None:
    """By its number in a link, or in the fragment of a .torrent's URL; a link that is shown tells of nobody."""
    assert read(f"magnet:?xt=urn:btih:{V1}&{TRACKER}&so=12").file_index == 12
    assert read(f"magnet:?xt=urn:btih:{V1}&{TRACKER}").file_index is None
    assert file_index_of_fragment("https://a.example/b.torrent#so=3") == 3
    assert file_index_of_fragment("https://a.example/b.torrent?so=3#page") is None
    with pytest.raises(InvalidRequest):
        file_index_of_fragment("https://a.example/b.torrent#so=1,2")
    assert shown(InfoHash(v1=V1, v2=None), 3) == f"magnet:?xt=urn:btih:{V1}&so=3"
