"""Which URLs and addresses may be fetched."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from addresses import VECTORS
from documents import block
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.errors import EgressDenied, InvalidRequest
from rayhaul.settings import EgressSettings, Settings
from tasks.guard import DENIED_NETWORKS, URL_CHARACTERS_MAX, AddressGuard, Denied, Reason, check_headers

GUARD = AddressGuard(EgressSettings())

PUBLIC = ("1.1.1.1", "93.184.216.34", "172.15.255.255", "172.32.0.1", "2600:1f18::1", "2a00:1450:4001::200e")


def denial(guard: AddressGuard, address: str, port: int = 443, host: str = "files.example") -> Reason | None:
    """Return why the guard refuses the address; None where it does not."""
    try:
        guard.check_address(address, port, host)
    except Denied as denied:
        return denied.reason
    return None


def allowing(*entries: str) -> AddressGuard:
    return AddressGuard(EgressSettings(allow=entries))


@pytest.mark.parametrize(("address", "reason"), VECTORS)
def test_special_address_is_refused(address: str, reason: Reason) -> None:
    """Each vector is refused, for its own reason."""
    assert denial(GUARD, address) is reason


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_fetched(address: str) -> None:
    """What stands beside the denied networks is free."""
    assert denial(GUARD, address) is None


@pytest.mark.parametrize("network", [network for network, _ in DENIED_NETWORKS])
def test_whole_network_is_refused(network: str) -> None:
    """Every address of every denied network is refused, first and last included."""
    parsed = ip_network(network)

    @given(st.ip_addresses(network=network))
    def check(address: IPv4Address | IPv6Address) -> None:
        assert denial(GUARD, str(address)) is not None

    check()
    assert denial(GUARD, str(parsed[0])) is not None
    assert denial(GUARD, str(parsed[-1])) is not None


def test_what_the_document_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of docs/how-to/private-sources.md opens one port of one address, and a network; nothing beside them."""
    command, *words = block("what is opened").split()
    assert command == "export"
    for word in words:
        name, _, value = word.partition("=")
        monkeypatch.setenv(name, value)
    guard = AddressGuard(Settings().egress)
    for address, port in (("10.1.2.3", 8080), ("10.20.255.255", 22), ("93.184.216.34", 8080)):
        assert denial(guard, address, port) is None, (address, port)
    for address, port in (("10.1.2.3", 443), ("10.1.2.4", 8080), ("10.21.0.0", 443), ("93.184.216.34", 22)):
        assert denial(guard, address, port) is not None, (address, port)


@given(st.one_of(*(st.ip_addresses(network=network) for network, _ in DENIED_NETWORKS if ":" not in network)))
def test_wrapped_address_is_refused_though_its_wrapper_is_allowed(inner: IPv4Address) -> None:
    """Whoever allows a NAT64, 6to4, Teredo, ISATAP or mapped network has not allowed the private address inside."""
    guard = allowing("::/0")
    for outer in wrappers(inner):
        assert denial(guard, str(outer)) is not None, outer


def test_wrapped_public_address_passes_an_allowed_wrapper() -> None:
    """An IPv6-only network that allows its NAT64 prefix reaches the public internet."""
    inner = IPv4Address("93.184.216.34")
    assert denial(allowing("64:ff9b::/96"), f"64:ff9b::{inner}") is None
    assert denial(GUARD, f"64:ff9b::{inner}") is Reason.TRANSITION


def wrappers(inner: IPv4Address) -> list[IPv6Address]:
    """Return the IPv6 addresses that carry `inner`. Source: RFC 4291, 6052, 8215, 3056, 4380, 5214."""
    v4 = int(inner)
    high, low = v4 >> 16, v4 & 0xFFFF
    local = 0x0064_FF9B_0001 << 80
    return [
        IPv6Address((0xFFFF << 32) | v4),
        *([IPv6Address(v4)] if v4 > 1 else []),
        IPv6Address((0x0064_FF9B << 96) | v4),
        IPv6Address(local | v4),
        IPv6Address(local | high << 64 | low << 40),
        IPv6Address(local | (v4 >> 24) << 64 | (v4 & 0xFF_FFFF) << 32),
        IPv6Address(local | v4 << 24),
        IPv6Address((0x2002 << 112) | v4 << 80 | 1),
        IPv6Address((0x2001 << 112) | v4 << 64 | (0xFFFF_FFFF ^ int(IPv4Address("93.184.216.34")))),
        IPv6Address((0x2001 << 112) | int(IPv4Address("93.184.216.34")) << 64 | (0xFFFF_FFFF ^ v4)),
        IPv6Address((0x2600_1F18 << 96) | 0x5EFE << 32 | v4),
        IPv6Address((0x2600_1F18 << 96) | 0x0200_5EFE << 32 | v4),
    ]


@pytest.mark.parametrize(
    ("entry", "address", "port", "host", "reason"),
    [
        ("127.0.0.1/32", "127.0.0.1", 8080, "localhost", None),
        ("127.0.0.1", "127.0.0.1", 8080, "localhost", None),
        ("127.0.0.1/32", "127.0.0.2", 80, "localhost", Reason.LOOPBACK),
        ("127.0.0.1/32", "::ffff:127.0.0.1", 80, "x", Reason.TRANSITION),
        ("127.0.0.1:8080", "127.0.0.1", 8080, "localhost", None),
        ("127.0.0.1:8080", "127.0.0.1", 8081, "localhost", Reason.LOOPBACK),
        ("127.0.0.1:8080", "127.0.0.1", 80, "localhost", Reason.LOOPBACK),
        ("127.0.0.1:8080", "93.184.216.34", 8080, "x", Reason.PORT),
        ("10.0.0.0/8:9000", "10.1.2.3", 9000, "x", None),
        ("10.0.0.0/8:9000", "10.1.2.3", 443, "x", Reason.PRIVATE),
        ("[::1]:80", "::1", 80, "localhost", None),
        ("[::1]:80", "::1", 81, "localhost", Reason.LOOPBACK),
        ("fd00::/8", "fd12::1", 9000, "x", None),
        ("93.184.216.34/32", "93.184.216.34", 8080, "x", None),
        ("files.internal:9000", "10.1.2.3", 9000, "files.internal", None),
        ("Files.Internal:9000", "10.1.2.3", 9000, "files.internal", None),
        ("files.internal:9000", "10.1.2.3", 9001, "files.internal", Reason.PRIVATE),
        ("files.internal:9000", "10.1.2.3", 9000, "other.internal", Reason.PRIVATE),
    ],
)
def test_allow_entry(entry: str, address: str, port: int, host: str, reason: Reason | None) -> None:
    """An entry opens the address and port it names, under any name or under its own, and nothing else."""
    assert denial(allowing(entry), address, port, host) is reason


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "files.internal", "files.internal:0", "files.internal:x", "0177.1:80"])
def test_unreadable_allow_entry(entry: str) -> None:
    """An entry that cannot be read stops the start: it is never skipped and never guessed."""
    with pytest.raises((ValueError, EgressDenied)):
        allowing(entry)


def test_other_ports_are_refused() -> None:
    """A public address is reached on the ports of the setting alone."""
    assert denial(GUARD, "93.184.216.34", 22) is Reason.PORT
    assert denial(AddressGuard(EgressSettings(ports=(8443,))), "93.184.216.34", 8443) is None


def test_own_address_is_refused() -> None:
    """A public address of this machine is no source, unless it is allowed."""
    own = ("93.184.216.34",)
    assert denial(AddressGuard(EgressSettings(), own_addresses=own), own[0]) is Reason.OWN
    assert denial(AddressGuard(EgressSettings(allow=own), own_addresses=own), own[0]) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://2130706433/",
        "http://017700000001/",
        "http://0177.0.0.1/",
        "http://0x7f.0.0.1/",
        "http://0x7f000001/",
        "http://127.1/",
        "http://127.0.1/",
        "http://0/",
        "http://127.0.0.1./",
        "http://127.0.0.0x1/",
        "http://1.2.3.4.5/",
        "http://example.com.0x7f/",
        "http://①②⑦.0.0.1/",
        "http://１２７.0.0.1/",
        "http://files.example@127.0.0.1/",
        "http://files.example:80@127.0.0.1/",
        "http://a@b@127.0.0.1/",
        "http://127.0.0.1#@files.example/",
        "http://127.0.0.1?@files.example/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://ex%61mple.com/",
        "http://127.0.0%2e1/",
        "http://files.example:22/",
        "http://93.184.216.34:8080/",
        "https://[::1]/",
        "http://[::]/",
    ],
)
def test_url_to_a_forbidden_place(url: str) -> None:
    """However the address is written, the URL is refused before any resolver is asked, with one sentence for all."""
    with pytest.raises(EgressDenied) as denied:
        GUARD.check_url(url)
    assert denied.value.message == "The URL leads to an address that may not be fetched."


@pytest.mark.parametrize(
    "url",
    [
        "",
        "files.example/x",
        "//files.example/x",
        "ftp://files.example/",
        "file:///etc/passwd",
        "gopher://files.example/",
        "http://",
        "http:///x",
        "http://:80/",
        "http://?x",
        "http://files.example:99999/",
        "http://files.example:0/",
        "http://files.example:80:81/",
        "http://files.example:+80/",
        "http://files.example:8_0/",
        "http://files.example:８０/",
        "http://files.example\\@127.0.0.1/",
        "http://files.example/a\\b",
        "http://files.example/a b",
        " http://files.example/",
        "http://files.example/\n",
        "http://files.exa\tmple/",
        "http://files.example/\x00",
        "http://files.example/\x7f",
        "http://files.example/\u00a0",
        "http://files.example/\u2028",
        "http://files.example/\u202e",
        "http://files.exam\u200bple/",
        "http://files.example/\ud800",
        "http://[::1",
        "http://[v1.x]/",
        "http://[::1]x/",
        "http://files..example/",
        "http://.files.example/",
        "http://files.example./",
        "http://localhost./",
        "http://-files.example/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 130}example/",
        f"http://files.example/{'x' * URL_CHARACTERS_MAX}",
    ],
)
def test_url_that_is_none(url: str) -> None:
    """What parsers could read in two ways, or not at all, is the caller's mistake."""
    with pytest.raises(InvalidRequest):
        GUARD.check_url(url)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://files.example", "http://files.example"),
        ("HTTPS://Files.Example/A?sig=%41", "https://files.example/A?sig=%41"),
        ("https://files.example:443/a?b=c#d", "https://files.example/a?b=c"),
        ("https://files.example/a%2Fb?sig=%41%7e+%3D&x=[1]", "https://files.example/a%2Fb?sig=%41%7e+%3D&x=[1]"),
        ("https://bücher.example/ä", "https://xn--bcher-kva.example/%C3%A4"),
        ("https://me:p%40w@files.example/", "https://me:p%40w@files.example/"),
        ("http://93.184.216.34/", "http://93.184.216.34/"),
        ("http://[2600:1f18::1]/", "http://[2600:1f18::1]/"),
    ],
)
def test_good_url(url: str, kept: str) -> None:
    """A good URL comes back with its path and query byte for byte, since signatures cover them."""
    assert str(GUARD.check_url(url)) == kept


def test_port_of_a_name_waits_for_its_address() -> None:
    """Another port passes for a name while some entry may allow it; the address decides when it connects."""
    guard = allowing("127.0.0.1:8080", "files.internal:9000")
    assert guard.check_url("http://localhost:8080/").port == 8080
    assert guard.check_url("http://files.internal:9000/").port == 9000
    for url in ("http://localhost:8081/", "http://other.internal:9000/"):
        with pytest.raises(EgressDenied):
            guard.check_url(url)


@pytest.mark.parametrize(
    ("base", "location", "target"),
    [
        ("https://files.example/dir/a", "b?c=%41", "https://files.example/dir/b?c=%41"),
        ("https://files.example/dir/a", "/b", "https://files.example/b"),
        ("https://files.example/a", "//cdn.example/b", "https://cdn.example/b"),
        ("http://files.example/a", "https://cdn.example/b c", "https://cdn.example/b%20c"),
    ],
)
def test_redirect(base: str, location: str, target: str) -> None:
    """A redirect is resolved against the URL that sent it; raw spaces are read as browsers read them."""
    assert str(GUARD.check_redirect(GUARD.check_url(base), location)) == target


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://files.example/b", Reason.DOWNGRADE),
        ("https://169.254.169.254/", Reason.LINK_LOCAL),
        ("//127.0.0.1/", Reason.LOOPBACK),
        ("file:///etc/passwd", Reason.URL),
        ("https://files.example:22/", Reason.PORT),
        ("https://files.example\\@127.0.0.1/", Reason.URL),
        ("https://[::1", Reason.URL),
        ("/\udcff", Reason.URL),
    ],
)
def test_refused_redirect(location: str, reason: Reason) -> None:
    """A redirect is checked like any URL, and never leaves TLS."""
    with pytest.raises(Denied) as denied:
        GUARD.check_redirect(GUARD.check_url("https://files.example/a"), location)
    assert denied.value.reason is reason


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "internal"},
        {"range": "bytes=0-1"},
        {"If-Range": '"x"'},
        {"Accept-Encoding": "gzip"},
        {"Transfer-Encoding": "chunked"},
        {"Proxy-Authorization": "x"},
        {"X Y": "1"},
        {"": "1"},
        {"X": "a\r\nHost: internal"},
        {"X": "a\x00"},
    ],
)
def test_refused_header(headers: dict[str, str]) -> None:
    """Headers that would change the request's meaning, or smuggle a second one, are refused."""
    with pytest.raises(InvalidRequest):
        check_headers(headers)


def test_good_headers() -> None:
    """Credentials and custom headers pass."""
    check_headers({"Authorization": "Bearer x", "Cookie": "a=b; c=d", "X-Token": "tab\tand ünïcode"})


def test_what_was_good_once_is_good_for_the_same_question_alone() -> None:
    """Good addresses are remembered: with the port, the name and the protocol's ports they were asked for with."""
    guard = AddressGuard(EgressSettings(allow=("files.example:8080",)))
    asked = ("10.0.0.1", 8080, "files.example")
    for _ in range(2):
        guard.check_address(*asked)
        guard.check_address("93.184.216.34", 22, "files.example", ports={22})
    for address, port, host in (("10.0.0.1", 8080, "other.example"), ("10.0.0.1", 80, "files.example")):
        with pytest.raises(Denied) as refused:
            guard.check_address(address, port, host)
        assert refused.value.reason is Reason.PRIVATE
    for _ in range(2):
        with pytest.raises(Denied) as refused:
            guard.check_address("93.184.216.34", 22, "files.example")
        assert refused.value.reason is Reason.PORT
    with pytest.raises(Denied):
        AddressGuard(EgressSettings()).check_address(*asked)
