"""Real torrents for tests: seeders of libtorrent on loopback, right or corrupt, and trackers by HTTP and by UDP."""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import libtorrent as lt

PIECE = 256 * 1024
_OFF = ("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp", "enable_incoming_utp", "enable_outgoing_utp")


@dataclass(frozen=True, slots=True)
class Shared:
    """Files below `root`, and the torrent of them."""

    root: Path
    document: bytes
    info_hash: str

    def magnet(self, *fields: str) -> str:
        kind = "btih:" if len(self.info_hash) == 40 else "btmh:1220"
        return "&".join([f"magnet:?xt=urn:{kind}{self.info_hash}", *fields])


def share(root: Path, files: dict[str, bytes], *, tracker: str = "", flags: int = lt.create_torrent.v1_only) -> Shared:
    """Write files, and make a torrent of them in this order."""
    for name, content in files.items():
        path = root / "shared" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    entries = [lt.create_file_entry(f"shared/{name}", len(content)) for name, content in files.items()]
    made = lt.create_torrent(entries, PIECE, flags)
    lt.set_piece_hashes(made, str(root))
    if tracker:
        made.add_tracker(tracker)
    document = lt.bencode(made.generate())
    hashes = lt.load_torrent_buffer(document).info_hashes
    return Shared(root, document, str(hashes.v1) if hashes.has_v1() else str(hashes.v2))


@dataclass(slots=True)
class Seeder:
    session: Any
    handle: Any
    host: str
    port: int

    @property
    def host_port(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def sent_bytes(self) -> int:
        return int(self.handle.status().total_payload_upload)


@contextmanager
def seeding(shared: Shared, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[Seeder]:
    """Seed what lies below the root, whatever it is by now: nothing of it is compared."""
    settings = {
        **dict.fromkeys(_OFF, False),
        "listen_interfaces": f"{host}:{port}",
        "disable_hash_checks": True,
        "allow_multiple_connections_per_ip": True,
        "listen_system_port_fallback": False,
        "alert_mask": lt.alert_category.status,
        "stop_tracker_timeout": 0,
    }
    session: Any = lt.session(cast("Any", settings))
    params = lt.load_torrent_buffer(shared.document)
    params.save_path = str(shared.root)
    params.trackers = []
    params.flags = lt.torrent_flags.seed_mode
    handle = session.add_torrent(params)
    ends_s = time.monotonic() + 10
    while not session.listen_port() and time.monotonic() < ends_s:
        session.wait_for_alert(100)
        session.pop_alerts()
    seeder = Seeder(session, handle, host, session.listen_port())
    del handle, session
    try:
        yield seeder
    finally:
        # It ends with the last reference to it.
        seeder.session = seeder.handle = None


@dataclass(slots=True)
class Tracker:
    url: str = ""
    port: int = 0
    peers: Sequence[tuple[str, int]] = ()
    requests: list[str] = field(default_factory=list)


@asynccontextmanager
async def tracking() -> AsyncIterator[Tracker]:
    """Run a tracker that tells everybody of its peers, and remembers who asked."""
    tracker = Tracker()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tracker.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        peers = b"".join(ip_address(host).packed + port.to_bytes(2) for host, port in tracker.peers)
        said: dict[bytes, Any] = {b"interval": 1800, b"min interval": 1, b"peers": peers}
        body = lt.bencode(said)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    tracker.port = server.sockets[0].getsockname()[1]
    tracker.url = f"http://127.0.0.1:{tracker.port}/announce"
    async with server:
        yield tracker


@dataclass(slots=True)
class UdpTracker:
    port: int = 0
    peers: Sequence[tuple[str, int]] = ()
    #: The path of the URL by which it was asked (BEP 41), for each announcement.
    announced: list[str] = field(default_factory=list)
    #: What came that is none of BEP 15, or came with another's id.
    refused: list[bytes] = field(default_factory=list)
    #: Ids that it gave, as a tracker does that wants to know who is really there.
    ids: set[int] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"udp://127.0.0.1:{self.port}/announce"

    def answer(self, said: bytes) -> bytes | None:
        """Source: BEP 15, BEP 41."""
        if len(said) < 16:
            self.refused.append(said)
            return None
        given, action, transaction = struct.unpack_from(">QII", said)
        if (given, action, len(said)) == (0x41727101980, 0, 16):
            self.ids.add(made := 1000 * self.port + len(self.ids))
            return struct.pack(">IIQ", 0, transaction, made)
        if action != 1 or given not in self.ids or len(said) < 98:
            self.refused.append(said)
            return struct.pack(">II", 3, transaction) + b"who are you?"
        path = said[100 : 100 + said[99]].decode() if said[98:99] == b"\x02" else ""
        self.announced.append(path)
        peers = b"".join(ip_address(host).packed + port.to_bytes(2) for host, port in self.peers)
        return struct.pack(">IIIII", 1, transaction, 1800, 0, len(self.peers)) + peers


@contextmanager
def tracking_by_udp(host: str = "127.0.0.1") -> Iterator[UdpTracker]:
    """Run a tracker on the loop that tells everybody of its peers, once it has seen that they hear its answers."""
    tracker = UdpTracker()
    with hearing_datagrams(host, tracker.answer) as port:
        tracker.port = port
        yield tracker


@contextmanager
def hearing_datagrams(host: str, answer: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """Hear datagrams, on the loop, and answer those that have an answer; give the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(0)
        made.bind((host, 0))

        def hear() -> None:
            said, address = made.recvfrom(4096)
            if (answered := answer(said)) is not None:
                made.sendto(answered, address)

        asyncio.get_running_loop().add_reader(made, hear)
        try:
            yield made.getsockname()[1]
        finally:
            asyncio.get_running_loop().remove_reader(made)
