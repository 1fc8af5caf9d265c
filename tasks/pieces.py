"""Bytes on their way, compared with the hashes of the pieces they lie in."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

from rayhaul.job import Metadata
from tasks.hashing import hashed
from tasks.links import Link
from tasks.metalink import Pieces
from tasks.source import CorruptBody
from tasks.transport import Transport

#: Below this a thread costs more than the hash.
_HASH_INLINE_BYTES_MAX = 64 * 1024


def around(pieces: Pieces, size_bytes: int, first_byte: int, end_byte: int) -> tuple[int, int]:
    """Return the range, half-open, of the whole pieces that a range lies in.

    >>> around(Pieces(algorithm="md5", piece_bytes=10, hashes=()), 25, 12, 21)
    (10, 25)
    """
    length = pieces.piece_bytes
    return first_byte // length * length, min(size_bytes, -(-end_byte // length) * length)


async def checked(
    body: AsyncIterator[bytes], pieces: Pieces, *, begins_at: int, size_bytes: int, first_byte: int, end_byte: int
) -> AsyncGenerator[bytes, None]:
    """Give `first_byte <= offset < end_byte` out of a body of whole pieces; the last bytes only when all are right.

    `begins_at`: the body's first byte in the file, where a piece begins. Raises: CorruptBody; what the body raises.
    """
    comparison = _Comparison(pieces, size_bytes, begins_at)
    position = begins_at
    held = b""
    async for data in body:
        if len(data) > _HASH_INLINE_BYTES_MAX:
            await hashed(comparison.update, data)
        else:
            comparison.update(data)
        wanted = data[max(0, first_byte - position) : max(0, end_byte - position)]
        position += len(data)
        if not wanted:
            continue
        if held:
            yield held
        held = wanted
    if held:
        yield held


class PieceTransport:
    """Another transport, with all that it gives of one file compared."""

    def __init__(self, transport: Transport, pieces: Pieces, size_bytes: int) -> None:
        self._transport = transport
        self._pieces = pieces
        self._size_bytes = size_bytes

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        return await self._transport.probe(link, filename)

    @asynccontextmanager
    async def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        del checksum_tells  # It does, whatever the caller has.
        begins_at, ends_at = around(self._pieces, self._size_bytes, first_byte, end_byte)
        async with (
            self._transport.open_range(
                link, pin=pin, first_byte=begins_at, end_byte=ends_at, checksum_tells=True
            ) as body,
            aclosing(self._checked(body, begins_at, first_byte, end_byte)) as right,
        ):
            yield right

    @asynccontextmanager
    async def open_whole(self, link: Link, *, pin: Metadata) -> AsyncIterator[AsyncIterator[bytes]]:
        async with (
            self._transport.open_whole(link, pin=pin) as body,
            aclosing(self._checked(body, 0, 0, self._size_bytes)) as right,
        ):
            yield right

    def _checked(
        self, body: AsyncIterator[bytes], begins_at: int, first_byte: int, end_byte: int
    ) -> AsyncGenerator[bytes, None]:
        return checked(
            body,
            self._pieces,
            begins_at=begins_at,
            size_bytes=self._size_bytes,
            first_byte=first_byte,
            end_byte=end_byte,
        )


class _Comparison:
    def __init__(self, pieces: Pieces, size_bytes: int, position: int) -> None:
        self._pieces = pieces
        self._size_bytes = size_bytes
        self._position = position
        self._hash = hashlib.new(pieces.algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Raises: CorruptBody at the end of a piece that is not what was promised."""
        for run in self._runs(data):
            self._hash.update(run)
            self._position += len(run)
            if self._position % self._pieces.piece_bytes == 0 or self._position == self._size_bytes:
                self._compare()

    def _runs(self, data: bytes) -> Iterator[memoryview]:
        """Yield the data cut where pieces end."""
        rest = memoryview(data)
        while rest:
            left = self._pieces.piece_bytes - self._position % self._pieces.piece_bytes
            yield rest[:left]
            rest = rest[left:]

    def _compare(self) -> None:
        number = (self._position - 1) // self._pieces.piece_bytes
        found = self._hash.digest()
        self._hash = hashlib.new(self._pieces.algorithm, usedforsecurity=False)
        if number >= len(self._pieces.hashes) or found != self._pieces.hashes[number]:
            raise CorruptBody(f"Piece {number + 1} does not have the {self._pieces.algorithm} that was told of it.")
