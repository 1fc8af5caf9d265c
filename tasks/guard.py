"""Decides which URLs and addresses may be fetched: the address table, without a socket.

Laws of this file:
1. One parser (yarl) for the check and for the fetch; what is connected to is what was checked.
2. A refusal tells the user one generic sentence; the reason goes to the metric and the log.
3. IPv6 forms that carry an IPv4 address are refused, and the address inside is checked as well: an operator who allows
   a wrapper (a NAT64 network) has not allowed what it leads to.
4. An entry of the allow list is the only way past the table. It is compared with the address itself.

Source: IANA's IPv4 and IPv6 special-purpose address registries. `ipaddress.is_global` is not enough: on Python 3.11 it
calls NAT64, 6to4, v4-compatible and multicast addresses global.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from yarl import URL

from rayhaul.errors import EgressDenied, InvalidRequest
from rayhaul.settings import EgressSettings

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

#: Addresses that are remembered as good.
_GOOD_MAX = 4096
#: As the API's own limit for a URL.
URL_CHARACTERS_MAX = 8192


class Reason(StrEnum):
    """Why something was refused: the label of the metric EGRESS_DENIED."""

    #: The URL is written in a way that parsers read differently.
    URL = "url"
    PORT = "port"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    LINK_LOCAL = "link_local"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    #: IPv6 that wraps IPv4.
    TRANSITION = "transition"
    #: A cloud's own service address.
    CLOUD = "cloud"
    #: An address of this machine.
    OWN = "own"
    #: A redirect from https to http.
    DOWNGRADE = "downgrade"
    #: An object of our own store that no operator has allowed.
    BUCKET = "bucket"


class Denied(EgressDenied):
    """The URL leads to an address that may not be fetched."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__()


_R = Reason
#: The first match gives the reason.
DENIED_NETWORKS: tuple[tuple[str, Reason], ...] = (
    ("168.63.129.16/32", _R.CLOUD),  # Azure
    ("100.100.100.200/32", _R.CLOUD),  # Alibaba
    ("0.0.0.0/8", _R.RESERVED),
    ("10.0.0.0/8", _R.PRIVATE),
    ("100.64.0.0/10", _R.PRIVATE),
    ("127.0.0.0/8", _R.LOOPBACK),
    ("169.254.0.0/16", _R.LINK_LOCAL),
    ("172.16.0.0/12", _R.PRIVATE),
    ("192.0.0.0/24", _R.RESERVED),
    ("192.0.2.0/24", _R.RESERVED),
    ("192.31.196.0/24", _R.RESERVED),
    ("192.52.193.0/24", _R.RESERVED),
    ("192.88.99.0/24", _R.RESERVED),
    ("192.168.0.0/16", _R.PRIVATE),
    ("192.175.48.0/24", _R.RESERVED),
    ("198.18.0.0/15", _R.RESERVED),
    ("198.51.100.0/24", _R.RESERVED),
    ("203.0.113.0/24", _R.RESERVED),
    ("224.0.0.0/4", _R.MULTICAST),
    ("240.0.0.0/4", _R.RESERVED),  # 255.255.255.255 included
    ("::1/128", _R.LOOPBACK),
    ("::/128", _R.RESERVED),
    ("::ffff:0:0/96", _R.TRANSITION),
    ("::/96", _R.TRANSITION),
    ("64:ff9b::/96", _R.TRANSITION),
    ("64:ff9b:1::/48", _R.TRANSITION),
    ("100::/64", _R.RESERVED),
    ("2001::/32", _R.TRANSITION),
    ("2001::/23", _R.RESERVED),
    ("2001:db8::/32", _R.RESERVED),
    ("2002::/16", _R.TRANSITION),
    ("3fff::/20", _R.RESERVED),
    ("5f00::/16", _R.RESERVED),
    ("fc00::/7", _R.PRIVATE),
    ("fe80::/10", _R.LINK_LOCAL),
    ("fec0::/10", _R.PRIVATE),
    ("ff00::/8", _R.MULTICAST),
    # Only 2000::/3 is global unicast (RFC 4291 2.4); whatever else may be assigned one day is refused until then.
    ("::/3", _R.RESERVED),
    ("4000::/2", _R.RESERVED),
    ("8000::/1", _R.RESERVED),
)

_V4_TABLE = tuple((IPv4Network(text), reason) for text, reason in DENIED_NETWORKS if ":" not in text)
_V6_TABLE = tuple((IPv6Network(text), reason) for text, reason in DENIED_NETWORKS if ":" in text)
_MAPPED, _COMPATIBLE = IPv6Network("::ffff:0:0/96"), IPv6Network("::/96")
_NAT64, _NAT64_LOCAL = IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48")
#: Interface identifiers 0000:5efe and 0200:5efe, in front of the IPv4 address. Source: RFC 5214 6.1.
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
#: The last label of a host that resolvers may read as a number. Source: WHATWG URL, "ends in a number".
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: Of ASCII.
_UNREADABLE = re.compile(r"[\x00-\x20\x7f\\]")
_HOST_CHARACTERS_MAX = 253
_AUTHORITY = re.compile(r"[^/?#]*//([^/?#]*)")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that are ours, or of the connection: a caller who set them could make us misread an answer.
_RESERVED_HEADERS = frozenset(
    (
        *("host", "range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"),
        *("accept-encoding", "content-length", "content-encoding", "transfer-encoding", "te", "trailer"),
        *("connection", "keep-alive", "upgrade", "expect"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Allowed:
    """One entry of the allow list. `port` None: every port."""

    network: _Network | None = None
    host: str | None = None
    port: int | None = None


def _allowed(entry: str) -> _Allowed:
    """Return `CIDR`, `address`, `host:port` or `[v6]:port` as an entry.

    Raises: ValueError, for the operator.
    """
    try:
        return _Allowed(network=ip_network(entry))
    except ValueError:
        host, colon, port_text = entry.rpartition(":")
    if not colon or not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise ValueError(f"egress.allow: {entry!r} is neither a CIDR nor host:port")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return _Allowed(network=ip_network(bare), port=int(port_text))
    except ValueError:
        pass
    name = URL.build(scheme="http", host=bare).raw_host or ""
    _check_name(name)
    return _Allowed(host=name, port=int(port_text))


def _layers(address: _Address) -> Iterator[_Address]:
    """Yield the address and every IPv4 address that it carries."""
    yield address
    if isinstance(address, IPv4Address):
        return
    value = int(address)
    low = IPv4Address(value & 0xFFFF_FFFF)
    if address in _MAPPED or address in _NAT64 or (address in _COMPATIBLE and value > 1):
        yield low
    if address in _NAT64_LOCAL:
        yield from _nat64_local(value)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if (value >> 32) & 0xFFFF_FFFF in _ISATAP:
        yield low


def _nat64_local(value: int) -> Iterator[IPv4Address]:
    """Yield what a local-use NAT64 address may carry: the prefix length is the network's own choice.

    Source: RFC 6052 2.2, figure 1 (bits 64 to 71 are skipped); RFC 8215.
    """
    yield IPv4Address(value & 0xFFFF_FFFF)
    yield IPv4Address(((value >> 64) & 0xFFFF) << 16 | (value >> 40) & 0xFFFF)
    yield IPv4Address(((value >> 64) & 0xFF) << 24 | (value >> 32) & 0xFF_FFFF)
    yield IPv4Address((value >> 24) & 0xFFFF_FFFF)


@lru_cache(maxsize=4096)
def _denial(address: _Address) -> Reason | None:
    """Return why the table refuses the address; None where it does not."""
    if isinstance(address, IPv4Address):
        return next((reason for network, reason in _V4_TABLE if address in network), None)
    if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        return Reason.TRANSITION
    return next((reason for network, reason in _V6_TABLE if address in network), None)


class AddressGuard:
    """The rules of one cluster."""

    def __init__(self, egress: EgressSettings, *, own_addresses: Iterable[str] = ()) -> None:
        """`own_addresses`: of this machine's interfaces, refused like private ones.

        Raises: ValueError where an entry of `egress.allow` cannot be read.
        """
        self._ports = frozenset(egress.ports)
        self._allow = tuple(_allowed(entry) for entry in egress.allow)
        self._own = frozenset(ip_address(address) for address in own_addresses)
        # What was found good stays so: the rules do not change. Refusals are not remembered.
        self._find_good = lru_cache(maxsize=_GOOD_MAX)(self._check_address)

    def check_address(self, address: str, port: int, host: str, *, ports: Collection[int] | None = None) -> None:
        """Check the very address about to be connected; `host` is the name it was asked under.

        `ports` are those of another protocol than HTTP, in place of the settings'. Raises: EgressDenied.
        """
        self._find_good(address, port, host, self._ports if ports is None else frozenset(ports))

    def _check_address(self, address: str, port: int, host: str, ports: frozenset[int]) -> None:
        if "%" in address:
            raise Denied(Reason.LINK_LOCAL)
        try:
            parsed = ip_address(address)
        except ValueError:
            raise Denied(Reason.URL) from None
        for layer in _layers(parsed):
            reason = _denial(layer) or (Reason.OWN if layer in self._own else None)
            if reason is not None and not self._is_allowed(layer, port, host):
                raise Denied(reason)
        if port not in ports and not self._is_allowed(parsed, port, host):
            raise Denied(Reason.PORT)

    def networks(self) -> Iterator[tuple[_Network, bool]]:
        """Yield networks, and whether any port of theirs may be connected to; of two that overlap the later one counts.

        For a library with a filter of its own, in front of `check_address`: that one knows ports and addresses in
        addresses as well.
        """
        table: tuple[tuple[_Network, Reason], ...] = (*_V4_TABLE, *_V6_TABLE)
        for network, _ in table:
            yield network, False
        for address in self._own:
            yield ip_network(address), False
        for entry in self._allow:
            if entry.network is not None:
                yield entry.network, True

    def check_url(self, text: str) -> URL:
        """Return the URL as it will be fetched, user info included. Asks no resolver, so it serves the API as well.

        Raises: InvalidRequest where it is no http or https URL; EgressDenied where it leads where nobody may fetch.
        """
        return self._checked(_parse(text))

    def check_other(self, text: str, port: int) -> URL:
        """Return the URL of another protocol, whose own port is `port`: checked as `check_url` does it, port and all.

        Raises: InvalidRequest; EgressDenied.
        """
        url = _parse(text)
        if not url.raw_host:
            raise InvalidRequest("The URL has no host.")
        return self._checked_host(url if url.explicit_port else url.with_port(port), frozenset({port}))

    def check_redirect(self, base: URL, location: str) -> URL:
        """Return where a redirect from `base` leads.

        Raises: EgressDenied; a downgrade from https to http is one.
        """
        try:
            # Raw spaces are common in redirects, and browsers follow them.
            checked = self._checked(base.join(_parse(location.strip().replace(" ", "%20"))))
        except InvalidRequest:
            raise Denied(Reason.URL) from None
        if base.scheme == "https" and checked.scheme == "http":
            raise Denied(Reason.DOWNGRADE)
        return checked

    def _checked(self, url: URL) -> URL:
        if url.scheme not in {"http", "https"}:
            raise InvalidRequest("The URL must begin with http:// or https://.")
        return self._checked_host(url, self._ports)

    def _checked_host(self, url: URL, ports: Collection[int]) -> URL:
        host, port = url.raw_host, url.port
        if not host or not port:
            raise InvalidRequest("The URL has no host.")
        try:
            literal = ip_address(host)
        except ValueError:
            if ":" in host or "%" in host:
                raise Denied(Reason.URL) from None
            _check_name(host)
            self._check_named_port(host, port, ports)
        else:
            self.check_address(str(literal), port, host, ports=ports)
        return url.with_fragment(None)

    def _check_named_port(self, host: str, port: int, ports: Collection[int]) -> None:
        # Which address the name has is not known yet: an entry for an address may allow this port when it connects.
        may_be_allowed = any(
            entry.port in {None, port} and (entry.host is None or entry.host == host) for entry in self._allow
        )
        if port not in ports and not may_be_allowed:
            raise Denied(Reason.PORT)

    def _is_allowed(self, address: _Address, port: int, host: str) -> bool:
        return any(
            entry.port in {None, port}
            and (entry.host == host.lower() if entry.network is None else address in entry.network)
            for entry in self._allow
        )


def check_headers(headers: Mapping[str, str]) -> None:
    """Check the request headers that a caller wants sent to the source.

    Raises: InvalidRequest.
    """
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest("A header's name has a character that is not allowed.")
        if name.lower() in _RESERVED_HEADERS or name.lower().startswith("proxy-"):
            raise InvalidRequest(f"The header {name} cannot be set.")
        if any((ord(letter) < 0x20 and letter != "\t") or letter == "\x7f" for letter in value):
            raise InvalidRequest(f"The header {name} has a control character.")


def _parse(text: str) -> URL:
    """Return the URL, its path and query byte for byte as written where that is possible: signatures cover them.

    Raises: InvalidRequest.
    """
    check_text(text)
    try:
        url = URL(text)
        exact = URL(text, encoded=True)
        if exact.raw_host is not None:
            exact = exact.with_host(exact.raw_host.lower())
        same = (exact.scheme, exact.raw_host, exact.port) == (url.scheme, url.raw_host, url.port)
    except ValueError:
        raise InvalidRequest("The URL cannot be read.") from None
    return exact if same and text.isascii() else url


def check_text(text: str) -> None:
    """Raises: InvalidRequest for what parsers drop, or turn into something else, before they look at the host."""
    if len(text) > URL_CHARACTERS_MAX:
        raise InvalidRequest("The URL is too long.")
    if _UNREADABLE.search(text) or not (text.isascii() or _is_readable(text)):
        raise InvalidRequest("The URL has a space, a backslash or a control character.")
    if (authority := _AUTHORITY.match(text)) is not None:
        host = authority[1].rpartition("@")[2]
        _, colon, port = host.rpartition(":")
        if host.startswith("[v") or (colon and "]" not in port and not re.fullmatch(r"[0-9]*", port)):
            raise InvalidRequest("The URL's host or port cannot be read.")


def _is_readable(text: str) -> bool:
    # Cc and Cf: control and invisible; Cs: half a surrogate pair; Z*: spaces.
    return not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"} for letter in text)


def _check_name(host: str) -> None:
    """Raises: EgressDenied for a host that some resolver reads as a number; InvalidRequest where it is no host name."""
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        raise Denied(Reason.URL)
    if len(host) > _HOST_CHARACTERS_MAX or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise InvalidRequest("The URL's host is no host name.")
