"""HTTP(S) as a transport: the guarded client, the probe and the ranges behind the one seam."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit

from rayhaul.job import Metadata
from tasks import source
from tasks.egress import GuardedClient
from tasks.links import Link
from tasks.peeks import Peeks
from tasks.probe import ask

#: Of Metalink 4. Source: RFC 5854 8.1.
_MEDIA_TYPE = "application/metalink4+xml"
_SUFFIX = ".meta4"
_TORRENT_MEDIA_TYPE, _TORRENT_SUFFIX = "application/x-bittorrent", ".torrent"


def describes(found: Metadata) -> bool:
    """Return whether what was probed is no file, but a Metalink document that describes one."""
    media_type = (found.content_type or "").partition(";")[0].strip().lower()
    return media_type == _MEDIA_TYPE or urlsplit(found.final_url).path.lower().endswith(_SUFFIX)


def describes_torrent(found: Metadata) -> bool:
    """Return whether what was probed is no file, but a .torrent that describes some."""
    media_type = (found.content_type or "").partition(";")[0].strip().lower()
    return media_type == _TORRENT_MEDIA_TYPE or urlsplit(found.final_url).path.lower().endswith(_TORRENT_SUFFIX)


class HttpTransport:
    def __init__(self, client: GuardedClient, peeks: Peeks | None = None) -> None:
        """`peeks`: where small files wait that come along with looks; None: none come."""
        self._client = client
        self._peeks = peeks

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        if self._peeks is None or link.peek_for is None:
            found, _ = await ask(self._client, link.url, link.headers, filename)
            return found
        with self._peeks.room() as room_bytes:
            found, data = await ask(self._client, link.url, link.headers, filename, peek_bytes=room_bytes)
        if data is not None:
            self._peeks.keep(link.peek_for, found, data)
        return found

    def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return source.open_range(
            self._client,
            url=link.url,
            headers=link.headers,
            pin=pin,
            first_byte=first_byte,
            end_byte=end_byte,
            checksum_tells=checksum_tells,
        )

    def open_whole(self, link: Link, *, pin: Metadata) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        if self._peeks is not None and link.peek_for is not None:
            data = self._peeks.take(link.peek_for, pin)
            if data is not None:
                return _in_memory(data)
        return source.open_whole(self._client, url=link.url, headers=link.headers, pin=pin)


@asynccontextmanager
async def _in_memory(data: bytes) -> AsyncIterator[AsyncIterator[bytes]]:
    yield _pieces(data)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data
