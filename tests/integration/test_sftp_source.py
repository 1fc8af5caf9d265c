"""SFTP as a source: a real server, whose host key is trusted or not, and all that it can do wrong."""

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import pytest_asyncio
from fetching import joined
from inprocess import quick_settings, running_service
from lease_bench import PART, Bench, Control, Side, running
from origin import content_bytes
from sftp_server import ESCAPED_PASSWORD, PASSWORD, USER, Sftp, sftp_server

from rayhaul import AsyncClient
from rayhaul.errors import (
    EgressDenied,
    InvalidRequest,
    SourceChanged,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceStalled,
    SourceTruncated,
    SourceUnreachable,
)
from rayhaul.job import Metadata
from rayhaul.metrics import Meter
from rayhaul.settings import EgressSettings, SourceSettings, SourcesSettings
from serve_app.seaweed import Seaweed
from tasks.dialing import Dialer
from tasks.guard import AddressGuard
from tasks.links import Link
from tasks.sftp_source import KEY_HEADER, SftpTransport
from tasks.transports import Transports

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 3_000_000
NAME = "a file ä.bin"
ESCAPED = "a%20file%20%C3%A4.bin"
#: Long ago, so that it tells versions apart.
MODIFIED_S = 1_700_000_000


@pytest_asyncio.fixture(loop_scope="module")
async def server(tmp_path: Path) -> AsyncIterator[Sftp]:
    root = tmp_path / "sftp"
    root.mkdir()
    async with sftp_server(root) as server:
        write(server)
        yield server


def write(server: Sftp, *, seed: int = 5, size: int = SIZE, modified_s: int = MODIFIED_S) -> None:
    path = server.root / NAME
    path.write_bytes(content_bytes(seed, 0, size))
    os.utime(path, (modified_s, modified_s))


def transport(
    server: Sftp, *, allow: tuple[str, ...] | None = None, known_hosts: str | None = "", **limits: float
) -> SftpTransport:
    egress = EgressSettings(allow=(server.host_port,) if allow is None else allow)
    dialer = Dialer(
        AddressGuard(egress),
        egress,
        SourceSettings().model_copy(update=limits),
        slots=asyncio.Semaphore(8),
        meter=Meter(),
    )
    return SftpTransport(dialer, server.known_hosts if known_hosts == "" else known_hosts)


def link(server: Sftp) -> Link:
    return Link(server.url(ESCAPED))


async def pinned(server: Sftp) -> Metadata:
    return await transport(server).probe(link(server), None)


def opened(
    server: Sftp, pin: Metadata, first: int, end: int, *, stall_timeout_s: float = 30
) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    source = transport(server, stall_timeout_s=stall_timeout_s)
    return source.open_range(link(server), pin=pin, first_byte=first, end_byte=end, checksum_tells=False)


# --- what goes right ---


async def test_probe(server: Sftp) -> None:
    """Size and time of the file; nothing of it shows who asked."""
    pin = await pinned(server)
    assert (pin.size_bytes, pin.rangeable, pin.filename, pin.etag) == (SIZE, True, NAME, None)
    assert pin.last_modified == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert pin.final_url == f"sftp://{server.host_port}/{ESCAPED}"
    assert server.opened == [f"/{NAME}"]


@pytest.mark.parametrize(("first", "end"), [(0, 1), (0, SIZE), (1, 70_000), (1_234_567, 2_900_000), (SIZE - 1, SIZE)])
async def test_range(server: Sftp, first: int, end: int) -> None:
    """Exactly the bytes that were asked for, from wherever they begin."""
    pin = await pinned(server)
    assert await joined(opened(server, pin, first, end)) == content_bytes(5, first, end)


async def test_whole(server: Sftp) -> None:
    """All of the file; of an empty one nothing."""
    pin = await pinned(server)
    assert await joined(transport(server).open_whole(link(server), pin=pin)) == content_bytes(5, 0, SIZE)
    write(server, size=0)
    pin = await pinned(server)
    assert await joined(transport(server).open_whole(link(server), pin=pin)) == b""


async def test_a_private_key_instead_of_a_password(server: Sftp) -> None:
    """A job can bring a key along; what is none is refused before anybody is connected to."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    url = f"sftp://{USER}@{server.host_port}/{ESCAPED}"
    headers = {KEY_HEADER.title(): base64.b64encode(key.export_private_key()).decode()}
    with pytest.raises(SourceRefused):
        await transport(server).probe(Link(url, headers), None)
    server.authorized.add(key.export_public_key().decode().split()[1])
    assert (await transport(server).probe(Link(url, headers), None)).size_bytes == SIZE
    server.logins.clear()
    with pytest.raises(InvalidRequest):
        await transport(server).probe(Link(url, {KEY_HEADER: "bm9uZQ=="}), None)
    assert server.logins == []


async def test_a_time_that_may_repeat_is_no_validator(server: Sftp) -> None:
    """A file changed this very second may change again within it."""
    write(server, modified_s=int(time.time()))
    assert not (await pinned(server)).has_version


# --- host keys ---


async def test_an_unknown_host_key_is_refused(server: Sftp) -> None:
    """Another key, a key of another host, and none at all: refused before a password was sent."""
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    for known in (
        f"[127.0.0.1]:{server.port} {other}",
        f"[127.0.0.1]:{server.port + 1} {server.public_key}",
        f"@revoked [127.0.0.1]:{server.port} {server.public_key}\n{server.known_hosts}",
    ):
        with pytest.raises(SourceRefused, match="host key"):
            await transport(server, known_hosts=known).probe(link(server), None)
    assert server.logins == []


async def test_host_keys_in_a_file(server: Sftp, tmp_path: Path) -> None:
    """The setting may name a file on the machine; one that is not there is no trust."""
    path = tmp_path / "known_hosts"
    path.write_text(server.known_hosts)
    assert (await transport(server, known_hosts=str(path)).probe(link(server), None)).size_bytes == SIZE
    for missing in (str(tmp_path / "nothing"), None):
        with pytest.raises(SourceRefused, match="host keys"):
            await transport(server, known_hosts=missing).probe(link(server), None)


# --- what goes wrong ---


async def test_refused_login_and_missing_file(server: Sftp) -> None:
    """As a real server answers them, by whose fault, without the password."""
    with pytest.raises(SourceRefused) as caught:
        await transport(server).probe(Link(f"sftp://{USER}:wr0ng@{server.host_port}/{ESCAPED}"), None)
    assert caught.value.status == 401
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(SourceNotFound) as missing:
        await transport(server).probe(Link(server.url("nothing.bin")), None)
    assert missing.value.status == 404
    with pytest.raises(InvalidRequest):
        await transport(server).probe(Link(f"sftp://{server.host_port}/{ESCAPED}"), None)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (asyncssh.SFTPPermissionDenied("no"), SourceRefused),
        (asyncssh.SFTPFailure("broken"), SourceFailed),
        (asyncssh.SFTPOpUnsupported("no"), SourceFailed),
    ],
)
async def test_refused_file(server: Sftp, refusal: asyncssh.SFTPError, kind: type[SourceError]) -> None:
    """Each refusal by whether another try may help."""
    server.refusal = refusal
    with pytest.raises(kind) as caught:
        await pinned(server)
    assert type(caught.value) is kind


async def test_cut_in_the_middle(server: Sftp) -> None:
    """A connection that is lost gives no range and no file."""
    pin = await pinned(server)
    server.cut_at = 1_000_000
    with pytest.raises(SourceTruncated):
        await joined(opened(server, pin, 0, 2_000_000))
    with pytest.raises(SourceTruncated):
        await joined(transport(server).open_whole(link(server), pin=pin))


async def test_silence(server: Sftp) -> None:
    """A server that stops sending is left."""
    pin = await pinned(server)
    server.stall_at = 0
    with pytest.raises(SourceStalled):
        await joined(opened(server, pin, 0, 2_000_000, stall_timeout_s=0.3))


@pytest.mark.parametrize("change", [{"size": SIZE + 1}, {"modified_s": MODIFIED_S + 1, "seed": 6}])
async def test_change_before_a_range(server: Sftp, change: dict[str, int]) -> None:
    """Another size or another time is another version: nothing is read."""
    pin = await pinned(server)
    write(server, **change)
    reads: list[int] = []
    server.on_read = reads.append
    for opening in (opened(server, pin, 0, 1000), transport(server).open_whole(link(server), pin=pin)):
        with pytest.raises(SourceChanged):
            await joined(opening)
    assert reads == []


@pytest.mark.parametrize("end", [SIZE, 2_000_000])
async def test_change_while_it_is_read(server: Sftp, end: int) -> None:
    """The last bytes are given only when the file is still the same, in the middle of it as at its end."""
    pin = await pinned(server)
    server.on_read = lambda _: write(server, seed=6, modified_s=MODIFIED_S + 5)
    got = bytearray()
    with pytest.raises(SourceChanged):
        await joined(opened(server, pin, 0, end), got)
    assert len(got) < end


async def test_a_file_that_is_replaced_is_still_the_one_that_was_opened(server: Sftp) -> None:
    """A new file under the name is none of the open one's business; the next range sees it."""
    pin = await pinned(server)

    def swap(_offset: int) -> None:
        server.on_read = lambda offset: offset
        (server.root / NAME).rename(server.root / "old")
        write(server, seed=6, modified_s=MODIFIED_S + 5)

    server.on_read = swap
    assert await joined(opened(server, pin, 0, SIZE)) == content_bytes(5, 0, SIZE)
    with pytest.raises(SourceChanged):
        await joined(opened(server, pin, 0, SIZE))


@pytest.mark.parametrize("lie", [-1, 1])
async def test_a_server_that_lies_about_the_size(server: Sftp, lie: int) -> None:
    """More or fewer bytes than were told are no file."""
    server.size_lie = lie
    pin = await pinned(server)
    assert pin.size_bytes == SIZE + lie
    with pytest.raises((SourceTruncated, SourceChanged)):
        await joined(transport(server).open_whole(link(server), pin=pin))


async def test_nobody_there_or_no_ssh(server: Sftp) -> None:
    """A port that nobody listens on, and a server of another protocol."""

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10)
        writer.close()

    other = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    async with other:
        for where in (f"127.0.0.1:{port}", "127.0.0.1:1"):
            with pytest.raises((SourceFailed, SourceUnreachable)):
                await transport(server, allow=(where,)).probe(Link(f"sftp://a:b@{where}/f"), None)


# --- where it leads ---


async def test_addresses_are_guarded(server: Sftp) -> None:
    """Without an entry in the allow list neither loopback nor another port than SSH's own is connected to."""
    for allowed in ((), (f"127.0.0.1:{server.port + 1}",)):
        with pytest.raises(EgressDenied):
            await transport(server, allow=allowed).probe(link(server), None)
    with pytest.raises(EgressDenied):
        await transport(server, allow=()).probe(Link("sftp://a:b@93.184.216.34:80/f"), None)
    assert server.logins == []


# --- up to the bucket ---


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings) as side:
        yield side


async def test_a_lease(side: Side, server: Sftp) -> None:
    """In parts over several sessions the object is the file; a change between parts ends the session."""
    size = 3 * PART + 7
    write(server, seed=7, size=size)
    bench = Bench(side)
    bench.transports = Transports(side.client, {"sftp": transport(server)})
    order = await bench.order_of(server.url(ESCAPED))
    control = Control()
    result = await bench.run(order, control)
    await bench.check(order, result, size)
    assert (result.parts_count, control.bytes_done) == (4, size)
    await bench.sink.delete(order.key)

    control = Control(on_part=lambda: write(server, seed=8, size=size, modified_s=MODIFIED_S + 1))
    await bench.fails(replace(order, connections=1), SourceChanged, control)
    await bench.abort(control)


async def test_a_job(store: Seaweed, server: Sftp, tmp_path: Path) -> None:
    """Through the API: completed, without the password in any answer."""
    settings = quick_settings(store.settings, sources=SourcesSettings(sftp_known_hosts=server.known_hosts))
    async with running_service(tmp_path, settings, agents=1) as service:
        async with AsyncClient(service.url, service.alice) as alice:
            job = await alice.submit(server.url(ESCAPED))
            done: Any = await alice.wait(job.id, timeout_s=60)
            assert (done.result.size_bytes, done.filename) == (SIZE, NAME)
            told = done.model_dump_json()
            assert PASSWORD not in told
            assert ESCAPED_PASSWORD not in told
