"""What the sources with sessions of their own (FTP, SFTP) have in common: a range and a whole file open alike."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

from rayhaul.job import Metadata
from rayhaul.policy.naming import clean, filename_of
from tasks.bodies import CountedBody
from tasks.dialing import Dialer
from tasks.links import Link
from tasks.places import Place

#: Times of change are told in whole seconds: a file changed so lately may change again within its own.
_STRONG_AFTER = timedelta(seconds=2)


class SessionTransport(ABC):
    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    def open_range(
        self, link: Link, *, pin: Metadata, first_byte: int, end_byte: int, checksum_tells: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        del checksum_tells  # What is not told is not compared; what is told is never another one.
        return self._opened(link, pin, first_byte, end_byte)

    def open_whole(self, link: Link, *, pin: Metadata) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._opened(link, pin, 0, None)

    @abstractmethod
    def _opened(
        self, link: Link, pin: Metadata, first_byte: int, end_byte: int | None
    ) -> AbstractAsyncContextManager[CountedBody]:
        """Give the bytes from `first_byte` up to `end_byte`; None: to the file's end."""

    def _counted(
        self,
        read: Callable[[], Awaitable[bytes]],
        pin: Metadata,
        first_byte: int,
        end_byte: int | None,
        *,
        finish: Callable[[], Awaitable[None]],
    ) -> CountedBody:
        return CountedBody(
            read,
            bytes_expected=pin.size_bytes if end_byte is None else end_byte - first_byte,
            is_range=end_byte is not None,
            finish=finish,
            limits=self._dialer.source,
            meter=self._dialer.meter,
        )


def metadata_of(
    place: Place, filename: str | None, *, size_bytes: int | None, last_modified: str | None, rangeable: bool
) -> Metadata:
    """Return what a server without headers tells of a file. `last_modified` is None where it pins nothing."""
    return Metadata(
        size_bytes=size_bytes,
        content_type=None,
        etag=None,
        last_modified=last_modified,
        rangeable=rangeable,
        filename=clean(filename or "") or filename_of(None, place.shown_url),
        final_url=place.shown_url,
        fetch_ms=0,
    )


def is_strong(modified: datetime) -> bool:
    """Whether a time of change is old enough to tell versions apart."""
    return datetime.now(UTC) - modified >= _STRONG_AFTER
