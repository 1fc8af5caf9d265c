"""The torrents of one process: begun when somebody wants one, and gone when nobody has for a while.

Laws of this file:
1. What a torrent has on the disk was reserved first. It goes when nobody has used it for `_LINGER_S`: a second try of a
   part, or of a lease, finds what the first one left. What has failed goes at once.
2. The library's own thread is never waited for on the loop; what it tells is heard through a socket.
"""

import asyncio
import errno
import itertools
import shutil
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import libtorrent as lt

from rayhaul.errors import AgentFull, Internal, SourceFailed, SourceStalled
from rayhaul.policy.rates import Reader, shares
from tasks.guard import AddressGuard
from tasks.magnet import Magnet
from tasks.pace import Pace
from tasks.scratch import Scratch
from tasks.torrent_pieces import Torrent, introduce, tell
from tasks.torrent_proxy import TorrentProxy
from tasks.torrent_session import begun, consider_again, dressed, parsed

#: Torrents of one process, those that linger included.
_TORRENTS_MAX = 64
_LINGER_S = 60.0
_TICK_S = 0.5


class Swarm:
    """One per process, for the loop that first joins a torrent."""

    def __init__(
        self,
        guard: AddressGuard,
        proxy: TorrentProxy,
        scratch: Scratch,
        *,
        linger_s: float = _LINGER_S,
        torrents_max: int = _TORRENTS_MAX,
    ) -> None:
        self.scratch = scratch
        self._guard = guard
        self._proxy = proxy
        self._linger_s = linger_s
        self._torrents_max = torrents_max
        self._session: lt.session | None = None
        self._bell: socket.socket | None = None
        self._ringer: socket.socket | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._torrents: dict[str, Torrent] = {}
        self._changing = asyncio.Lock()
        #: What is told of a torrent may come before it is known here: it waits, and so does all else.
        self._is_adding = False
        #: The library had no way for datagrams when it wanted to ask them, and would wait the longer each time.
        self._has_unasked_trackers = False

    async def aclose(self) -> None:
        async with self._changing:
            for torrent in self._torrents.values():
                torrent.fail(Internal("This agent ends."))
            self._torrents.clear()
            if self._ticking is not None:
                self._ticking.cancel()
                await asyncio.gather(self._ticking, return_exceptions=True)
            if self._session is not None and self._bell is not None and self._ringer is not None:
                asyncio.get_running_loop().remove_reader(self._bell.fileno())
                # The proxy first, so that nobody is waited for; then the last reference: its end waits for threads.
                await self._proxy.aclose()
                ending, self._session = [self._session], None
                await asyncio.to_thread(ending.clear)
                self._bell.close()
                self._ringer.close()
            await self._proxy.aclose()
            await asyncio.to_thread(self.scratch.end)

    @asynccontextmanager
    async def joined(self, magnet: Magnet, document: bytes | None = None) -> AsyncIterator[Torrent]:
        """Give the torrent of a link, which nobody takes away meanwhile; `document`: the .torrent, where there is one.

        Raises: RayhaulError.
        """
        async with self._changing:
            finding = asyncio.ensure_future(self._found(magnet, document))
            try:
                torrent = await asyncio.shield(finding)
            except asyncio.CancelledError:
                # What the library has by then must not be in nobody's hands.
                await asyncio.gather(finding, return_exceptions=True)
                raise
            torrent.users_count += 1
        try:
            yield torrent
        finally:
            torrent.users_count -= 1
            torrent.left_s = asyncio.get_running_loop().time()

    def reserve(self, torrent: Torrent, index: int, bytes_count: int) -> None:
        """Have room for a file of a torrent. Raises: SourceTooLarge; AgentFull."""
        try:
            self.scratch.reserve(torrent.name, index, bytes_count)
        except AgentFull:
            # What lingers gives way, with the next tick.
            for idle in self._torrents.values():
                if not idle.users_count:
                    idle.left_s = -self._linger_s
            raise

    async def _found(self, magnet: Magnet, document: bytes | None) -> Torrent:
        session = await self._begun()
        name = magnet.info_hash.name
        torrent = self._torrents.get(name)
        if torrent is not None and torrent.has_failed:
            await self._remove(torrent)
            torrent = None
        if torrent is not None:
            introduce(torrent, magnet)
            return torrent
        if len(self._torrents) >= self._torrents_max:
            await self._make_way()
        params = lt.add_torrent_params() if document is None else await asyncio.to_thread(parsed, document)
        directory = await asyncio.to_thread(self.scratch.directory, name)
        self._is_adding = True
        try:
            handle = await asyncio.to_thread(session.add_torrent, dressed(params, magnet, directory))
            torrent = self._torrents[name] = Torrent(magnet, handle, directory, clock=asyncio.get_running_loop().time)
        except RuntimeError as error:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            raise SourceFailed("The torrent cannot be opened.") from error
        finally:
            self._is_adding = False
        if document is not None:
            torrent.told()
        return torrent

    async def _make_way(self) -> None:
        """Let the torrent go that has lingered the longest. Raises: AgentFull where all are in use."""
        idle = [torrent for torrent in self._torrents.values() if not torrent.users_count]
        if not idle:
            raise AgentFull("This agent reads as many torrents as it may.", retry_after_s=self._linger_s)
        await self._remove(min(idle, key=lambda torrent: torrent.left_s))

    async def _remove(self, torrent: Torrent) -> None:
        assert self._session is not None
        self._torrents.pop(torrent.name, None)
        torrent.fail(SourceStalled("The torrent was given up."))
        with suppress(RuntimeError):
            await asyncio.to_thread(self._session.remove_torrent, torrent.handle, lt.session.delete_files)
        await asyncio.to_thread(shutil.rmtree, torrent.directory, ignore_errors=True)
        self.scratch.release(torrent.name)

    async def _begun(self) -> lt.session:
        if self._session is not None:
            return self._session
        await self._proxy.open()
        loop = asyncio.get_running_loop()
        session = self._session = await asyncio.to_thread(begun, self._proxy, self._guard)
        self._bell, self._ringer = socket.socketpair()
        self._bell.settimeout(0)
        self._ringer.settimeout(0)
        session.set_alert_fd(self._ringer.fileno())
        loop.add_reader(self._bell.fileno(), self._hear)
        self._ticking = loop.create_task(self._tick())
        await self._proxy.ready()
        return session

    async def _tick(self) -> None:
        """Ask how the torrents are, and let go those that nobody has used for a while."""
        loop = asyncio.get_running_loop()
        for turn in itertools.count():
            await asyncio.sleep(_TICK_S)
            self._hear()
            async with self._changing:
                self._keep_paces()
                for torrent in [*self._torrents.values()]:
                    has_lingered = loop.time() - torrent.left_s >= self._linger_s
                    if not torrent.users_count and (torrent.has_failed or has_lingered):
                        await self._remove(torrent)
                if self._has_unasked_trackers:
                    self._has_unasked_trackers = False
                    for torrent in self._torrents.values():
                        torrent.handle.force_reannounce()
                if self._torrents and self._session is not None:
                    alone = [torrent.handle for torrent in self._torrents.values() if torrent.is_alone]
                    if alone:
                        consider_again(self._session, alone, turn)
                    self._session.post_torrent_updates()

    def _keep_paces(self) -> None:
        """Have the torrents that are read at the same pace fetched no faster together than it is."""
        torrents = self._torrents.values()
        readers: defaultdict[Pace, dict[str, Reader]] = defaultdict(dict)
        for torrent in torrents:
            for pace in torrent.paces:
                readers[pace][torrent.name] = torrent.reader
        granted = {pace: shares(pace.bytes_per_s, those) for pace, those in readers.items()}
        for torrent in torrents:
            torrent.keep_pace(min((granted[pace][torrent.name] for pace in torrent.paces), default=None))

    # --- what the library tells ---

    def _hear(self) -> None:
        if self._session is None or self._bell is None:
            return
        with suppress(BlockingIOError):
            while self._bell.recv(4096):
                pass
        if self._is_adding:
            return
        for alert in self._session.pop_alerts():
            if isinstance(alert, lt.tracker_error_alert):
                # No tracker can say this one.
                is_own = alert.error.category().name() in {"generic", "system"} and alert.error.value() == errno.EACCES
                self._has_unasked_trackers = self._has_unasked_trackers or is_own
            elif isinstance(alert, lt.state_update_alert):
                for status in alert.status:
                    if (torrent := self._of(status.handle)) is not None:
                        torrent.updated(status)
            elif isinstance(alert, lt.torrent_alert) and (torrent := self._of(alert.handle)) is not None:
                tell(torrent, alert)

    def _of(self, handle: lt.torrent_handle) -> Torrent | None:
        return next((torrent for torrent in self._torrents.values() if torrent.handle == handle), None)
