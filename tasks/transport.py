"""The seam between a lease and the kinds of source: what each kind of server has to be able to do for us."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from rayhaul.job import Metadata
from tasks.links import Link


class Transport(Protocol):
    """One protocol that files are read by. One per process; it turns what its library raises into our errors.

    All three raise SourceError, and EgressDenied where the link leads where nobody may fetch.
    """

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        """Return what the source says about the file: the version that everything read afterwards must show.

        `filename` is the caller's wish; `fetch_ms` is left to whoever measures it.
        """
        ...

    def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Give the bytes `first_byte <= offset < end_byte` of the pinned version, exactly those, as they arrive.

        `checksum_tells`: the file's checksum will be compared, so that less of the version need be shown.
        """
        ...

    def open_whole(self, link: Link, *, pin: Metadata) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Give all bytes of the pinned version as they arrive."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Another place of a file, as a description of that file names it."""

    link: Link
    transport: Transport
    #: Whether the transport compares each piece of the file, and gives no other bytes.
    in_pieces: bool
