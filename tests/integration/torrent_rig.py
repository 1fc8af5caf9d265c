"""Torrents under test: a transport of its own scratch and guard for each test, and how ranges are read from it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from rayhaul.job import Metadata
from rayhaul.metrics import EGRESS_DENIED, Meter
from rayhaul.settings import EgressSettings, SourceSettings
from tasks.dialing import Dialer
from tasks.guard import AddressGuard
from tasks.links import Link
from tasks.scratch import Scratch
from tasks.swarm import Swarm
from tasks.torrent_proxy import TorrentProxy
from tasks.torrent_source import TorrentTransport


@asynccontextmanager
async def torrents(
    scratch: Path,
    *allow: str,
    bytes_max: int = 10**9,
    linger_s: float = 60,
    torrents_max: int = 64,
    meter: Meter | None = None,
    guard: Callable[[EgressSettings], AddressGuard] = AddressGuard,
    **limits: float,
) -> AsyncIterator[TorrentTransport]:
    egress = EgressSettings(allow=allow)
    # On a busy machine the library takes seconds to come to a seeder, and asks a tracker again only after many more.
    source = SourceSettings().model_copy(update={"stall_timeout_s": 20, "probe_timeout_s": 30, **limits})
    dialer = Dialer(guard(egress), egress, source, slots=asyncio.Semaphore(8), meter=meter or Meter())
    proxy = TorrentProxy(dialer, tracker_ports=egress.ports)
    disk = Scratch(scratch, bytes_max, free_bytes_min=0)
    swarm = Swarm(dialer.guard, proxy, disk, linger_s=linger_s, torrents_max=torrents_max)
    transport = TorrentTransport(dialer, swarm, tracker_ports=egress.ports)
    try:
        yield transport
    finally:
        await transport.aclose()
        assert on_disk(scratch) == 0, "nothing is left on the disk"


def opened(
    transport: TorrentTransport, url: str, pin: Metadata, first: int, end: int
) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
    return transport.open_range(Link(url), pin=pin, first_byte=first, end_byte=end, checksum_tells=False)


def on_disk(scratch: Path) -> int:
    """Return how many bytes of torrents lie there."""
    return sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())


async def all_given_back(transport: TorrentTransport, scratch: Path) -> None:
    """Wait until no torrent has anything on the disk, or room reserved there. Raises: TimeoutError.

    The files go before the room is free again: a wait for one of both alone may see the other one still there.
    """
    async with asyncio.timeout(30):
        while on_disk(scratch) or transport._swarm.scratch.reserved_bytes:
            await asyncio.sleep(0.05)


class NoGuard(AddressGuard):
    def check_address(self, *_where: object, **_how: object) -> None:
        """Deny nothing."""

    def networks(self) -> Any:
        return iter(())


def denied(meter: Meter) -> float:
    return sum(count for (name, _), count in meter.snapshot().counters.items() if name == EGRESS_DENIED.name)
