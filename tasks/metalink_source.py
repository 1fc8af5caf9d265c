"""Metalink 4 as a source: a URL that serves a description is read as the file that it describes.

Laws of this file:
1. The probe pins the document by its SHA-256; a document that changed describes another file.
2. The file is read by the transport of its own URL, guard and all; what it describes is no second description. The
   job's headers go along only to the origin they were meant for.
3. Size, whole hash and piece hashes of the document are compared with the bytes.
4. What is pinned is the file as one of its URLs shows it; the others are mirrors of that one (tasks/mirrors.py).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

from rayhaul.errors import SourceChanged, SourceRefused, SourceTimeout
from rayhaul.job import MIRRORS_MAX, Metadata
from rayhaul.origins import Source, host_of
from rayhaul.policy.naming import clean
from tasks.documents import read_document
from tasks.egress import GuardedClient
from tasks.first_found import first_found
from tasks.http_transport import HttpTransport, describes
from tasks.links import Link, is_same_origin
from tasks.metalink import DOCUMENT_BYTES_MAX, Metalink
from tasks.pieces import PieceTransport
from tasks.transport import Place, Transport

#: Documents that are remembered by a process: each connection of a lease asks for its own.
_DOCUMENTS_MAX = 64


class MetalinkTransport:
    """HTTP, but for what describes other files."""

    def __init__(self, client: GuardedClient, http: HttpTransport, by: Callable[[str], Transport]) -> None:
        """`by` returns the transport of a URL; for HTTP it is `http`, which takes everything for a file."""
        self._client = client
        self._http = http
        self._by = by
        #: By the pinned digest, the first known being forgotten first.
        self._documents: dict[str, Metalink] = {}

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        found = await self._http.probe(link, filename)
        if not describes(found):
            return found
        described_by, metalink = await self._read(link)
        places = [Source(index=index, url=url) for index, url in enumerate(metalink.urls)]
        pin = await first_found(places, lambda place: self._probe_place(link, metalink, place.index, filename))
        return replace(
            pin,
            size_bytes=metalink.size_bytes if pin.size_bytes is None else pin.size_bytes,
            digest=metalink.digest or pin.digest,
            described_by=described_by,
            other_hosts=_hosts(metalink.urls[index] for index in _others(metalink, pin.described_place)),
        )

    async def _probe_place(self, link: Link, metalink: Metalink, index: int, filename: str | None) -> Metadata:
        target = _target(link, metalink, index)
        # A silent one leaves time to ask the others.
        timeout_s = self._client.source.probe_timeout_s / (2 if len(metalink.urls) > 1 else 1)
        try:
            async with asyncio.timeout(timeout_s):
                pin = await self._by(target.url).probe(target, filename or clean(metalink.filename) or None)
        except TimeoutError as err:
            raise SourceTimeout from err
        if None not in {pin.size_bytes, metalink.size_bytes} and pin.size_bytes != metalink.size_bytes:
            raise SourceRefused(f"The file has {pin.size_bytes} bytes, its Metalink tells of {metalink.size_bytes}.")
        return replace(pin, described_place=index)

    @asynccontextmanager
    async def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        transport, target, file_pin = await self._at(link, pin)
        async with transport.open_range(
            target, pin=file_pin, first_byte=first_byte, end_byte=end_byte, checksum_tells=checksum_tells
        ) as body:
            yield body

    @asynccontextmanager
    async def open_whole(self, link: Link, *, pin: Metadata) -> AsyncIterator[AsyncIterator[bytes]]:
        transport, target, file_pin = await self._at(link, pin)
        async with transport.open_whole(target, pin=file_pin) as body:
            yield body

    async def places(self, link: Link, pin: Metadata) -> Sequence[Place]:
        """Return the URLs of the pinned document but the one that is pinned. Raises: SourceError; EgressDenied."""
        metalink = await self._pinned(link, pin)
        found = []
        for index in _others(metalink, pin.described_place):
            target = _target(link, metalink, index)
            # This machine may lack a library for one of them.
            with suppress(SourceRefused):
                transport = self._comparing(target.url, metalink, pin)
                found.append(Place(target, transport, in_pieces=isinstance(transport, PieceTransport)))
        return found

    async def _at(self, link: Link, pin: Metadata) -> tuple[Transport, Link, Metadata]:
        """Return where the file itself is, and what it is read by."""
        if pin.described_by is None:
            return self._http, link, pin
        metalink = await self._pinned(link, pin)
        target = _target(link, metalink, pin.described_place)
        return self._comparing(target.url, metalink, pin), target, replace(pin, described_by=None)

    def _comparing(self, url: str, metalink: Metalink, pin: Metadata) -> Transport:
        transport = self._by(url)
        if metalink.pieces is None or pin.size_bytes is None:
            return transport
        return PieceTransport(transport, metalink.pieces, pin.size_bytes)

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


def _target(link: Link, metalink: Metalink, index: int) -> Link:
    url = metalink.urls[index]
    return Link(url, link.headers if is_same_origin(url, link.url) else {})


def _others(metalink: Metalink, pinned: int) -> Sequence[int]:
    """Return the places that are mirrors of the pinned one, as far as they are URLs at all."""
    others = [index for index in range(len(metalink.urls)) if index != pinned and _host(metalink.urls[index])]
    return others[:MIRRORS_MAX]


def _hosts(urls: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(host for host in map(_host, urls) if host))


def _host(url: str) -> str | None:
    try:
        return host_of(url)
    except ValueError:
        return None
