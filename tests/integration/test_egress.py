"""Where a request may go and what it takes along: redirects, credentials, addresses, names and TLS."""

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fetching import SEED, SIZE, Canary, Connect, ScriptedNames, ask, pinned, read_range, read_whole
from origin import Origin, content_bytes

from rayhaul.errors import (
    EgressDenied,
    InvalidRequest,
    SourceRefused,
    SourceTimeout,
    SourceTruncated,
    SourceUnreachable,
)
from rayhaul.metrics import EGRESS_DENIED, Meter
from rayhaul.settings import EgressSettings, SourceSettings
from tasks.egress import GuardedClient, GuardedConnector
from tasks.guard import AddressGuard


@pytest.fixture
async def canary() -> AsyncIterator[Canary]:
    async with Canary().listening() as canary:
        yield canary
        assert canary.connections_count == 0, "the guard let a connection through"


# --- redirects ---


async def test_redirects_are_followed_from_the_original_url(origin: Origin, client: GuardedClient) -> None:
    """Relative and absolute redirects lead to the file, each time anew."""
    target = origin.add("real.bin", size=SIZE, seed=SEED)
    origin.add("hop", redirect_to=target, redirect_status=307)
    url = origin.add("latest", redirect_to="/hop")
    pin = await ask(client, url)
    assert pin.final_url == target
    assert await read_range(client, url, pin, 5, 9) == content_bytes(SEED, 5, 9)
    assert [seen.path for seen in origin.requests] == ["latest", "hop", "real.bin"] * 2


async def test_redirects_end(origin: Origin, client: GuardedClient) -> None:
    """A circle is noticed, and a long chain is cut."""
    origin.add("b", redirect_to="/a")
    with pytest.raises(SourceRefused, match="circle"):
        await ask(client, origin.add("a", redirect_to="/b"))
    assert len(origin.requests) == 2
    for number in range(10):
        origin.add(f"c{number}", redirect_to=f"/c{number + 1}", status=None)
    with pytest.raises(SourceRefused, match="too often"):
        await ask(client, f"{origin.base_url}/c0")
    assert len(origin.requests) == 2 + 6


async def test_redirect_without_a_location(origin: Origin, client: GuardedClient) -> None:
    """A redirect to nowhere is a refusal."""
    with pytest.raises(SourceRefused):
        await ask(client, origin.add("a", status=302))


SECRETS = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Token": "secret"}


async def test_what_the_caller_said_stays_with_its_origin(origin: Origin, connect: Connect) -> None:
    """All of the caller's headers follow a redirect within the origin, and none leaves it, nor comes back."""
    async with Origin() as other:
        client = connect(other.host_port)
        origin.add("home.bin", size=SIZE)
        back = other.add("away", redirect_to=f"{origin.base_url}/home.bin")
        origin.add("here", redirect_to=back)
        await ask(client, origin.add("start", redirect_to="/here"), headers=SECRETS)
        for path, kept in (("start", True), ("here", True), ("home.bin", False)):
            sent = origin.seen(path)[0].headers
            assert [sent.get(name.lower()) == value for name, value in SECRETS.items()] == [kept] * 3, path
        sent = other.seen("away")[0].headers
        assert not {name.lower() for name in SECRETS} & set(sent)
        assert "x-token" not in sent
        assert sent["range"] == "bytes=0-0"
        assert "referer" not in sent


async def test_user_info_becomes_credentials_for_its_origin(origin: Origin, connect: Connect) -> None:
    """User and password of a URL are sent as Basic to that origin alone, and stand in no final URL."""
    async with Origin() as other:
        client = connect(other.host_port)
        away = other.add("f.bin", size=SIZE)
        url = origin.add("start", redirect_to=away, needs={"authorization": "Basic bWU6cEB3"})
        metadata = await ask(client, url.replace("http://", "http://me:p%40w@"))
        assert metadata.final_url == away
        assert "authorization" not in other.requests[0].headers
        here = origin.add("here", size=SIZE, needs={"authorization": "Basic bWU6"})
        assert (await ask(client, here.replace("http://", "http://me@"))).final_url == here


async def test_header_that_is_needed(origin: Origin, client: GuardedClient) -> None:
    """Custom headers reach the source; without them it refuses; ours can not be overridden by theirs."""
    url = origin.add("f.bin", size=SIZE, seed=SEED, needs={"x-token": "secret"})
    with pytest.raises(SourceRefused):
        await ask(client, url)
    pin = await ask(client, url, headers=SECRETS | {"user-agent": "mine"})
    assert origin.requests[-1].headers["user-agent"] == "mine"
    assert await read_range(client, url, pin, 5, 9, headers=SECRETS) == content_bytes(SEED, 5, 9)
    assert await read_whole(client, url, pin, headers=SECRETS) == content_bytes(SEED, 0, SIZE)
    with pytest.raises(InvalidRequest):
        await ask(client, url, headers={"Range": "bytes=5-"})


async def test_cookies_are_not_kept(origin: Origin, client: GuardedClient) -> None:
    """What one job's source sets does not go out with another job's request."""
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    await ask(client, origin.add("f.bin", raw=answer))
    await ask(client, origin.add("g.bin", size=SIZE))
    assert "cookie" not in origin.requests[-1].headers


# --- addresses ---


async def denied(client: GuardedClient, url: str) -> str:
    """Return the reason that was counted when the probe of `url` was refused."""
    before = dict(client._meter.snapshot().counters)
    with pytest.raises(EgressDenied) as refused:
        await ask(client, url)
    assert refused.value.message == "The URL leads to an address that may not be fetched."
    after = client._meter.snapshot().counters
    (counted,) = (key for key in after if after[key] != before.get(key, 0))
    assert counted[0] == EGRESS_DENIED.name
    return counted[1][0]


async def test_forbidden_addresses_are_not_connected_to(client: GuardedClient, canary: Canary) -> None:
    """While only the origin's port is allowed, no way of writing the canary's address reaches it."""
    assert await denied(client, f"http://127.0.0.1:{canary.port}/") == "loopback"
    assert await denied(client, f"http://[::ffff:127.0.0.1]:{canary.port}/") == "transition"
    assert await denied(client, f"http://localhost:{canary.port}/") == "port"
    assert await denied(client, f"http://2130706433:{canary.port}/") == "url"


async def test_redirect_to_a_forbidden_address(origin: Origin, client: GuardedClient, canary: Canary) -> None:
    """A redirect gets no further than the URL itself would have."""
    for target, reason in (
        (f"http://127.0.0.1:{canary.port}/", "loopback"),
        ("http://169.254.169.254/latest/meta-data/", "link_local"),
        ("http://[fd00:ec2::254]/", "private"),
        ("file:///etc/passwd", "url"),
        (f"gopher://127.0.0.1:{canary.port}/", "url"),
        ("http://files.example:22/", "port"),
    ):
        assert await denied(client, origin.add("a", redirect_to=target)) == reason, target


async def test_name_with_one_bad_address(connect: Connect, origin: Origin, canary: Canary) -> None:
    """A name is refused when any of its addresses is bad, the good ones notwithstanding."""
    names = ScriptedNames(
        {
            "mixed.example": [["127.0.0.1", "169.254.169.254"]],
            "canary.example": [["127.0.0.1"]],
            "wrapped.example": [["64:ff9b::7f00:1"]],
            "zoned.example": [["fe80::1%lo"]],
            "good.example": [["127.0.0.1"]],
            "empty.example": [[]],
        }
    )
    client = connect("canary.example:1", resolver=names)
    origin.add("f.bin", size=SIZE)
    assert (await ask(client, f"http://good.example:{origin.port}/f.bin")).size_bytes == SIZE
    assert await denied(client, f"http://mixed.example:{origin.port}/f.bin") == "link_local"
    assert await denied(client, f"http://wrapped.example:{origin.port}/f.bin") == "transition"
    assert await denied(client, f"http://zoned.example:{origin.port}/f.bin") == "link_local"
    assert await denied(client, "http://canary.example/") == "loopback"
    with pytest.raises(SourceUnreachable):
        await ask(client, f"http://empty.example:{origin.port}/f.bin")
    assert origin.connections_count == 1


async def test_name_that_changes_its_answer(connect: Connect, origin: Origin) -> None:
    """A name that was good at the first lookup and leads inside at the second is refused then (DNS rebinding)."""
    names = ScriptedNames(
        {
            "to-canary.example": [["127.0.0.1"], ["127.0.0.2"]],
            "to-cloud.example": [["127.0.0.1"], ["169.254.169.254"]],
        }
    )
    canary = Canary()
    async with canary.listening("127.0.0.2"):
        client = connect(f"127.0.0.1:{canary.port}", resolver=names)
        for name, reason in (("to-canary.example", "loopback"), ("to-cloud.example", "link_local")):
            # Another port is another lookup.
            url = origin.add(name, redirect_to=f"http://{name}:{canary.port}/")
            assert await denied(client, url.replace("127.0.0.1", name)) == reason
            assert len(origin.seen(name)) == 1
        assert canary.connections_count == 0


async def test_socket_is_checked_whatever_the_resolver_said(canary: Canary) -> None:
    """The connector alone, behind a resolver that nobody guards, still refuses the address itself."""
    guard = AddressGuard(EgressSettings(ports=(canary.port,)))
    names = ScriptedNames({"rebind.example": [["127.0.0.1", "::1"]]})
    async with aiohttp.ClientSession(connector=GuardedConnector(guard, names)) as session:
        for host in ("rebind.example", "127.0.0.1", "[::ffff:127.0.0.1]"):
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://{host}:{canary.port}/")


async def test_peer_is_checked_before_a_request_is_sent(origin: Origin) -> None:
    """Where the kernel connects elsewhere than asked (0.0.0.0 is this host), nothing is written to the connection."""
    url = origin.add("f.bin", size=SIZE).replace("127.0.0.1", "0.0.0.0")
    async with GuardedClient(
        EgressSettings(allow=(f"0.0.0.0:{origin.port}",)), SourceSettings(), connections_max=1, meter=Meter()
    ) as client:
        assert await denied(client, url) == "loopback"
    assert origin.requests == []


async def test_name_may_be_allowed_by_itself(origin: Origin) -> None:
    """`name:port` in the allow list opens that name on that port, wherever it leads, and no other name."""
    names = ScriptedNames({"files.internal": [["127.0.0.1"]], "other.internal": [["127.0.0.1"]]})
    origin.add("f.bin", size=SIZE)
    async with GuardedClient(
        EgressSettings(allow=(f"files.internal:{origin.port}",)),
        SourceSettings(),
        connections_max=1,
        meter=Meter(),
        resolver=names,
    ) as client:
        assert (await ask(client, f"http://Files.Internal:{origin.port}/f.bin")).size_bytes == SIZE
        assert await denied(client, f"http://other.internal:{origin.port}/f.bin") == "port"


async def test_slow_resolver(connect: Connect, origin: Origin) -> None:
    """A name that takes too long is a timeout, and nothing is connected."""
    async with GuardedClient(
        EgressSettings(allow=(origin.host_port,), dns_timeout_s=0.05),
        SourceSettings(),
        connections_max=1,
        meter=Meter(),
        resolver=ScriptedNames({}, delay_s=5),
    ) as client:
        with pytest.raises(SourceTimeout):
            await ask(client, f"http://files.example:{origin.port}/")
    assert origin.connections_count == 0


async def test_unreachable_sources(connect: Connect, origin: Origin) -> None:
    """A name without an address and a port without a listener are unreachable."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        client = connect(f"127.0.0.1:{port}")
        with pytest.raises(SourceUnreachable):
            await ask(client, f"http://127.0.0.1:{port}/")
    with pytest.raises(SourceUnreachable, match=r"nowhere\.invalid"):
        await ask(client, "http://nowhere.invalid/")


async def test_proxies_of_the_environment_are_not_used(
    origin: Origin, client: GuardedClient, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect for us, past every check."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
    assert (await ask(client, origin.add("f.bin", size=SIZE))).size_bytes == SIZE


async def test_post_is_guarded_and_follows_no_redirect(origin: Origin, client: GuardedClient, canary: Canary) -> None:
    """Webhooks leave through the same guard, and their redirects are answers."""
    async with client.open_now(f"{origin.base_url}/hook", headers={"X-A": "b"}, post=b"{}") as answer:
        assert answer.status == 404
    assert (origin.requests[0].method, origin.requests[0].headers["content-length"]) == ("POST", "2")
    moved = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with client.open_now(origin.add("moved", raw=moved), post=b"{}") as answer:
        assert answer.status == 302
    with pytest.raises(EgressDenied):
        async with client.open_now(f"http://127.0.0.1:{canary.port}/", post=b"{}"):
            pass


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "tests.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
async def tls_origin(certificate: Path) -> AsyncIterator[Origin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with Origin(tls=context) as origin:
        yield origin


async def test_tls_source(connect: Connect, tls_origin: Origin, certificate: Path) -> None:
    """Ranges and whole files come over TLS as well, from a certificate that is trusted."""
    client = connect(tls_origin.host_port, tls=ssl.create_default_context(cafile=certificate))
    url = tls_origin.add("f.bin", size=SIZE, seed=SEED)
    pin = await ask(client, url)
    assert await read_range(client, url, pin, 5, 200_000) == content_bytes(SEED, 5, 200_000)
    assert await read_whole(client, url, pin) == content_bytes(SEED, 0, SIZE)


async def test_tls_that_ends_without_saying_so(connect: Connect, tls_origin: Origin, certificate: Path) -> None:
    """A TLS connection that ends without a close_notify was cut: a body that only its end completes is not complete."""
    client = connect(tls_origin.host_port, tls=ssl.create_default_context(cafile=certificate))
    for framing in ("length", "chunked", "close"):
        url = tls_origin.add(
            "f.bin", size=SIZE, seed=SEED, ranges=False, framing=framing, truncate_after=1000, truncate_by="ragged"
        )
        with pytest.raises(SourceTruncated):
            await read_whole(client, url, pinned(tls_origin, size_bytes=None))
    for size in (10, SIZE):
        url = tls_origin.add("f.bin", size=size, seed=SEED, ranges=False, framing="close")
        assert await read_whole(client, url, pinned(tls_origin, size_bytes=None)) == content_bytes(SEED, 0, size)


async def test_redirect_may_not_leave_tls(
    connect: Connect, origin: Origin, tls_origin: Origin, certificate: Path
) -> None:
    """From http to https is fine, from https to http is refused."""
    client = connect(tls_origin.host_port, tls=ssl.create_default_context(cafile=certificate))
    plain = origin.add("f.bin", size=SIZE)
    secure = tls_origin.add("f.bin", size=SIZE)
    assert (await ask(client, origin.add("up", redirect_to=secure))).final_url == secure
    assert await denied(client, tls_origin.add("down", redirect_to=plain)) == "downgrade"
    assert origin.seen("f.bin") == []


async def test_untrusted_certificate(connect: Connect, tls_origin: Origin) -> None:
    """A certificate nobody vouches for makes the source unreachable, and no request is sent."""
    with pytest.raises(SourceUnreachable, match="certificate"):
        await ask(connect(tls_origin.host_port), tls_origin.add("f.bin", size=SIZE))
    assert tls_origin.requests == []


async def test_tls_to_a_plain_port(connect: Connect) -> None:
    """A port that does not speak TLS makes the source unreachable."""

    def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(SourceUnreachable, match="TLS"):
            await ask(connect(f"127.0.0.1:{port}"), f"https://127.0.0.1:{port}/")
