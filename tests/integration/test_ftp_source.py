"""FTP as a source: a real server over plain TCP and over TLS, and all that it can do wrong."""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aioftp
import pytest
import pytest_asyncio
from authority import certificates
from ftp_server import ESCAPED_PASSWORD, PASSWORD, USER, Ftp, ftp_server
from inprocess import quick_settings, running_service
from lease_bench import PART, Bench, Control, Side, running
from origin import content_bytes, content_sha256
from pyftpdlib.handlers import TLS_DTPHandler, TLS_FTPHandler

from rayhaul import AsyncClient
from rayhaul.client.errors import BadRequest
from rayhaul.errors import (
    EgressDenied,
    InvalidRequest,
    SourceBusy,
    SourceChanged,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceStalled,
    SourceTimeout,
    SourceTruncated,
    SourceUnreachable,
)
from rayhaul.job import Metadata
from rayhaul.metrics import Meter
from rayhaul.settings import EgressSettings, SourceSettings
from serve_app.seaweed import Seaweed
from tasks.dialing import Dialer
from tasks.ftp_source import FtpTransport
from tasks.guard import AddressGuard
from tasks.links import Link
from tasks.transports import Transports

SIZE = 300_000
NAME = "a file ä.bin"
ESCAPED = "a%20file%20%C3%A4.bin"
#: Long ago, so that it tells versions apart.
MODIFIED_S = 1_700_000_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Ftp]:
    root = tmp_path / "ftp"
    root.mkdir()
    with ftp_server(root) as server:
        write(server)
        yield server


def write(server: Ftp, *, seed: int = 5, size: int = SIZE, modified_s: int = MODIFIED_S) -> None:
    path = server.root / NAME
    path.write_bytes(content_bytes(seed, 0, size))
    os.utime(path, (modified_s, modified_s))


def transport(
    *allow: str, limits: SourceSettings | None = None, tls: ssl.SSLContext | None = None, **more: Any
) -> FtpTransport:
    egress = EgressSettings(allow=allow)
    dialer = Dialer(
        AddressGuard(egress), egress, limits or SourceSettings(), slots=asyncio.Semaphore(8), meter=Meter(), **more
    )
    return FtpTransport(dialer, tls=tls)


def link(server: Ftp) -> Link:
    return Link(server.url(ESCAPED))


async def pinned(server: Ftp) -> Metadata:
    return await transport(server.host_port).probe(link(server), None)


async def read_range(source: FtpTransport, server: Ftp, pin: Metadata, first: int, end: int) -> bytes:
    asked = source.open_range(link(server), pin=pin, first_byte=first, end_byte=end, checksum_tells=False)
    async with asked as body:
        return b"".join([piece async for piece in body])


async def read_whole(source: FtpTransport, server: Ftp, pin: Metadata) -> bytes:
    async with source.open_whole(link(server), pin=pin) as body:
        return b"".join([piece async for piece in body])


async def collect(opened: AbstractAsyncContextManager[AsyncIterator[bytes]], got: bytearray) -> None:
    async with opened as body:
        async for piece in body:
            got += piece


# --- what goes right ---


async def test_probe(server: Ftp) -> None:
    """Size, time and restarts are asked for; nothing of it shows who asked."""
    pin = await pinned(server)
    assert (pin.size_bytes, pin.rangeable, pin.filename, pin.etag) == (SIZE, True, NAME, None)
    assert pin.last_modified == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert pin.has_version
    assert pin.final_url == f"ftp://{server.host_port}/{ESCAPED}"
    assert f"PASS {PASSWORD}" in server.commands
    assert server.count("RETR") == 0


@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, SIZE), (1, 70_000), (123_456, 123_457), (SIZE - 1, SIZE)])
async def test_range(server: Ftp, first: int, end: int) -> None:
    """Exactly the bytes that were asked for, from wherever they begin."""
    pin = await pinned(server)
    got = await read_range(transport(server.host_port), server, pin, first, end)
    assert got == content_bytes(5, first, end)


async def test_whole(server: Ftp) -> None:
    """All of the file; of an empty one nothing."""
    assert await read_whole(transport(server.host_port), server, await pinned(server)) == content_bytes(5, 0, SIZE)
    write(server, size=0)
    assert await read_whole(transport(server.host_port), server, await pinned(server)) == b""


async def test_path_below_the_login_or_absolute(server: Ftp) -> None:
    """A path begins where the login leads; with %2F in front at the root. Source: RFC 1738 3.2.2."""
    (server.root / "d").mkdir()
    (server.root / "d" / "f").write_bytes(b"123")
    source = transport(server.host_port)
    for path, asked in (("d/f", "d/f"), ("%2Fd/f", "/d/f"), ("d/f;type=i", "d/f")):
        assert (await source.probe(Link(server.url(path)), None)).size_bytes == 3
        assert f"SIZE {asked}" in server.commands


async def test_a_server_without_size_and_time(server: Ftp) -> None:
    """What the server cannot tell is not known: one stream, ended by its word."""
    server.answers = {"SIZE": "502 no", "MDTM": "500 no", "EPSV": "502 no"}
    pin = await pinned(server)
    assert (pin.size_bytes, pin.last_modified, pin.rangeable, pin.has_version) == (None, None, False, False)
    assert await read_whole(transport(server.host_port), server, pin) == content_bytes(5, 0, SIZE)
    assert server.count("PASV") == 1


async def test_a_server_that_does_not_restart(server: Ftp) -> None:
    """Without REST there are no ranges."""
    server.answers = {"REST": "502 no"}
    assert not (await pinned(server)).rangeable


async def test_a_time_that_may_repeat_is_no_validator(server: Ftp) -> None:
    """A file changed this very second may change again within it."""
    write(server, modified_s=int(time.time()))
    assert not (await pinned(server)).has_version


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("answers", "kind", "status"),
    [
        ({"PASS": "530 no"}, SourceRefused, 401),
        ({"USER": "421 too many"}, SourceBusy, None),
        ({"SIZE": "550 no such file"}, SourceNotFound, 404),
        ({"TYPE": "451 broken"}, SourceBusy, None),
        ({"TYPE": "425 broken"}, SourceFailed, None),
        ({"SIZE": "nonsense"}, SourceTimeout, None),
    ],
)
async def test_refused_probe(server: Ftp, answers: dict[str, str], kind: type[SourceError], status: int | None) -> None:
    """Each refusal by whose fault it is and whether another try may help."""
    server.answers = answers
    with pytest.raises(kind) as caught:
        await transport(server.host_port, limits=SourceSettings(first_byte_timeout_s=1)).probe(link(server), None)
    assert (type(caught.value), caught.value.status) == (kind, status)
    assert PASSWORD not in str(caught.value)


async def test_wrong_password_and_missing_file(server: Ftp) -> None:
    """As a real server answers them."""
    source = transport(server.host_port)
    with pytest.raises(SourceRefused):
        await source.probe(Link(f"ftp://{USER}:wrong@{server.host_port}/{ESCAPED}"), None)
    with pytest.raises(SourceRefused):
        await source.probe(Link(f"ftp://{server.host_port}/{ESCAPED}"), None)
    with pytest.raises(SourceNotFound):
        await source.probe(Link(server.url("nothing.bin")), None)
    pin = await pinned(server)
    (server.root / NAME).unlink()
    with pytest.raises(SourceNotFound):
        await read_whole(source, server, pin)


@pytest.mark.parametrize("is_silent", [True, False])
async def test_cut_in_the_middle(server: Ftp, *, is_silent: bool) -> None:
    """Fewer bytes than there are are no file and no range, whatever the server says of them."""
    pin = await pinned(server)
    server.cut_after, server.cut_silently = 100_000, is_silent
    with pytest.raises(SourceTruncated):
        await read_range(transport(server.host_port), server, pin, 0, 200_000)
    with pytest.raises(SourceTruncated):
        await read_whole(transport(server.host_port), server, pin)


async def test_cut_where_no_length_is_known(server: Ftp) -> None:
    """Without a length the server's word counts: 226 or nothing."""
    server.answers = {"SIZE": "502 no", "MDTM": "502 no"}
    pin = await pinned(server)
    server.cut_after = 100_000
    with pytest.raises(SourceTruncated):
        await read_whole(transport(server.host_port), server, pin)


@pytest.mark.parametrize("change", [{"size": SIZE + 1}, {"modified_s": MODIFIED_S + 1, "seed": 6}])
async def test_change_before_a_range(server: Ftp, change: dict[str, int]) -> None:
    """Another size or another time is another version: nothing is read."""
    pin = await pinned(server)
    write(server, **change)
    source = transport(server.host_port)
    with pytest.raises(SourceChanged):
        await read_whole(source, server, pin)
    with pytest.raises(SourceChanged):
        await read_range(source, server, pin, 0, 1000)
    assert server.count("RETR") == 0


@pytest.mark.parametrize("end", [SIZE, 200_000])
async def test_change_while_it_is_read(server: Ftp, end: int) -> None:
    """The last bytes are given only when the file is still the same, in the middle of it as at its end."""
    pin = await pinned(server)
    got = bytearray()

    def change(line: str) -> None:
        if line.startswith("RETR"):
            write(server, seed=6, modified_s=MODIFIED_S + 5)

    server.on_command = change
    asked = transport(server.host_port).open_range(
        link(server), pin=pin, first_byte=0, end_byte=end, checksum_tells=False
    )
    with pytest.raises(SourceChanged):
        await collect(asked, got)
    assert len(got) < end


async def test_a_server_that_leaves_after_an_aborted_range(server: Ftp) -> None:
    """Where the session is over after a part of a file, another one is asked whether it is still the same."""
    pin = await pinned(server)
    source = transport(server.host_port)
    reader = source.open_range(link(server), pin=pin, first_byte=0, end_byte=1000, checksum_tells=False)

    def leave(line: str) -> None:
        if line.startswith("RETR"):
            # What is asked afterwards in this session is not understood, as little as if nobody was there.
            server.answers = {"SIZE": "426 gone"}
        elif line.startswith("USER"):
            server.answers = {}

    server.on_command = leave
    async with reader as body:
        assert b"".join([piece async for piece in body]) == content_bytes(5, 0, 1000)
    # The probe's, the range's, and the one that looked again.
    assert server.count("USER") == 3


@pytest.mark.parametrize("lie", [-1, 1])
async def test_a_server_that_lies_about_the_size(server: Ftp, lie: int) -> None:
    """More or fewer bytes than were told are no file."""
    server.answers = {"SIZE": f"213 {SIZE + lie}"}
    pin = await pinned(server)
    assert pin.size_bytes == SIZE + lie
    with pytest.raises((SourceTruncated, SourceChanged)):
        await read_whole(transport(server.host_port), server, pin)


async def test_silence(server: Ftp) -> None:
    """A server that says nothing, and one that stops sending, are left after their limits."""
    pin = await pinned(server)

    async def mute(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await asyncio.sleep(5)
        finally:
            writer.transport.abort()

    silent = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    limits = SourceSettings(first_byte_timeout_s=0.3, stall_timeout_s=0.3, connect_timeout_s=0.3)
    async with silent:
        with pytest.raises(SourceTimeout):
            await transport(f"127.0.0.1:{port}", limits=limits).probe(Link(f"ftp://127.0.0.1:{port}/f"), None)
        server.answers = {"EPSV": f"229 Entering extended passive mode (|||{port}|)."}
        # Nothing comes out of that data connection: what the real server would say of its own is never said.
        server.answers["RETR"] = "150 Here it comes."
        patient = replace_limits(limits, first_byte_timeout_s=5)
        with pytest.raises(SourceStalled):
            await read_whole(transport(server.host_port, limits=patient), server, pin)


def replace_limits(limits: SourceSettings, **changes: float) -> SourceSettings:
    return limits.model_copy(update=changes)


async def test_nobody_there() -> None:
    """A port that nobody listens on."""
    with pytest.raises(SourceUnreachable):
        await transport("127.0.0.1:1").probe(Link("ftp://127.0.0.1:1/f"), None)


@pytest.mark.parametrize(
    "told", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220-" + b"x" * 70_000 + b"\r\n", b"220-x\r\n" * 99_999]
)
async def test_what_does_not_speak_ftp(told: bytes) -> None:
    """A server of another protocol, and one with endless greetings, end the session at once."""

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(told)
            await writer.drain()
            await asyncio.sleep(1)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    other = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    async with other:
        with pytest.raises((SourceFailed, SourceUnreachable, SourceRefused)):
            await transport(f"127.0.0.1:{port}").probe(Link(f"ftp://127.0.0.1:{port}/f"), None)


# --- over TLS ---


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """The server's certificate and key in one file, and a context that trusts its authority."""
    authority, server = certificates(tmp_path)
    return server, ssl.create_default_context(cafile=str(authority))


async def test_tls_after_auth(tls: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    """ftpes: nothing is said before TLS, data goes over TLS too, and a certificate that is not trusted is refused."""
    certificate, trusting = tls
    root = tmp_path / "ftpes"
    root.mkdir()
    options = {"certfile": str(certificate), "tls_control_required": True, "tls_data_required": True}
    with ftp_server(root, control=TLS_FTPHandler, data=TLS_DTPHandler, options=options) as server:
        server.scheme = "ftpes"
        write(server)
        source = transport(server.host_port, tls=trusting)
        pin = await source.probe(link(server), None)
        assert pin.size_bytes == SIZE
        assert await read_range(source, server, pin, 1000, 200_000) == content_bytes(5, 1000, 200_000)
        assert await read_whole(source, server, pin) == content_bytes(5, 0, SIZE)
        assert server.commands[0] == "AUTH TLS"
        server.commands.clear()
        with pytest.raises(SourceUnreachable, match="certificate"):
            await transport(server.host_port).probe(link(server), None)
        assert server.count("USER") == 0


async def test_tls_from_the_first_byte(tls: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    """ftps: a server that tells no sizes is read in one stream, all of it over TLS."""
    certificate, trusting = tls
    (tmp_path / "f.bin").write_bytes(content_bytes(5, 0, SIZE))
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate)
    users = [aioftp.User(USER, PASSWORD, base_path=tmp_path)]
    server = aioftp.Server(users, ssl=served)
    await server.start("127.0.0.1", 0)
    try:
        where = f"127.0.0.1:{server.address[1]}"
        asked = Link(f"ftps://{USER}:{ESCAPED_PASSWORD}@{where}/f.bin")
        source = transport(where, tls=trusting)
        pin = await source.probe(asked, None)
        assert (pin.size_bytes, pin.rangeable) == (None, False)
        async with source.open_whole(asked, pin=pin) as body:
            assert b"".join([piece async for piece in body]) == content_bytes(5, 0, SIZE)
        with pytest.raises(SourceUnreachable, match="certificate"):
            await transport(where).probe(asked, None)
    finally:
        await server.close()


# --- where it leads ---


async def test_data_comes_from_the_server_itself(server: Ftp) -> None:
    """An address in the answer to PASV is not listened to: the bytes come from where the session is."""
    pin = await pinned(server)
    commands = server.commands

    def elsewhere(line: str) -> None:
        del line
        server.answers = {"EPSV": "502 no"}

    server.on_command = elsewhere
    got = await read_range(transport(server.host_port), server, pin, 0, 1000)
    assert got == content_bytes(5, 0, 1000)
    assert "PASV" in commands


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("EPSV", "229 Entering extended passive mode (|||22|)."),
        ("EPSV", "229 Entering extended passive mode (|||80|)."),
    ],
)
async def test_data_comes_from_no_service_of_the_server(server: Ftp, command: str, answer: str) -> None:
    """A server that sends us to a port of services, on its own machine, is refused."""
    pin = await pinned(server)
    server.answers = {command: answer}
    with pytest.raises(EgressDenied):
        await read_whole(transport(server.host_port), server, pin)


async def test_pasv_to_another_machine(server: Ftp) -> None:
    """The classic: PASV names an inner address. Only its port is used, on the machine that we speak to."""
    pin = await pinned(server)
    server.answers = {"EPSV": "502 no", "PASV": "227 Entering passive mode (10,0,0,1,255,255)."}
    with pytest.raises(SourceUnreachable, match=r"127\.0\.0\.1"):
        await read_whole(transport(server.host_port), server, pin)


async def test_addresses_are_guarded(server: Ftp) -> None:
    """Without an entry in the allow list neither loopback nor another port than FTP's own is connected to."""
    for allowed in ((), (f"127.0.0.1:{server.port + 1}",)):
        with pytest.raises(EgressDenied):
            await transport(*allowed).probe(link(server), None)
    with pytest.raises(EgressDenied):
        await transport().probe(Link("ftp://93.184.216.34:80/f"), None)
    assert server.commands == []


@pytest.mark.parametrize(
    "path",
    ["", "d/", "f%0d%0aDELE%20f", "f%00", "%ff", "f?x=1", "f;type=a"],
)
async def test_paths_that_are_none(server: Ftp, path: str) -> None:
    """What is no file, or would become another command, is not asked for."""
    with pytest.raises(InvalidRequest):
        await transport(server.host_port).probe(Link(server.url(path)), None)
    with pytest.raises(InvalidRequest):
        await transport(server.host_port).probe(Link(f"ftp://a%0d%0aQUIT@{server.host_port}/f"), None)
    assert server.commands == []


# --- up to the bucket ---


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


@pytest.mark.asyncio(loop_scope="module")
async def test_a_lease_in_ranges(side: Side, server: Ftp) -> None:
    """In parts over several sessions the object is the file; a cut costs a try, a change ends the session."""
    size = 3 * PART + 7
    write(server, seed=7, size=size)
    bench = Bench(side)
    bench.transports = Transports(side.client, {"ftp": transport(server.host_port)})
    order = await bench.order_of(server.url(ESCAPED))
    control = Control()
    result = await bench.run(order, control)
    await bench.check(order, result, size)
    assert (result.parts_count, control.bytes_done) == (4, size)
    await bench.sink.delete(order.key)

    control = Control(on_part=lambda: write(server, seed=8, size=size, modified_s=MODIFIED_S + 1))
    await bench.fails(replace(order, connections=1), SourceChanged, control)
    await bench.abort(control)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_lease_in_one_stream(side: Side, server: Ftp) -> None:
    """Without length and ranges the file comes in one stream, and is compared with a checksum."""
    size = 2 * PART + 7
    write(server, seed=7, size=size)
    server.answers = {"SIZE": "502 no", "MDTM": "502 no"}
    bench = Bench(side)
    bench.transports = Transports(side.client, {"ftp": transport(server.host_port)})
    order = replace(await bench.order_of(server.url(ESCAPED)), checksum=f"sha256:{content_sha256(7, size)}")
    await bench.check(order, await bench.run(order), size)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_job(store: Seaweed, server: Ftp, tmp_path: Path) -> None:
    """Through the API: completed, without the password in any answer; other schemes are refused at once."""
    settings = quick_settings(store.settings)
    async with running_service(tmp_path, settings, agents=1) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            job = await alice.submit(server.url(ESCAPED))
            done = await alice.wait(job.id, timeout_s=60)
            assert done.result is not None
            assert (done.result.size_bytes, done.filename) == (SIZE, NAME)
            told = done.model_dump_json()
            assert PASSWORD not in told
            assert ESCAPED_PASSWORD not in told
            for refused in ("gopher://127.0.0.1/f", "ftp://127.0.0.1/", "file:///etc/passwd"):
                with pytest.raises(BadRequest):
                    await alice.submit(refused)
