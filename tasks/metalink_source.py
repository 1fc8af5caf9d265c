"""Metalink 4 as a source: a URL that serves a description is read as the file that it describes.

Laws of this file:
1. The probe pins the document by its SHA-256; a document that changed describes another file.
2. The file is read by the transport of its own URL, guard and all; what it describes is no second description. The
   job's headers go along only to the origin they were meant for.
3. Size, whole hash and piece hashes of the document are compared with the bytes.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from rayhaul.errors import SourceChanged, SourceRefused
from rayhaul.job import Metadata
from rayhaul.policy.naming import clean
from tasks.documents import read_document
from tasks.egress import GuardedClient
from tasks.http_transport import HttpTransport, describes
from tasks.links import Link, is_same_origin
from tasks.metalink import DOCUMENT_BYTES_MAX, Metalink
from tasks.pieces import around, checked
from tasks.transport import Transport

#: Documents that are remembered by a process: each connection of a lease asks for its own.
_DOCUMENTS_MAX = 64


class MetalinkTransport:
    """HTTP, but for what describes other files."""

    def __init__(self, client: GuardedClient, by: Callable[[str], Transport]) -> None:
        """`by` returns the transport of a URL; for HTTP one that takes everything for a file."""
        self._client = client
        self._http = HttpTransport(client)
        self._by = by
        #: By the pinned digest, the first known being forgotten first.
        self._documents: dict[str, Metalink] = {}

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        found = await self._http.probe(link, filename)
        if not describes(found):
            return found
        described_by, metalink = await self._read(link)
        target = self._target(link, metalink)
        pin = await self._by(target.url).probe(target, filename or clean(metalink.filename) or None)
        if None not in {pin.size_bytes, metalink.size_bytes} and pin.size_bytes != metalink.size_bytes:
            raise SourceRefused(f"The file has {pin.size_bytes} bytes, its Metalink tells of {metalink.size_bytes}.")
        return replace(
            pin,
            size_bytes=metalink.size_bytes if pin.size_bytes is None else pin.size_bytes,
            digest=metalink.digest or pin.digest,
            described_by=described_by,
        )

    @asynccontextmanager
    async def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        if pin.described_by is None:
            async with self._http.open_range(
                link, pin=pin, first_byte=first_byte, end_byte=end_byte, checksum_tells=checksum_tells
            ) as body:
                yield body
            return
        metalink = await self._pinned(link, pin)
        target, file_pin = self._target(link, metalink), replace(pin, described_by=None)
        transport, pieces, size_bytes = self._by(target.url), metalink.pieces, pin.size_bytes
        if pieces is None or size_bytes is None:
            async with transport.open_range(
                target, pin=file_pin, first_byte=first_byte, end_byte=end_byte, checksum_tells=checksum_tells
            ) as body:
                yield body
            return
        begins_at, ends_at = around(pieces, size_bytes, first_byte, end_byte)
        async with transport.open_range(
            target, pin=file_pin, first_byte=begins_at, end_byte=ends_at, checksum_tells=True
        ) as body:
            right = checked(
                body, pieces, begins_at=begins_at, size_bytes=size_bytes, first_byte=first_byte, end_byte=end_byte
            )
            async with aclosing(right):
                yield right

    @asynccontextmanager
    async def open_whole(self, link: Link, *, pin: Metadata) -> AsyncIterator[AsyncIterator[bytes]]:
        if pin.described_by is None:
            async with self._http.open_whole(link, pin=pin) as body:
                yield body
            return
        metalink = await self._pinned(link, pin)
        target, file_pin = self._target(link, metalink), replace(pin, described_by=None)
        async with self._by(target.url).open_whole(target, pin=file_pin) as body:
            pieces, size_bytes = metalink.pieces, pin.size_bytes
            if pieces is None or size_bytes is None:
                yield body
                return
            right = checked(body, pieces, begins_at=0, size_bytes=size_bytes, first_byte=0, end_byte=size_bytes)
            async with aclosing(right):
                yield right

    async def _pinned(self, link: Link, pin: Metadata) -> Metalink:
        """Return the document that was pinned. Raises: SourceError; EgressDenied."""
        assert pin.described_by is not None
        known = self._documents.get(pin.described_by)
        if known is not None:
            return known
        described_by, metalink = await self._read(link)
        if described_by != pin.described_by:
            raise SourceChanged("The Metalink document has changed.")
        return metalink

    async def _read(self, link: Link) -> tuple[str, Metalink]:
        """Return a document and its SHA-256 in hex. Raises: SourceError; EgressDenied."""
        document = await read_document(self._client, link, bytes_max=DOCUMENT_BYTES_MAX, kind="Metalink")
        # Megabytes of XML take a while.
        metalink = await asyncio.to_thread(Metalink.parse, document)
        described_by = hashlib.sha256(document).hexdigest()
        while len(self._documents) >= _DOCUMENTS_MAX:
            del self._documents[next(iter(self._documents))]
        self._documents[described_by] = metalink
        return described_by, metalink

    def _target(self, link: Link, metalink: Metalink) -> Link:
        """Return where the file itself is: the best of its URLs."""
        url = metalink.urls[0]
        return Link(url, link.headers if is_same_origin(url, link.url) else {})
