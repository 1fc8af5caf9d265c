"""UDP trackers: a lease that finds its seeder by one, and all that a datagram could be made to do."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from lease_bench import PART, Bench, Side, running
from origin import content_bytes
from torrent_rig import NoGuard, denied, torrents
from torrents import Shared, UdpTracker, hearing_datagrams, seeding, share, tracking_by_udp

from rayhaul.metrics import Meter
from rayhaul.settings import EgressSettings, SourceSettings
from serve_app.seaweed import Seaweed
from tasks import torrent_datagrams
from tasks.dialing import Dialer
from tasks.guard import AddressGuard
from tasks.links import Link
from tasks.torrent_proxy import USER, TorrentProxy
from tasks.transports import Transports

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = 2 * PART + 7
CONNECT = struct.pack(">QII", 0x41727101980, 0, 77)
#: Long enough for a datagram that is carried to have come.
QUIET_S = 0.3


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return share(tmp_path_factory.mktemp("seed"), {"file.bin": content_bytes(7, 0, SIZE)})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings, allow=("127.0.0.1/32",)) as side:
        yield side


# --- what goes right ---


async def test_a_lease_by_udp_trackers(side: Side, shared: Shared, tmp_path: Path) -> None:
    """Nobody but a UDP tracker knows the seeder; of two, by name and by address, each is asked with its own id."""
    with seeding(shared) as seeder, tracking_by_udp() as tracker, tracking_by_udp() as other:
        tracker.peers = [(seeder.host, seeder.port)]
        allow = (seeder.host_port, f"127.0.0.1:{tracker.port}", f"127.0.0.1:{other.port}")
        async with torrents(tmp_path, *allow) as transport:
            bench = Bench(side)
            bench.transports = Transports(side.client, torrents=transport)
            named = f"tr=udp://localhost:{other.port}"
            order = await bench.order_of(shared.magnet(named, f"tr={tracker.url}/pa55key"))
            await bench.check(order, await bench.run(order), SIZE)
        assert tracker.announced[0] == "/announce/pa55key", "the path is told, as private trackers need it"
        assert len(other.announced) >= 1
        assert (tracker.refused, other.refused) == ([], [])


async def test_trackers_that_could_not_be_asked_yet(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the library wants to send before the proxy carries it is lost: the trackers are asked soon after."""

    async def later(self: TorrentProxy, *connection: Any) -> None:
        await asyncio.sleep(1)
        await associate(self, *connection)

    associate = TorrentProxy._associate
    monkeypatch.setattr(TorrentProxy, "_associate", later)
    monkeypatch.setattr(TorrentProxy, "ready", lambda _self: asyncio.sleep(0))
    with seeding(shared) as seeder, tracking_by_udp() as tracker:
        tracker.peers = [(seeder.host, seeder.port)]
        async with torrents(tmp_path, seeder.host_port, f"127.0.0.1:{tracker.port}") as transport:
            assert (await transport.probe(Link(shared.magnet(f"tr={tracker.url}")), None)).size_bytes == SIZE


# --- where it leads ---


@pytest.mark.parametrize(("guard", "is_met"), [(AddressGuard, False), (NoGuard, True)])
async def test_denied_addresses_are_sent_nothing(
    shared: Shared, tmp_path: Path, guard: type[AddressGuard], *, is_met: bool
) -> None:
    """Not another port of an allowed machine, by the name of a tracker; without the guard the same canary hears it."""
    meter = Meter()
    came: list[bytes] = []
    with seeding(shared) as seeder, tracking_by_udp() as tracker, hearing_datagrams("127.0.0.1", came.append) as canary:
        tracker.peers = [(seeder.host, seeder.port)]
        allow = (seeder.host_port, f"127.0.0.1:{tracker.port}")
        url = shared.magnet(f"tr=udp://localhost:{canary}/announce", f"tr={tracker.url}")
        async with torrents(tmp_path, *allow, guard=guard, meter=meter) as transport:
            await transport.probe(Link(url), None)
            async with asyncio.timeout(30):
                while not (came if is_met else denied(meter)):
                    await asyncio.sleep(0.05)
            await asyncio.sleep(QUIET_S)
    assert tracker.announced
    assert bool(came) is is_met
    assert bool(denied(meter)) is not is_met


# --- what the library, or somebody in its place, could send ---


class Asking:
    """A client of the proxy that does as it likes."""

    def __init__(self, proxy: TorrentProxy) -> None:
        self.proxy = proxy
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(0)
        self.socket.bind(("127.0.0.1", 0))

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    async def command(self, code: int, port: int) -> tuple[bytes, asyncio.StreamWriter]:
        """Say the password and a command; return its answer, and the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        password = self.proxy.password.encode()
        writer.write(b"\x05\x01\x02\x01" + bytes([len(USER)]) + USER.encode() + bytes([len(password)]) + password)
        assert await reader.readexactly(4) == b"\x05\x02\x01\x00"
        writer.write(bytes([5, code, 0, 1, 0, 0, 0, 0]) + port.to_bytes(2))
        return await reader.readexactly(10), writer

    @asynccontextmanager
    async def associated(self) -> AsyncIterator[None]:
        answer, writer = await self.command(3, self.port)
        assert answer == b"\x05\x00\x00\x01\x7f\x00\x00\x01" + self.proxy.port.to_bytes(2)
        try:
            yield
        finally:
            writer.close()
            await writer.wait_closed()

    def send(self, request: bytes, port: int, *, host: str = "127.0.0.1", header: bytes = bytes(3)) -> None:
        named = bytes([3, len(host)]) + host.encode() + port.to_bytes(2)
        self.socket.sendto(header + named + request, ("127.0.0.1", self.proxy.port))

    async def heard(self) -> bytes | None:
        """Return what comes within a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_S):
                return await asyncio.get_running_loop().sock_recv(self.socket, 4096)
        return None


@asynccontextmanager
async def asking(*allow: str) -> AsyncIterator[Asking]:
    egress = EgressSettings(allow=allow)
    dialer = Dialer(AddressGuard(egress), egress, SourceSettings(), slots=asyncio.Semaphore(8), meter=Meter())
    proxy = TorrentProxy(dialer, tracker_ports=egress.ports)
    await proxy.open()
    client = Asking(proxy)
    try:
        with client.socket:
            yield client
    finally:
        await proxy.aclose()


@contextmanager
def tracker_heard() -> Iterator[tuple[UdpTracker, list[bytes]]]:
    """Run a tracker; give what comes to it, too."""
    heard: list[bytes] = []
    tracker = UdpTracker()

    def answer(said: bytes) -> bytes | None:
        heard.append(said)
        return tracker.answer(said)

    with hearing_datagrams("127.0.0.1", answer) as port:
        tracker.port = port
        yield tracker, heard


async def test_only_whole_questions_of_the_one_who_asked() -> None:
    """No fragments, nothing but BEP 15, nothing from another port, and nothing after the connection has ended."""
    with tracker_heard() as (tracker, heard):
        async with asking(f"127.0.0.1:{tracker.port}") as client, asking() as stranger:
            client.send(CONNECT, tracker.port)
            assert await client.heard() is None, "nothing is carried before it was asked for"
            async with client.associated():
                for header in (b"\x00\x00\x01", b"\x00\x00\x80", b"\x00\x01\x00", b"\x00"):
                    client.send(CONNECT, tracker.port, header=header)
                for request in (b"", b"x", CONNECT[:8], CONNECT + b"x", bytes(16), b"d1:ad2:id20:" + bytes(90)):
                    client.send(request, tracker.port)
                stranger.proxy = client.proxy
                stranger.send(CONNECT, tracker.port)
                assert await client.heard() is None
                assert heard == []

                client.send(CONNECT, tracker.port, host="localhost")
                answer = await client.heard()
                assert answer is not None
                assert answer[:10] == b"\x00\x00\x00\x01\x7f\x00\x00\x01" + tracker.port.to_bytes(2)
                assert (answer[10:18], len(answer)) == (struct.pack(">II", 0, 77), 26)
            await asyncio.sleep(QUIET_S)
            client.send(CONNECT, tracker.port)
            assert await client.heard() is None
            async with client.associated():
                assert await client.heard() is None, "nor later what was sent in between"
            assert heard == [CONNECT]


async def test_what_is_not_carried_for() -> None:
    """Nobody can be waited for; who does not say where datagrams come from sends none; a later client takes over."""
    with tracker_heard() as (tracker, heard):
        async with asking(f"127.0.0.1:{tracker.port}") as client, asking() as second:
            for command, port, refusal in ((2, 4000, 7), (3, 0, 1)):
                answer, writer = await client.command(command, port)
                writer.close()
                assert answer[1] == refusal
            second.proxy = client.proxy
            async with client.associated(), second.associated():
                client.send(CONNECT, tracker.port)
                second.send(CONNECT, tracker.port)
                assert await second.heard() is not None
                assert heard == [CONNECT]


async def test_addresses_that_are_denied() -> None:
    """By number, whatever is written of it, and by name: nothing is sent there, and the next question is carried."""
    came: list[bytes] = []
    with tracker_heard() as (tracker, heard), hearing_datagrams("127.0.0.3", came.append) as canary:
        async with asking(f"127.0.0.1:{tracker.port}") as client, client.associated():
            for host in ("127.0.0.3", "::ffff:127.0.0.3", "127.3", "localhost", "a..b", "x" * 200, "169.254.169.254"):
                client.send(CONNECT, canary, host=host)
            packed = bytes([1]) + socket.inet_aton("127.0.0.3") + canary.to_bytes(2)
            client.socket.sendto(bytes(3) + packed + CONNECT, ("127.0.0.1", client.proxy.port))
            client.send(CONNECT, tracker.port)
            assert await client.heard() is not None
            await asyncio.sleep(QUIET_S)
            assert (came, heard) == ([], [CONNECT])


async def test_nobody_else_answers() -> None:
    """Who is not the tracker is not heard, though it knows where answers are waited for."""
    asked_from: list[tuple[str, int]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tracker, socket.socket(type=socket.SOCK_DGRAM) as stranger:
        tracker.settimeout(0)
        tracker.bind(("127.0.0.1", 0))
        port = tracker.getsockname()[1]
        async with asking(f"127.0.0.1:{port}") as client, client.associated():
            client.send(CONNECT, port)
            async with asyncio.timeout(5):
                asked_from.append((await asyncio.get_running_loop().sock_recvfrom(tracker, 100))[1])
            stranger.sendto(b"a stranger's", asked_from[0])
            assert await client.heard() is None
            tracker.sendto(b"the tracker's", asked_from[0])
            assert (await client.heard() or b"").endswith(b"the tracker's")


# --- bounds ---


async def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of destinations at once and of questions a second; who is silent makes room."""
    monkeypatch.setattr(torrent_datagrams, "_TRACKERS_MAX", 1)
    monkeypatch.setattr(torrent_datagrams, "_SILENCE_S_MAX", 1.0)
    monkeypatch.setattr(torrent_datagrams, "_REQUESTS_AT_ONCE", 5.0)
    monkeypatch.setattr(torrent_datagrams, "_REQUESTS_PER_S", 1e-9)
    with tracker_heard() as (first, heard_first), tracker_heard() as (second, heard_second):
        async with asking("127.0.0.1/32") as client, client.associated():
            client.send(CONNECT, first.port)
            assert await client.heard() is not None
            client.send(CONNECT, second.port)
            assert await client.heard() is None
            await asyncio.sleep(1.0)
            client.send(CONNECT, second.port)
            assert await client.heard() is not None
            for _ in range(10):
                client.send(CONNECT, second.port)
            await asyncio.sleep(QUIET_S)
            assert (len(heard_first), len(heard_second)) == (1, 3), "five are carried, and one of them to nobody"


async def test_a_port_of_loopback_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is tried: connections and datagrams come to the same port."""
    tried: list[int] = []

    def open_third(self: torrent_datagrams.Datagrams, port: int) -> None:
        tried.append(port)
        if len(tried) < 3:
            raise OSError
        opened(self, port)

    opened = torrent_datagrams.Datagrams.open
    monkeypatch.setattr(torrent_datagrams.Datagrams, "open", open_third)
    async with asking() as client, client.associated():
        assert (len(tried), client.proxy.port) == (3, tried[-1])
