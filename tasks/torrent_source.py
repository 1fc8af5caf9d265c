"""BitTorrent as a transport: `magnet:` links, and .torrent documents behind http(s) URLs.

Laws of this file:
1. The info-hash and the file's number in it are the version: what is given was compared with hashes that hang on them.
2. One job is one file. A torrent of several is refused until one is named; the answer lists them.
3. Only the pieces of the range that is asked for are fetched, the next ones first.
4. Who is asked is chosen in `magnet` and reached in `torrent_proxy`; what goes wrong is classified in `torrent_pieces`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import libtorrent as lt

from rayhaul.errors import SourceChanged, SourceRefused, SourceTimeout
from rayhaul.job import Metadata
from rayhaul.policy.naming import clean
from rayhaul.settings import EgressSettings
from tasks.bodies import CountedBody
from tasks.dialing import Dialer
from tasks.documents import read_document
from tasks.egress import GuardedClient
from tasks.http_transport import describes_torrent
from tasks.links import Link
from tasks.magnet import InfoHash, Magnet, allowed_trackers, file_index_of_fragment, shown
from tasks.pace import Line
from tasks.scratch import Scratch
from tasks.swarm import Swarm
from tasks.torrent_pieces import Torrent
from tasks.torrent_proxy import TorrentProxy
from tasks.torrent_session import DOCUMENT_BYTES_MAX, info_hash_of, parsed
from tasks.transport import Transport

_log = logging.getLogger(__name__)

#: A range holds one in memory.
_PIECE_BYTES_MAX = 32 * 1024 * 1024
#: What is asked for ahead of the piece that is waited for.
_AHEAD_BYTES = 16 * 1024 * 1024
_AHEAD_PIECES_MIN = 4
#: What is given at once: paces and uploads have room for that.
_GIVEN_BYTES = 1024 * 1024
#: How often a wait looks whether anything moves.
_LOOK_S = 0.25
_LISTED_MAX = 8
_LISTED_NAME_CHARACTERS = 60
#: Documents that are remembered by a process: each connection of a lease asks for its own.
_DOCUMENTS_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    index: int
    name: str
    #: Within all bytes of the torrent.
    begins_at: int
    size_bytes: int
    piece_bytes: int

    @classmethod
    def of(cls, info: lt.torrent_info, index: int | None) -> Self:
        """Raises: SourceRefused where that is no file, or it is not said which one."""
        layout = info.layout()
        chosen = index
        if chosen is None:
            files = [*_files(layout)]
            if len(files) != 1:
                raise SourceRefused(_listing(layout, files))
            chosen = files[0]
        elif chosen not in _files(layout):
            raise SourceRefused(f"The torrent has no file {index}. {_listing(layout, [*_files(layout)])}")
        if info.piece_length() > _PIECE_BYTES_MAX:
            raise SourceRefused(f"The torrent has pieces of more than {_PIECE_BYTES_MAX} bytes.")
        return cls(
            index=chosen,
            name=layout.file_name(chosen),
            begins_at=layout.file_offset(chosen),
            size_bytes=layout.file_size(chosen),
            piece_bytes=info.piece_length(),
        )

    def pieces(self, first_byte: int, end_byte: int) -> range:
        """Return the pieces that a range of the file lies in."""
        if first_byte >= end_byte:
            return range(0)
        return range(
            (self.begins_at + first_byte) // self.piece_bytes,
            (self.begins_at + end_byte - 1) // self.piece_bytes + 1,
        )

    @property
    def scratch_bytes(self) -> int:
        return len(self.pieces(0, self.size_bytes)) * self.piece_bytes


def _files(layout: lt.file_storage) -> Iterator[int]:
    """Yield the numbers of what is a file, and neither padding nor a link."""
    none = lt.file_storage.flag_pad_file | lt.file_storage.flag_symlink
    return (index for index in range(layout.num_files()) if not layout.file_flags(index) & none)


def _listing(layout: lt.file_storage, files: list[int]) -> str:
    listed = ", ".join(
        f"{index}: {clean(layout.file_name(index))[:_LISTED_NAME_CHARACTERS]} ({layout.file_size(index)} bytes)"
        for index in files[:_LISTED_MAX]
    )
    more = ", …" if len(files) > _LISTED_MAX else ""
    return (
        f"The torrent has {len(files)} files, and a job is one: add its number to the link, &so=N to a magnet link, "
        f"#so=N to the URL of a .torrent. {listed}{more}"
    )


class TorrentTransport:
    """Reads `magnet:` links. One per process."""

    def __init__(self, dialer: Dialer, swarm: Swarm, *, tracker_ports: tuple[int, ...]) -> None:
        self._dialer = dialer
        self._swarm = swarm
        self._tracker_ports = tracker_ports

    @classmethod
    def of(cls, dialer: Dialer, scratch: Path, scratch_bytes_max: int, egress: EgressSettings) -> Self:
        """Return one that has its directory below `scratch`; what was left there by ended processes goes."""
        disk = Scratch(scratch, scratch_bytes_max)
        try:
            disk.begin()
        except OSError as error:
            _log.warning("no scratch for torrents: %s", error)
        swarm = Swarm(dialer.guard, TorrentProxy(dialer, tracker_ports=egress.ports), disk)
        return cls(dialer, swarm, tracker_ports=egress.ports)

    async def aclose(self) -> None:
        await self._swarm.aclose()

    def magnet(self, url: str) -> Magnet:
        """Raises: InvalidRequest; EgressDenied."""
        return Magnet.parse(self._dialer.guard, url, tracker_ports=self._tracker_ports)

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        return await self.look(self.magnet(link.url), None, filename)

    def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        del checksum_tells  # Each piece has a hash.
        return self.opened(self.magnet(link.url), None, pin, first_byte, end_byte, line=link.line)

    def open_whole(self, link: Link, *, pin: Metadata) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self.opened(self.magnet(link.url), None, pin, 0, None, line=link.line)

    def magnet_of(self, document: bytes, url: str) -> Magnet:
        """Return what a .torrent says as a link would. Raises: SourceRefused; InvalidRequest."""
        params = parsed(document)
        trackers = allowed_trackers(self._dialer.guard, params.trackers, ports=self._tracker_ports)
        if not trackers:
            raise SourceRefused("The .torrent names no tracker that may be asked.")
        return Magnet(
            info_hash=info_hash_of(params), trackers=trackers, peers=(), file_index=file_index_of_fragment(url)
        )

    async def look(self, magnet: Magnet, document: bytes | None, filename: str | None) -> Metadata:
        """Return what the torrent says of the file. Raises: RayhaulError."""
        async with self._swarm.joined(magnet, document) as torrent:
            info = await self._info(torrent)
            file = _File.of(info, magnet.file_index)
            return Metadata(
                size_bytes=file.size_bytes,
                content_type=None,
                etag=_etag(magnet.info_hash, file.index),
                last_modified=None,
                rangeable=True,
                filename=clean(filename or "") or clean(file.name) or "download",
                final_url=shown(magnet.info_hash, file.index),
                fetch_ms=0,
            )

    @asynccontextmanager
    async def opened(
        self,
        magnet: Magnet,
        document: bytes | None,
        pin: Metadata,
        first_byte: int,
        end_byte: int | None,
        *,
        line: Line | None,
    ) -> AsyncIterator[CountedBody]:
        """Give the bytes of the pinned file up to `end_byte`; None: to its end. Raises: RayhaulError.

        `line`: where they wait for their pace; no more is fetched than passes there.
        """
        limits = self._dialer.source
        async with self._dialer.slots, self._swarm.joined(magnet, document) as torrent:
            file = _File.of(await self._info(torrent), magnet.file_index)
            if (_etag(magnet.info_hash, file.index), file.size_bytes) != (pin.etag, pin.size_bytes):
                raise SourceChanged
            self._swarm.reserve(torrent, file.index, file.scratch_bytes)
            ends_at = file.size_bytes if end_byte is None else end_byte
            reader = _Reader(torrent, file, first_byte, ends_at, stall_s=limits.stall_timeout_s)
            with torrent.read_in(line):
                yield CountedBody(
                    reader.read,
                    bytes_expected=ends_at - first_byte,
                    is_range=end_byte is not None,
                    finish=_nothing_more,
                    limits=limits,
                    meter=self._dialer.meter,
                )

    async def _info(self, torrent: Torrent) -> lt.torrent_info:
        """Raises: RayhaulError; SourceTimeout where no peer tells it in time."""
        try:
            async with asyncio.timeout(self._dialer.source.probe_timeout_s):
                return await torrent.known()
        except TimeoutError:
            raise SourceTimeout("No peer has told what the torrent consists of.") from None


class TorrentDocuments:
    """HTTP, but for .torrent documents: they are read as the file that they describe."""

    def __init__(self, client: GuardedClient, others: Transport, torrents: TorrentTransport) -> None:
        """`others` reads everything else."""
        self._client = client
        self._others = others
        self._torrents = torrents
        #: By URL, the first known being forgotten first.
        self._documents: dict[str, bytes] = {}

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        found = await self._others.probe(link, filename)
        if found.described_by is not None or not describes_torrent(found):
            return found
        document = await self._read(link)
        magnet = self._torrents.magnet_of(document, link.url)
        return replace(
            await self._torrents.look(magnet, document, filename), described_by=_described_by(magnet.info_hash)
        )

    @asynccontextmanager
    async def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if not _is_torrent(pin):
            async with self._others.open_range(
                link, pin=pin, first_byte=first_byte, end_byte=end_byte, checksum_tells=checksum_tells
            ) as body:
                yield body
            return
        magnet, document = await self._pinned(link, pin)
        async with self._torrents.opened(magnet, document, pin, first_byte, end_byte, line=link.line) as read:
            yield read

    @asynccontextmanager
    async def open_whole(self, link: Link, *, pin: Metadata) -> AsyncIterator[AsyncIterator[bytes]]:
        if not _is_torrent(pin):
            async with self._others.open_whole(link, pin=pin) as body:
                yield body
            return
        magnet, document = await self._pinned(link, pin)
        async with self._torrents.opened(magnet, document, pin, 0, None, line=link.line) as read:
            yield read

    async def _pinned(self, link: Link, pin: Metadata) -> tuple[Magnet, bytes]:
        """Return the document that was pinned, by what it describes. Raises: SourceError; EgressDenied."""
        document = self._documents.get(link.url) or await self._read(link)
        magnet = self._torrents.magnet_of(document, link.url)
        if _described_by(magnet.info_hash) != pin.described_by:
            self._documents.pop(link.url, None)
            raise SourceChanged("The .torrent has changed.")
        return magnet, document

    async def _read(self, link: Link) -> bytes:
        document = await read_document(self._client, link, bytes_max=DOCUMENT_BYTES_MAX, kind=".torrent")
        while len(self._documents) >= _DOCUMENTS_MAX:
            del self._documents[next(iter(self._documents))]
        self._documents[link.url] = document
        return document


class _Reader:
    """Reads a range of a file, piece by piece."""

    def __init__(self, torrent: Torrent, file: _File, first_byte: int, end_byte: int, *, stall_s: float) -> None:
        self._torrent = torrent
        self._file = file
        self._offset = first_byte
        self._end_byte = end_byte
        self._stall_s = stall_s
        self._rest = memoryview(b"")

    async def read(self) -> bytes:
        """Return the next bytes, none at the end. Raises: RayhaulError."""
        if not self._rest and self._offset < self._end_byte:
            self._rest = await self._next()
        given = bytes(self._rest[:_GIVEN_BYTES])
        self._rest = self._rest[_GIVEN_BYTES:]
        self._offset += len(given)
        return given

    async def _next(self) -> memoryview:
        """Return what the piece at the offset has of the range."""
        file = self._file
        wanted = file.pieces(self._offset, self._end_byte)
        ahead_count = max(_AHEAD_PIECES_MIN, _AHEAD_BYTES // file.piece_bytes)
        self._torrent.hurry(wanted[1 : 1 + ahead_count])
        piece = await self._waited(wanted[0])
        begins_at = file.begins_at + self._offset - wanted[0] * file.piece_bytes
        return memoryview(piece)[begins_at : begins_at + self._end_byte - self._offset]

    async def _waited(self, index: int) -> bytes:
        """Raises: RayhaulError; what the silence means where nothing at all comes for `stall_s`."""
        clock = asyncio.get_running_loop().time
        began_s = clock()
        asking = asyncio.ensure_future(self._torrent.piece(index))
        try:
            while True:
                await asyncio.wait([asking], timeout=min(_LOOK_S, self._stall_s))
                if asking.done():
                    return asking.result()
                if clock() - max(began_s, self._torrent.moved_s) >= self._stall_s:
                    raise self._torrent.silence()
        finally:
            asking.cancel()


async def _nothing_more() -> None:
    """What was read is what was pinned: its hashes were compared."""


def _etag(info_hash: InfoHash, index: int) -> str:
    return f'"{info_hash.name}/{index}"'


def _described_by(info_hash: InfoHash) -> str:
    return info_hash.urn


def _is_torrent(pin: Metadata) -> bool:
    return pin.described_by is not None and pin.described_by.startswith("urn:bt")
