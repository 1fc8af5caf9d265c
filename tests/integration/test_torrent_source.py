"""BitTorrent as a source: real seeders on loopback, and all that a stranger's torrent can try."""

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libtorrent as lt
import psutil
import pytest
import pytest_asyncio
from aiohttp import web
from cli_call import called
from cli_process import bare_environ
from disks import mounted
from fetching import joined
from inprocess import quick_settings, running_service
from lease_bench import PART, Bench, Control, Side, running
from origin import content_bytes
from torrent_rig import NoGuard, all_given_back, denied, on_disk, opened, torrents
from torrents import PIECE, Seeder, Shared, Tracker, seeding, share, tracking

from rayhaul import AsyncClient
from rayhaul.client.errors import BadRequest
from rayhaul.errors import (
    AgentFull,
    ChecksumMismatch,
    EgressDenied,
    Internal,
    InvalidRequest,
    SourceChanged,
    SourceRefused,
    SourceStalled,
    SourceTimeout,
    SourceTooLarge,
)
from rayhaul.job import Metadata
from rayhaul.metrics import Meter
from rayhaul.origins import HostGrant, host_of
from rayhaul.settings import SourcesSettings
from serve_app.seaweed import Seaweed
from tasks import extras, swarm
from tasks.gates import Gates
from tasks.guard import AddressGuard
from tasks.links import Link
from tasks.pace import Line, Pace
from tasks.torrent_session import begun
from tasks.torrent_source import TorrentTransport
from tasks.transports import Transports

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: The middle one of three: its first and last pieces are shared with its neighbours.
SIZE = 3 * PART + 7
BEFORE, AFTER = 700_001, 300_003
INDEX = 1
PIECES = -(-(BEFORE + SIZE + AFTER) // PIECE)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    return share(
        tmp_path_factory.mktemp("seed"),
        {
            "a.bin": content_bytes(1, 0, BEFORE),
            "file.bin": content_bytes(7, 0, SIZE),
            "c.bin": content_bytes(2, 0, AFTER),
        },
    )


def spoil(scratch: Path) -> None:
    """Write over what was fetched last."""
    (parts,) = [path for path in scratch.rglob("*") if path.is_file() and path.stat().st_size > PIECE]
    with parts.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(bytes(100))


# --- what goes right ---


async def test_a_file_of_several(shared: Shared, tmp_path: Path) -> None:
    """The probe asks a peer what there is; ranges come from wherever they begin, and only their pieces are fetched."""
    with seeding(shared) as seeder:
        async with torrents(tmp_path, seeder.host_port) as transport:
            url = shared.magnet(f"x.pe={seeder.host_port}", f"so={INDEX}")
            pin = await transport.probe(Link(url), None)
            assert (pin.size_bytes, pin.rangeable, pin.filename) == (SIZE, True, "file.bin")
            assert (pin.etag, pin.has_version) == (f'"{shared.info_hash}/1"', True)
            assert pin.final_url == shared.magnet("so=1")
            assert (await transport.probe(Link(url), "other.iso")).filename == "other.iso"

            for first, end in [(0, 1), (SIZE - 1, SIZE), (5_000_000, 5_600_000)]:
                assert await joined(opened(transport, url, pin, first, end)) == content_bytes(7, first, end)
            assert on_disk(tmp_path) < 10 * PIECE, "pieces around these ranges, and not the rest of the torrent"
            assert seeder.sent_bytes < 10 * PIECE
            whole = await joined(transport.open_whole(Link(url), pin=pin))
            assert whole == content_bytes(7, 0, SIZE)
            with pytest.raises(SourceChanged):
                await joined(opened(transport, shared.magnet(f"x.pe={seeder.host_port}", "so=0"), pin, 0, 1))


@pytest.mark.parametrize("flags", [lt.create_torrent.v2_only, 0], ids=["v2", "hybrid"])
async def test_newer_torrents(tmp_path: Path, flags: int) -> None:
    """A torrent with SHA-256 hashes alone, and one with both."""
    content = content_bytes(3, 0, 2_000_003)
    newer = share(tmp_path / "seed", {"x.bin": content, "y.bin": b"y" * 100}, flags=flags)
    with seeding(newer) as seeder:
        async with torrents(tmp_path / "scratch", seeder.host_port) as transport:
            url = newer.magnet(f"x.pe={seeder.host_port}", "so=0")
            pin = await transport.probe(Link(url), None)
            assert await joined(opened(transport, url, pin, 1000, len(content))) == content[1000:]


async def test_which_file(shared: Shared, tmp_path: Path) -> None:
    """Without a number of a file that is there, the answer lists what there is."""
    with seeding(shared) as seeder:
        async with torrents(tmp_path, seeder.host_port) as transport:
            peer = f"x.pe={seeder.host_port}"
            for named in ((), ("so=3",)):
                with pytest.raises(SourceRefused, match=r"3 files.*&so=N.*1: file\.bin \(15728647 bytes\)"):
                    await transport.probe(Link(shared.magnet(peer, *named)), None)
            for wrong in ("so=0,1", "so=0-1", "so=x", "so=0&so=1"):
                with pytest.raises(InvalidRequest):
                    await transport.probe(Link(shared.magnet(peer, wrong)), None)


# --- what peers do wrong ---


async def test_corrupt_data_is_never_given(tmp_path: Path) -> None:
    """A piece of another content than its hash is not given; what is right before it is."""
    content = content_bytes(4, 0, 8 * PIECE)
    wrong = share(tmp_path / "seed", {"x.bin": content})
    (tmp_path / "seed/shared/x.bin").write_bytes(content[: 4 * PIECE] + bytes(10) + content[4 * PIECE + 10 :])
    with seeding(wrong) as seeder:
        async with torrents(tmp_path / "scratch", seeder.host_port, stall_timeout_s=2) as transport:
            url = wrong.magnet(f"x.pe={seeder.host_port}")
            pin = await transport.probe(Link(url), None)
            assert await joined(opened(transport, url, pin, 0, 4 * PIECE)) == content[: 4 * PIECE]
            got = bytearray()
            with pytest.raises(ChecksumMismatch):
                await joined(opened(transport, url, pin, 3 * PIECE, 5 * PIECE), got)
            assert bytes(got) == content[3 * PIECE : 4 * PIECE]


async def test_a_scratch_disk_that_changes_bytes(tmp_path: Path) -> None:
    """What lies on the disk is compared once more before it is given."""
    content = content_bytes(4, 0, 2 * PIECE)
    small = share(tmp_path / "seed", {"x.bin": content})
    with seeding(small) as seeder:
        async with torrents(tmp_path / "scratch", seeder.host_port) as transport:
            url = small.magnet(f"x.pe={seeder.host_port}")
            pin = await transport.probe(Link(url), None)
            await joined(opened(transport, url, pin, 0, PIECE))
            spoil(tmp_path / "scratch")
            with pytest.raises(ChecksumMismatch):
                await joined(opened(transport, url, pin, 0, PIECE))


async def test_nobody_there(shared: Shared, tmp_path: Path) -> None:
    """Peers that are not there: no metadata, and no bytes."""
    with seeding(shared) as seeder:
        url = shared.magnet(f"x.pe={seeder.host_port}", "so=1")
        async with torrents(tmp_path, seeder.host_port, probe_timeout_s=0.5, stall_timeout_s=1) as transport:
            nobody = Link(shared.magnet("x.pe=127.0.0.1:1024", "so=1"))
            with pytest.raises((EgressDenied, SourceTimeout)):
                await transport.probe(nobody, None)
    async with torrents(tmp_path, "127.0.0.0/8", probe_timeout_s=0.5, stall_timeout_s=1) as transport:
        with pytest.raises(SourceTimeout):
            await transport.probe(Link(url), None)


async def test_a_seeder_that_goes_away_and_comes_back(shared: Shared, tmp_path: Path) -> None:
    """Silence ends the part; when somebody is there again, only what is missing is fetched."""
    async with torrents(tmp_path, "127.0.0.1/32", stall_timeout_s=3) as transport:
        with seeding(shared) as seeder:
            port = seeder.port
            url = shared.magnet(f"x.pe={seeder.host_port}", "so=1")
            pin = await transport.probe(Link(url), None)
            first = await joined(opened(transport, url, pin, 0, PART))
        with pytest.raises(SourceStalled):
            await joined(opened(transport, url, pin, 0, SIZE))
        with seeding(shared, port=port) as seeder:
            ends_s = time.monotonic() + 60
            while True:
                try:
                    whole = await joined(opened(transport, url, pin, 0, SIZE))
                    break
                except SourceStalled:
                    assert time.monotonic() < ends_s, "nobody asks the seeder again"
            assert seeder.sent_bytes <= SIZE - PART + 3 * PIECE
    assert first == content_bytes(7, 0, PART)
    assert whole == content_bytes(7, 0, SIZE)


# --- a machine that is busy ---


class _LateSession:
    """The library's session, whose word that a torrent was added comes only after all that it tells of it."""

    def __init__(self, session: Any, until: Callable[[Any], bool]) -> None:
        self._session = session
        self._until = until
        self.has_added = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def add_torrent(self, params: Any) -> Any:
        handle = self._session.add_torrent(params)
        self.has_added.set()
        ends_s = time.monotonic() + 30
        while not self._until(handle) and time.monotonic() < ends_s:
            time.sleep(0.01)
        return handle


async def test_what_is_told_of_a_torrent_at_once(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer may tell what it consists of before it is known here that it was added."""
    monkeypatch.setattr(
        swarm, "begun", lambda *how: _LateSession(begun(*how), lambda handle: bool(handle.status().has_metadata))
    )
    with seeding(shared) as seeder:
        async with torrents(tmp_path, seeder.host_port) as transport:
            pin = await transport.probe(Link(shared.magnet(f"x.pe={seeder.host_port}", "so=1")), None)
            assert pin.size_bytes == SIZE


async def test_who_gives_up_while_a_torrent_is_added(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there for the next one."""
    made: list[_LateSession] = []
    may_go = threading.Event()

    def late(*how: Any) -> Any:
        made.append(_LateSession(begun(*how), lambda _handle: may_go.is_set()))
        return made[0]

    monkeypatch.setattr(swarm, "begun", late)
    with seeding(shared) as seeder:
        async with torrents(tmp_path, seeder.host_port) as transport:
            link = Link(shared.magnet(f"x.pe={seeder.host_port}", "so=1"))
            looking = asyncio.create_task(transport.probe(link, None))
            async with asyncio.timeout(30):
                while not (made and made[0].has_added.is_set()):
                    await asyncio.sleep(0.01)
            looking.cancel()
            await asyncio.sleep(0)
            may_go.set()
            with pytest.raises(asyncio.CancelledError):
                await looking
            made.clear()
            assert (await transport.probe(link, None)).size_bytes == SIZE


# --- the pace ---


async def test_no_more_is_fetched_than_may_pass(shared: Shared, tmp_path: Path) -> None:
    """The library has the limit of those who read: as it changes, and none where one of them has none."""
    with seeding(shared) as seeder:
        async with torrents(tmp_path, seeder.host_port) as transport:
            url = shared.magnet(f"x.pe={seeder.host_port}", "so=1")
            pin = await transport.probe(Link(url), None)
            (torrent,) = transport._swarm._torrents.values()
            host, job = Pace(10**7), Pace(4 * 10**6)
            link = Link(url, line=Line({"job:1": job, "host:x": host}))

            async def limited_to(bytes_per_s: int) -> None:
                async with asyncio.timeout(30):
                    while torrent.handle.download_limit() != bytes_per_s:
                        await asyncio.sleep(0.05)

            assert torrent.handle.download_limit() <= 0
            async with in_part(transport, link, pin), in_part(transport, link, pin):
                await limited_to(4 * 10**6)
                job.set(2 * 10**6)
                await limited_to(2 * 10**6)
                another = Link(url, line=Line({"job:2": Pace(9 * 10**6), "host:x": host}))
                async with in_part(transport, another, pin):
                    await limited_to(10**7)
                    async with in_part(transport, Link(url), pin):
                        await limited_to(0)
                job.set(0)
                await limited_to(2 * PIECE // 15)
            job.set(5 * 10**6)
            async with in_part(transport, link, pin):
                await limited_to(5 * 10**6)


async def test_torrents_share_a_pace(shared: Shared, tmp_path: Path) -> None:
    """What is read at one pace is fetched no faster than that, be it of several torrents; one alone has all of it."""
    other = share(tmp_path / "seed", {"x.bin": content_bytes(5, 0, SIZE)})
    with seeding(shared) as seeder, seeding(other, host="127.0.0.2") as second:
        async with torrents(tmp_path / "scratch", seeder.host_port, second.host_port) as transport:
            cluster = Pace(8 * 10**6)
            links = [
                Link(url, line=Line({f"job:{url}": Pace(10**8), "cluster": cluster}))
                for url in (
                    shared.magnet(f"x.pe={seeder.host_port}", "so=1"),
                    other.magnet(f"x.pe={second.host_port}"),
                )
            ]
            pins = [await transport.probe(link, None) for link in links]
            handles = [torrent.handle for torrent in transport._swarm._torrents.values()]

            async def limited_to(*bytes_per_s: int) -> None:
                async with asyncio.timeout(30):
                    while tuple(handle.download_limit() for handle in handles) != bytes_per_s:
                        await asyncio.sleep(0.05)

            async with in_part(transport, links[0], pins[0]):
                async with in_part(transport, links[1], pins[1]):
                    # Nobody reads on: both have come to where nothing more is asked for.
                    await limited_to(4 * 10**6, 4 * 10**6)
                    cluster.set(2 * 10**6)
                    await limited_to(10**6, 10**6)
                await limited_to(2 * 10**6, 10**6)


@asynccontextmanager
async def in_part(transport: TorrentTransport, link: Link, pin: Metadata) -> AsyncIterator[None]:
    """Be in the middle of a part."""
    async with transport.open_range(link, pin=pin, first_byte=0, end_byte=PART, checksum_tells=False) as body:
        await anext(body)
        yield


async def test_a_lease_at_a_pace(side: Side, shared: Shared, tmp_path: Path) -> None:
    """The job's limit is the library's, and the file arrives."""
    with seeding(shared) as seeder:
        async with torrents(tmp_path, seeder.host_port) as transport:
            bench = Bench(side)
            bench.transports = Transports(side.client, torrents=transport)
            bench.paces = {"job:job_1": Pace(2 * 10**7)}
            order = await bench.order_of(shared.magnet(f"x.pe={seeder.host_port}", "so=1"))
            limits: set[int] = set()

            def look() -> None:
                limits.update(each.handle.download_limit() for each in transport._swarm._torrents.values())

            await bench.check(order, await bench.run(order, Control(on_part=look)), SIZE)
            assert limits == {2 * 10**7}


# --- the scratch disk ---


async def test_scratch_is_bounded(shared: Shared, tmp_path: Path) -> None:
    """A file that never fits is refused; one that does not fit now is asked for later, when what lingers has gone."""
    other = share(tmp_path / "seed", {"x.bin": content_bytes(5, 0, 10_000_000)})
    with seeding(shared) as seeder, seeding(other, host="127.0.0.2") as second:
        async with torrents(tmp_path / "s1", seeder.host_port, bytes_max=SIZE) as transport:
            url = shared.magnet(f"x.pe={seeder.host_port}", "so=1")
            pin = await transport.probe(Link(url), None)
            with pytest.raises(SourceTooLarge):
                await joined(opened(transport, url, pin, 0, 1))
        allow = (seeder.host_port, second.host_port)
        async with torrents(tmp_path / "s2", *allow, bytes_max=SIZE + 5_000_000) as transport:
            url_of_other = other.magnet(f"x.pe={second.host_port}")
            pin_of_other = await transport.probe(Link(url_of_other), None)
            async with opened(transport, url, pin, 0, SIZE) as body:
                await anext(body)
                with pytest.raises(AgentFull):
                    await joined(opened(transport, url_of_other, pin_of_other, 0, 1))
            with pytest.raises(AgentFull):
                await joined(opened(transport, url_of_other, pin_of_other, 0, 1))
            await asyncio.sleep(1.5)
            assert await joined(opened(transport, url_of_other, pin_of_other, 0, 1)) == content_bytes(5, 0, 1)


async def test_no_room_is_nothing_against_the_torrent(side: Side, shared: Shared, tmp_path: Path) -> None:
    """The lease ends at the first try, for another agent; the torrent is not taken for a host that refuses us."""
    other = share(tmp_path / "seed", {"x.bin": content_bytes(5, 0, PART)})
    with seeding(shared) as seeder, seeding(other, host="127.0.0.2") as second:
        allow = (seeder.host_port, second.host_port)
        async with torrents(tmp_path / "scratch", *allow, bytes_max=SIZE + PART) as transport:
            bench = Bench(side)
            bench.transports = Transports(side.client, torrents=transport)
            bench.gates = Gates(asyncio.get_running_loop().time)
            order = await bench.order_of(shared.magnet(f"x.pe={seeder.host_port}", "so=1"))
            host = host_of(order.pin.final_url)
            order = replace(order, grant=HostGrant(host=host, connections=4, version=1))
            url_of_other = other.magnet(f"x.pe={second.host_port}")
            pin_of_other = await transport.probe(Link(url_of_other), None)
            async with opened(transport, url_of_other, pin_of_other, 0, PART) as body:
                await anext(body)
                control = Control()
                error = await bench.fails(order, AgentFull, control)
            assert error.failure().of_agent
            assert "waiting to try again" not in control.doings
            assert [use.refused_ago_s for use in bench.gates.uses({host})] == [None]
            if control.session is not None:
                await bench.abort(control)


async def test_as_many_torrents_as_there_may_be(shared: Shared, tmp_path: Path) -> None:
    """One more is another agent's; one that only lingers makes way."""
    other = share(tmp_path / "seed", {"x.bin": content_bytes(5, 0, PART)})
    with seeding(shared) as seeder, seeding(other, host="127.0.0.2") as second:
        allow = (seeder.host_port, second.host_port)
        async with torrents(tmp_path / "scratch", *allow, torrents_max=1) as transport:
            url = shared.magnet(f"x.pe={seeder.host_port}", "so=1")
            url_of_other = Link(other.magnet(f"x.pe={second.host_port}"))
            pin = await transport.probe(Link(url), None)
            async with opened(transport, url, pin, 0, PART) as body:
                await anext(body)
                with pytest.raises(AgentFull):
                    await transport.probe(url_of_other, None)
            assert (await transport.probe(url_of_other, None)).size_bytes == PART


async def test_scratch_goes_when_nobody_uses_it(shared: Shared, tmp_path: Path) -> None:
    """A little after the last range."""
    with seeding(shared) as seeder:
        async with torrents(tmp_path, seeder.host_port, linger_s=0.1) as transport:
            url = shared.magnet(f"x.pe={seeder.host_port}", "so=1")
            pin = await transport.probe(Link(url), None)
            await joined(opened(transport, url, pin, 0, 1_000_000))
            assert on_disk(tmp_path) >= 1_000_000
            await all_given_back(transport, tmp_path)


async def test_a_disk_that_fails(shared: Shared, tmp_path: Path) -> None:
    """A directory that cannot be written to is this agent's fault, and told as that."""
    with seeding(shared) as seeder:
        blocked = tmp_path / "blocked"
        blocked.write_text("no directory")
        async with torrents(blocked, seeder.host_port) as transport:
            with pytest.raises(Internal, match="scratch"):
                await transport.probe(Link(shared.magnet(f"x.pe={seeder.host_port}", "so=1")), None)


# --- where it leads ---


@asynccontextmanager
async def canary(host: str) -> AsyncIterator[tuple[int, list[object]]]:
    """Listen where nobody may come; give the port, and who came."""
    came: list[object] = []

    def note(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer.get_extra_info("peername"))
        writer.close()

    async with await asyncio.start_server(note, host, 0) as server:
        yield server.sockets[0].getsockname()[1], came


class _GuardWithoutFilter(AddressGuard):
    """What is left when the library's own filter knows nothing."""

    def networks(self) -> Any:
        return iter(())


@pytest.mark.parametrize(("guard", "is_met"), [(AddressGuard, False), (_GuardWithoutFilter, False), (NoGuard, True)])
async def test_denied_addresses_are_never_connected_to(
    shared: Shared, tmp_path: Path, guard: type[AddressGuard], *, is_met: bool
) -> None:
    """Not as peers that a tracker tells of, not on another port of an allowed machine, not by the name of a tracker.

    With the guard switched off the same canaries are met: they would have been heard.
    """
    meter = Meter()
    with seeding(shared) as seeder:
        async with (
            tracking() as tracker,
            canary("127.0.0.3") as far,
            canary("127.0.0.5") as near,
            canary("127.0.0.1") as named,
        ):
            tracker.peers = [("127.0.0.3", far[0]), ("127.0.0.5", near[0])]
            allow = (seeder.host_port, f"127.0.0.1:{tracker.port}", "127.0.0.5:9999")
            url = shared.magnet(
                f"x.pe={seeder.host_port}",
                f"x.pe=127.0.0.3:{far[0]}",
                f"tr={tracker.url}",
                f"tr=http://localhost:{named[0]}/announce",
                "so=1",
            )
            async with torrents(tmp_path, *allow, guard=guard, meter=meter) as transport:
                pin = await transport.probe(Link(url), None)
                await joined(opened(transport, url, pin, 0, PART))
                ends_s = time.monotonic() + 5
                while time.monotonic() < ends_s and not (tracker.requests and denied(meter)) and not is_met:
                    await asyncio.sleep(0.05)
                await asyncio.sleep(0.7)
                while is_met and not (far[1] and near[1] and named[1]) and time.monotonic() < ends_s:
                    await asyncio.sleep(0.05)
            assert tracker.requests, "the tracker was asked, and told of the canaries"
            assert [bool(came) for _, came in (far, near, named)] == [is_met] * 3
            assert bool(denied(meter)) is not is_met


def hearing() -> set[tuple[str, int, int]]:
    """Return address, port and kind of each socket of this process that takes what anybody sends."""
    # Its types know no sockets that are not connected.
    sockets: list[Any] = psutil.Process().net_connections()
    return {(found.laddr.ip, found.laddr.port, found.type) for found in sockets if not found.raddr}


async def test_nobody_hears_strangers(shared: Shared, tmp_path: Path) -> None:
    """The library listens nowhere, its datagram socket hears loopback alone, the proxy nobody without the password."""
    with seeding(shared) as seeder:
        before = hearing()
        async with torrents(tmp_path, seeder.host_port) as transport:
            url = shared.magnet(f"x.pe={seeder.host_port}", "so=1")
            await transport.probe(Link(url), None)
            ((host, port, kind),) = hearing() - before
            assert (host, kind) == ("127.0.0.1", socket.SOCK_STREAM)
            for greeting in (b"\x05\x01\x00", b"\x05\x01\x02\x01\x07rayhaul\x05wrong\x05\x01\x00\x01"):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(greeting + b"\x7f\x00\x00\x01" + seeder.port.to_bytes(2))
                answer = await asyncio.wait_for(reader.read(), 5)
                writer.close()
                assert b"\x05\x00\x00\x01" not in answer


async def test_where_nobody_may_be_asked(shared: Shared, tmp_path: Path) -> None:
    """A link of which the guard leaves nothing is refused before anything begins."""
    async with torrents(tmp_path) as transport:
        for fields in (
            ["x.pe=127.0.0.1:5000"],
            ["tr=http://169.254.169.254/announce"],
            ["tr=http://10.0.0.1:80/announce"],
        ):
            with pytest.raises(EgressDenied):
                await transport.probe(Link(shared.magnet(*fields)), None)
        with pytest.raises(InvalidRequest):
            await transport.probe(Link(shared.magnet()), None)
        assert transport._swarm._session is None


# --- up to the bucket ---


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def side(store: Seaweed) -> AsyncIterator[Side]:
    async with running(store.settings, allow=("127.0.0.1/32",)) as side:
        yield side


async def test_a_lease_of_a_magnet_link(side: Side, shared: Shared, tmp_path: Path) -> None:
    """In parts over several connections the object is the file; its neighbours are left alone."""
    with seeding(shared) as seeder:
        async with torrents(tmp_path, seeder.host_port) as transport:
            bench = Bench(side)
            bench.transports = Transports(side.client, torrents=transport)
            order = await bench.order_of(shared.magnet(f"x.pe={seeder.host_port}", f"so={INDEX}"))
            control = Control()
            result = await bench.run(order, control)
            await bench.check(order, result, SIZE)
            assert (result.parts_count, control.bytes_done) == (4, SIZE)
            assert seeder.sent_bytes <= SIZE + 2 * PIECE


@dataclass(slots=True)
class Described:
    """A web server that serves one document under every path."""

    document: bytes = b""
    media_type: str = "application/x-bittorrent"
    port: int = 0
    asked_count: int = 0

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked_count += 1
        return web.Response(body=self.document, content_type=self.media_type)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


@pytest_asyncio.fixture(loop_scope="module")
async def described() -> AsyncIterator[Described]:
    described = Described()
    app = web.Application()
    app.router.add_get("/{tail:.*}", described.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    described.port = runner.addresses[0][1]
    yield described
    await runner.cleanup()


async def test_a_disk_that_is_full_in_the_middle(side: Side, tmp_path: Path) -> None:
    """Others take the room that there was: the lease ends, nothing is left there, and with room it is done."""
    size = 12 * PART
    large = share(tmp_path / "seed", {"file.bin": content_bytes(7, 0, size)})
    with mounted(tmp_path / "disk", "size=96m") as disk, seeding(large) as seeder:
        ballast = disk / "somebody else's"

        def fill() -> None:
            with suppress(OSError), ballast.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(64 * 1024))

        async with torrents(disk / "scratch", seeder.host_port) as transport:
            bench = Bench(side)
            bench.transports = Transports(side.client, torrents=transport)
            order = await bench.order_of(large.magnet(f"x.pe={seeder.host_port}"))
            control = Control(on_part=fill)
            error = await bench.fails(order, AgentFull, control)
            assert (error.message, error.retryable) == ("The scratch disk of this agent has no room now.", True)
            assert (error.retry_after_s or 0) > 0
            assert control.parts, "it was in the middle"
            await all_given_back(transport, disk / "scratch")

            ballast.unlink()
            again = Control()
            order = replace(order, session=control.session, parts_done=tuple(control.parts))
            await bench.check(order, await bench.run(order, again), size)
            assert len(again.parts) < 12, "what was in the bucket by then is not fetched again"


@asynccontextmanager
async def seeded(
    described: Described, directory: Path
) -> AsyncIterator[tuple[Shared, Tracker, Seeder, tuple[str, str]]]:
    """Give a torrent of one file, described to whoever asks, its tracker and seeder, and whom a guard must let pass."""
    async with tracking() as tracker:
        single = share(directory / "seed", {"only.bin": content_bytes(7, 0, SIZE)}, tracker=tracker.url)
        described.document = single.document
        with seeding(single) as seeder:
            tracker.peers = [(seeder.host, seeder.port)]
            yield single, tracker, seeder, (seeder.host_port, f"127.0.0.1:{tracker.port}")


async def test_a_lease_of_a_torrent_document(side: Side, described: Described, tmp_path: Path) -> None:
    """Known by its type or its ending, read as what it describes, once a process; peers come from its tracker."""
    async with seeded(described, tmp_path) as (single, tracker, _, allow):
        async with torrents(tmp_path / "scratch", *allow) as transport:
            bench = Bench(side)
            bench.transports = Transports(side.client, torrents=transport)
            order = await bench.order_of(described.url("file"))
            assert (order.pin.filename, order.pin.described_by) == ("only.bin", f"urn:btih:{single.info_hash}")
            asked_count = described.asked_count
            await bench.check(order, await bench.run(order), SIZE)
            assert described.asked_count == asked_count

            described.media_type = "text/plain"
            assert (await bench.order_of(described.url("a.torrent#so=0"))).pin.described_by is not None
            assert (await bench.order_of(described.url("a.txt"))).pin.described_by is None
            with pytest.raises(SourceRefused, match="no file 1"):
                await bench.order_of(described.url("a.torrent#so=1"))

            other = share(tmp_path / "other", {"only.bin": content_bytes(8, 0, SIZE)}, tracker=tracker.url)
            described.document = other.document
            await bench.sink.delete(order.key)
            bench.transports = Transports(side.client, torrents=transport)
            await bench.fails(order, SourceChanged)


async def test_seeds_that_hung_up_are_asked_again(side: Side, described: Described, tmp_path: Path) -> None:
    """They do so while nothing is wanted: between the look, which needs none of them, and the lease."""
    async with seeded(described, tmp_path) as (_, tracker, seeder, allow):
        async with torrents(tmp_path / "scratch", *allow) as transport:
            bench = Bench(side)
            bench.transports = Transports(side.client, torrents=transport)
            order = await bench.order_of(described.url("file"))
            # By then the seed has come and gone, and is counted among those that are not worth a connection.
            await asyncio.sleep(3)
            assert tracker.requests
            async with asyncio.timeout(30):
                while seeder.handle.status().num_peers:
                    await asyncio.sleep(0.1)
            await bench.check(order, await bench.run(order), SIZE)


async def test_documents_that_are_none(
    side: Side, shared: Shared, described: Described, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused for good, as they are all without the library; switched off, a .torrent is a file like any other."""
    async with torrents(tmp_path / "scratch") as transport:
        bench = Bench(side)
        bench.transports = Transports(side.client, torrents=transport)
        for document in (b"no torrent", b"d4:infod6:lengthi5eee", share(tmp_path / "seed", {"x": b"x"}).document):
            described.document = document
            with pytest.raises(SourceRefused):
                await bench.order_of(described.url("a.torrent"))
        bench.transports = Transports(side.client, lacks_torrents=True)
        monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "libtorrent" else object())
        for refused in (described.url("a.torrent"), shared.magnet()):
            with pytest.raises(SourceRefused, match=r"pip install 'rayhaul\[torrent\]'"):
                await bench.order_of(refused)
        bench.transports = Transports(side.client)
        assert (await bench.order_of(described.url("a.torrent"))).pin.size_bytes == len(described.document)


async def test_a_job(store: Seaweed, shared: Shared, tmp_path: Path) -> None:
    """Through the API: completed, and no answer tells of whom the link had us ask."""
    settings = quick_settings(store.settings, sources=SourcesSettings(torrent_scratch=str(tmp_path / "scratch")))
    with seeding(shared) as seeder:
        async with running_service(tmp_path, settings, agents=1) as service:
            async with AsyncClient(service.url, service.alice) as alice:
                url = shared.magnet(f"x.pe={seeder.host_port}", "tr=http%3A%2F%2F127.0.0.1%3A1025%2Fpa55key", "so=1")
                done: Any = await alice.wait((await alice.submit(url)).id, timeout_s=60)
                assert (done.result.size_bytes, done.filename) == (SIZE, "file.bin")
                told = done.model_dump_json()
                assert shared.info_hash in told
                assert "pa55key" not in told


async def test_several_files_are_one_command(store: Seaweed, shared: Shared, tmp_path: Path) -> None:
    """The command line asks for a job for each file that the link selects; the API itself takes one number."""
    settings = quick_settings(store.settings, sources=SourcesSettings(torrent_scratch=str(tmp_path / "scratch")))
    with seeding(shared) as seeder:
        async with running_service(tmp_path, settings, agents=1) as service:
            environ = {**bare_environ(tmp_path), "RAYHAUL_URL": service.url, "RAYHAUL_API_KEY": service.alice}
            url = shared.magnet("so=0%2C2-2", f"x.pe={seeder.host_port}")
            ran = await called(environ, "get", url, "--json")
            assert ran.code == 0, ran.stderr
            found = [(job["filename"], job["result"]["sizeBytes"]) for job in json.loads(ran.stdout)["jobs"]]
            assert found == [("a.bin", BEFORE), ("c.bin", AFTER)]
            wrong = await called(environ, "get", shared.magnet("so=2-1", f"x.pe={seeder.host_port}"))
            assert (wrong.code, wrong.stdout) == (2, "")
            assert "so= has a range of files that ends before it begins." in wrong.stderr
            one = await called(environ, "get", url, "-o", "key")
            assert (one.code, "give one URL" in one.stderr) == (2, True)
            async with AsyncClient(service.url, service.alice) as alice:
                assert len((await alice.list()).jobs) == 2
                with pytest.raises(BadRequest):
                    await alice.submit(url)
