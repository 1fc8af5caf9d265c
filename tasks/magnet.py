"""Reads magnet links, and what in them says which file of a torrent is meant.

Laws of this file:
1. A link is a stranger's: bounded in every list, and the guard is asked about each address in it. What may not be
   reached is left out; a link of which nothing is left is refused.
2. One job is one file: `so` names exactly one (BEP 53).

Sources: BEP 9 (magnet links, x.pe), BEP 52 (btmh), BEP 53 (so).
"""

import base64
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from yarl import URL

from rayhaul.errors import EgressDenied, InvalidRequest
from tasks.guard import AddressGuard, check_text

#: Peers listen where they like, and UDP trackers do; below are the ports of services, of which only those of HTTP serve
#: trackers.
PEER_PORTS = range(1024, 65_536)
TRACKERS_MAX = 20
_PEERS_MAX = 50
_FIELDS_MAX = 200
_TRACKER_SCHEMES = frozenset({"http", "https", "udp"})
_HEX_V1, _BASE32_V1 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[a-z2-7]{32}")
#: A multihash of SHA-256: 0x12, 0x20, 32 bytes.
_HEX_V2 = re.compile(r"1220([0-9a-f]{64})")
_INDEX = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoHash:
    """What a torrent is known by, in lower-case hex; one of the two is there."""

    #: SHA-1. Source: BEP 3.
    v1: str | None
    #: SHA-256. Source: BEP 52.
    v2: str | None

    @property
    def name(self) -> str:
        return self.v1 or self.v2 or ""

    @property
    def urn(self) -> str:
        return f"urn:btih:{self.v1}" if self.v1 else f"urn:btmh:1220{self.v2}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Magnet:
    info_hash: InfoHash
    trackers: tuple[str, ...]
    #: Addresses and ports of peers.
    peers: tuple[tuple[str, int], ...]
    #: Of the file within the torrent, from 0; None: it has to be the only one.
    file_index: int | None

    @classmethod
    def parse(cls, guard: AddressGuard, text: str, *, tracker_ports: Collection[int]) -> Self:
        """Raises: InvalidRequest; EgressDenied where nobody that it names may be asked."""
        check_text(text)
        try:
            fields = parse_qsl(
                urlsplit(text).query,
                keep_blank_values=True,
                strict_parsing=True,
                max_num_fields=_FIELDS_MAX,
                errors="strict",
            )
        except ValueError:
            raise InvalidRequest("The magnet link cannot be read.") from None
        named_trackers = [value for name, value in fields if name == "tr" or name.startswith("tr.")]
        trackers = allowed_trackers(guard, named_trackers, ports=tracker_ports)
        named_peers = [value for name, value in fields if name == "x.pe"]
        found = cls(
            info_hash=_info_hash([value for name, value in fields if name == "xt" or name.startswith("xt.")]),
            trackers=trackers,
            peers=tuple(_allowed_peers(guard, named_peers)),
            file_index=file_index_of([value for name, value in fields if name == "so"]),
        )
        if not found.trackers and not found.peers:
            if named_trackers or named_peers:
                raise EgressDenied("The magnet link names no tracker (tr) or peer (x.pe) that may be asked.")
            raise InvalidRequest("The magnet link names neither trackers (tr) nor peers (x.pe) to ask for the file.")
        return found


def file_index_of(values: Iterable[str]) -> int | None:
    """Return the one file that fields of the name `so` name; None where there are none. Raises: InvalidRequest."""
    found = set(values)
    if not found:
        return None
    if len(found) > 1 or not _INDEX.fullmatch(value := found.pop()):
        raise InvalidRequest("so= must be the number of one file of the torrent, from 0.")
    return int(value)


def file_index_of_fragment(url: str) -> int | None:
    """Return what the fragment `#so=N` of a .torrent's URL names. Raises: InvalidRequest."""
    fragment = urlsplit(url).fragment
    return file_index_of(value for name, value in parse_qsl(fragment, max_num_fields=_FIELDS_MAX) if name == "so")


def shown(info_hash: InfoHash, file_index: int) -> str:
    """Return a link to a file without who is asked for it: private trackers have passwords in their paths."""
    return f"magnet:?xt={info_hash.urn}&so={file_index}"


def allowed_trackers(guard: AddressGuard, urls: Iterable[str], *, ports: Collection[int]) -> tuple[str, ...]:
    """Return those that may be asked, each once. Names are resolved, and looked at again, when one is connected to."""
    found = dict.fromkeys(url for url in urls if _is_allowed_tracker(guard, url, ports))
    return tuple(found)[:TRACKERS_MAX]


def _is_allowed_tracker(guard: AddressGuard, text: str, ports: Collection[int]) -> bool:
    try:
        url = URL(text)
        # A UDP tracker has no port of its own (BEP 15), and none is asked by IPv6 (`torrent_datagrams`).
        if url.scheme not in _TRACKER_SCHEMES or url.port is None or (url.scheme == "udp" and ":" in (url.host or "")):
            return False
        port = url.port if url.port in ports or url.port in PEER_PORTS else URL.build(scheme=url.scheme, host="x").port
        guard.check_other(text, port or 0)
    except (ValueError, InvalidRequest, EgressDenied):
        return False
    return True


def _allowed_peers(guard: AddressGuard, values: Iterable[str]) -> Iterator[tuple[str, int]]:
    for text in list(dict.fromkeys(values))[:_PEERS_MAX]:
        host, _, port_text = text.rpartition(":")
        bare = host.removeprefix("[").removesuffix("]")
        try:
            port = int(port_text)
            # A name is none: it would be another thing to resolve.
            guard.check_address(bare, port, bare, ports=PEER_PORTS)
        except (ValueError, EgressDenied):
            continue
        yield bare, port


def _info_hash(topics: Iterable[str]) -> InfoHash:
    v1: str | None = None
    v2: str | None = None
    for topic in topics:
        kind, _, value = topic.lower().rpartition(":")
        if kind == "urn:btih" and _HEX_V1.fullmatch(value):
            v1 = value
        elif kind == "urn:btih" and _BASE32_V1.fullmatch(value):
            v1 = base64.b32decode(value.upper()).hex()
        elif kind == "urn:btmh" and (multihash := _HEX_V2.fullmatch(value)) is not None:
            v2 = multihash[1]
    if v1 is None and v2 is None:
        raise InvalidRequest("The magnet link has no info-hash (xt=urn:btih:… or xt=urn:btmh:1220…).")
    return InfoHash(v1=v1, v2=v2)
