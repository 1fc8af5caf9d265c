"""One torrent of a process: who waits for which of its pieces, and what it means where none come.

Laws of this file:
1. Nothing is fetched but the pieces that somebody asked for.
2. No piece is given whose hash was not compared: by the library when it came, and, where there are SHA-1 hashes, once
   more when it is read from the disk.
3. What the library tells of a torrent is turned into our errors in `tell`, and nowhere else.
"""

import asyncio
import errno
import hashlib
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import libtorrent as lt

from rayhaul.errors import (
    ChecksumMismatch,
    Internal,
    RayhaulError,
    SourceFailed,
    SourceStalled,
    SourceUnreachable,
)
from rayhaul.policy.rates import Reader
from tasks.hashing import hashed
from tasks.magnet import TRACKERS_MAX, Magnet
from tasks.pace import Line, Pace, bytes_per_s_of
from tasks.scratch import no_room

_log = logging.getLogger(__name__)

#: Pieces that are wanted next come first; each one further on has that much more time.
_DEADLINE_STEP_MS = 200
#: However slowly a torrent may be read, a piece for each who reads comes within this.
_PIECE_S_MAX = 15
#: Somebody else has what was free when it was looked at.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Torrent:
    """One torrent of the session. What it does happens on the loop, but for the library's own threads."""

    def __init__(
        self, magnet: Magnet, handle: lt.torrent_handle, directory: Path, *, clock: Callable[[], float]
    ) -> None:
        self.name = magnet.info_hash.name
        self.handle = handle
        self.directory = directory
        self.info: lt.torrent_info | None = None
        self.trackers = set(magnet.trackers)
        self.users_count = 0
        self.has_peers = False
        self._clock = clock
        self.left_s: float = clock()
        #: When bytes last came, of whatever piece.
        self.moved_s: float = clock()
        self._bytes_count = 0
        self._has_met_peers = False
        self._hash_failures_count = 0
        self._told = asyncio.Event()
        self._error: RayhaulError | None = None
        self._wanted: dict[int, asyncio.Future[bytes]] = {}
        #: Of those who read now, a line each; None: at no pace.
        self._lines: list[Line | None] = []
        #: As the library was told; 0: none.
        self._limit_bytes_per_s = 0
        #: Of the paces at which others are read as well, as was told last; None: there are none.
        self._share_bytes_per_s: int | None = None
        self._bytes_per_s = 0

    async def known(self) -> lt.torrent_info:
        """Return what the torrent consists of, once a peer has told it. Raises: RayhaulError."""
        await self._told.wait()
        self._check()
        if self.info is None:
            self.info = await asyncio.to_thread(self.handle.torrent_file)
        if self.info is None:
            raise SourceFailed("The torrent cannot be read.")
        return self.info

    async def piece(self, index: int) -> bytes:
        """Return a piece whose hash is right. Raises: RayhaulError."""
        self._check()
        found = self._wanted.get(index)
        if found is None:
            found = self._wanted[index] = asyncio.get_running_loop().create_future()
            # Nobody may be left to hear of a failure.
            found.add_done_callback(lambda done: done.cancelled() or done.exception())
            self.handle.set_piece_deadline(index, 0, lt.deadline_flags_t.alert_when_available)
        # Others may wait for the same piece.
        data = await asyncio.shield(found)
        await self._check_hash(index, data)
        return data

    def hurry(self, pieces: range) -> None:
        """Have pieces fetched that will be asked for next. Raises: RayhaulError."""
        self._check()
        for distance, index in enumerate(pieces, 1):
            if index not in self._wanted:
                self.handle.set_piece_deadline(index, distance * _DEADLINE_STEP_MS, 0)

    @contextmanager
    def read_in(self, line: Line | None) -> Iterator[None]:
        """Have pieces fetched no faster than they may be read, for the time of the block; what they are is known."""
        self._lines.append(line)
        self.keep_pace(self._share_bytes_per_s)
        try:
            yield
        finally:
            self._lines.remove(line)
            self.keep_pace(self._share_bytes_per_s)

    def keep_pace(self, share_bytes_per_s: int | None) -> None:
        """Tell the library how fast the torrent may be read by now. While nobody reads, what was told last holds."""
        if not self._lines or self.has_failed or self.info is None:
            return
        self._share_bytes_per_s = share_bytes_per_s
        lines = [line for line in self._lines if line is not None]
        bytes_per_s = None if len(lines) < len(self._lines) else bytes_per_s_of(lines)
        if bytes_per_s is not None and share_bytes_per_s is not None:
            bytes_per_s = min(bytes_per_s, share_bytes_per_s)
        # No byte of a piece is given before all of it is there: with less, readers would seem to be stuck.
        least = len(self._lines) * self.info.piece_length() // _PIECE_S_MAX
        limit = 0 if bytes_per_s is None else max(1, least, bytes_per_s)
        if limit != self._limit_bytes_per_s:
            self._limit_bytes_per_s = limit
            self.handle.set_download_limit(limit)

    @property
    def paces(self) -> Collection[Pace]:
        """Those that hold for all who read it now."""
        each = [() if line is None else line.paces for line in self._lines]
        return set(each[0]).intersection(*each[1:]) if each else ()

    @property
    def reader(self) -> Reader:
        """What it is among others that are read at the same pace."""
        return Reader(len(set(self._lines)), granted=self._limit_bytes_per_s, used=self._bytes_per_s)

    @property
    def is_alone(self) -> bool:
        """Whether pieces are wanted, and there is nobody to send them."""
        return bool(self._wanted) and not self.has_peers

    def silence(self) -> RayhaulError:
        """Return what it means that nothing comes."""
        if self._hash_failures_count:
            return ChecksumMismatch("What the peers of the torrent send does not have its hashes.")
        if not self._has_met_peers:
            return SourceUnreachable("No peer of the torrent could be reached.")
        return SourceStalled("The peers of the torrent send nothing.")

    def fail(self, error: RayhaulError) -> None:
        self._error = self._error or error
        self._told.set()
        for wanted in self._wanted.values():
            if not wanted.done():
                wanted.set_exception(self._error)
        self._wanted.clear()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    # --- what the library tells ---

    def told(self, *, by_peer: bool = False) -> None:
        self.moved_s = self._clock()
        self._has_met_peers = self._has_met_peers or by_peer
        self._told.set()

    def read(self, index: int, data: bytes, problem: str) -> None:
        wanted = self._wanted.pop(index, None)
        if wanted is None or wanted.done():
            return
        if problem:
            wanted.set_exception(SourceFailed(f"A piece of the torrent could not be read: {problem}."))
        else:
            self._has_met_peers = True
            wanted.set_result(data)

    def updated(self, status: lt.torrent_status) -> None:
        self.has_peers = status.num_peers > 0
        self._has_met_peers = self._has_met_peers or self.has_peers
        self._bytes_per_s = status.download_payload_rate
        if status.total_payload_download != self._bytes_count:
            self._bytes_count = status.total_payload_download
            self.moved_s = self._clock()

    def hash_failed(self) -> None:
        self._hash_failures_count += 1

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _check_hash(self, index: int, data: bytes) -> None:
        info = self.info
        if info is None or not info.info_hashes().has_v1():
            return
        digest = await hashed(lambda: hashlib.sha1(data, usedforsecurity=False).digest())
        if digest != info.hash_for_piece(index):
            raise ChecksumMismatch("A piece of the torrent is not on the scratch disk as it came.")


def tell(torrent: Torrent, alert: lt.torrent_alert) -> None:
    """Pass on what is said of a torrent; what goes wrong there is classified here."""
    if isinstance(alert, lt.read_piece_alert):
        problem = alert.error.message() if alert.error.value() else ""
        torrent.read(alert.piece, b"" if problem else alert.buffer, problem)
    elif isinstance(alert, lt.metadata_received_alert):
        torrent.told(by_peer=True)
    elif isinstance(alert, lt.hash_failed_alert):
        torrent.hash_failed()
    elif isinstance(alert, lt.file_error_alert):
        # It is told of each block that was on its way.
        if not torrent.has_failed:
            _log.error("scratch disk: %s", alert.error.message())
        if alert.error.value() in _FULL:
            torrent.fail(no_room())
        torrent.fail(Internal(f"The scratch disk of this agent failed: {alert.error.message()}."))
    elif isinstance(alert, lt.torrent_conflict_alert):
        torrent.fail(SourceFailed("The torrent is read by another of its hashes already."))
    elif isinstance(alert, lt.torrent_error_alert):
        torrent.fail(SourceFailed(f"The torrent cannot be read: {alert.error.message()}."))


def introduce(torrent: Torrent, magnet: Magnet) -> None:
    """Have a torrent that is known already ask whom this link names, too."""
    for url in magnet.trackers:
        if url not in torrent.trackers and len(torrent.trackers) < TRACKERS_MAX:
            torrent.trackers.add(url)
            torrent.handle.add_tracker({"url": url})
    if not torrent.has_peers:
        for peer in magnet.peers:
            torrent.handle.connect_peer(peer)
        torrent.handle.force_reannounce()
