"""FTP and FTP over TLS as a transport (RFC 959, 2428, 3659, 4217): one session for each range, passive mode only.

Laws of this file:
1. The data connection goes to the address of the control connection; what PASV says of an address is not listened to.
2. Size and time of change (SIZE, MDTM) pin the version. They are compared when a range begins, and once more before its
   last bytes are given: FTP has no answer that shows a version.
3. A whole file counts only with the server's word that it was sent (226).
4. What aioftp, TLS and the system raise is turned into our errors in `classify`, and nowhere else.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property

import aioftp
from aioftp.common import Code, SSLSessionBoundContext

from rayhaul.errors import (
    RayhaulError,
    SourceBusy,
    SourceChanged,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceStalled,
    SourceTruncated,
)
from rayhaul.job import Metadata
from tasks import dialing
from tasks.answer import Phase
from tasks.bodies import CountedBody
from tasks.dialing import Dialer
from tasks.links import Link
from tasks.openings import SessionTransport, is_strong, metadata_of
from tasks.places import PORTS, Place

#: aioftp tells of commands and answers; those have names of files and users in them.
logging.getLogger("aioftp").setLevel(logging.CRITICAL)

#: All that a server may say on the control connection of one session.
_TOLD_BYTES_MAX = 64 * 1024
_PIECE_BYTES = 256 * 1024
#: Who asks without a name. Source: RFC 1635.
_ANONYMOUS = ("anonymous", "rayhaul@")
#: What servers answer that do not know a command, or not for this file.
_UNKNOWN = ("500", "501", "502", "504")

#: What a refusal means; the first that matches counts. Source: RFC 959 4.2.
_MEANINGS: Sequence[tuple[str, type[SourceError], int | None]] = (
    ("421", SourceBusy, None),
    ("426", SourceTruncated, None),
    ("45x", SourceBusy, None),
    ("4xx", SourceFailed, None),
    ("53x", SourceRefused, 401),
    ("550", SourceNotFound, 404),
    ("xxx", SourceRefused, None),
)


def classify(error: Exception, phase: Phase, host: str) -> RayhaulError:
    """Return what an exception of aioftp, TLS or the system means to us."""
    if isinstance(error, RayhaulError):
        return error
    if isinstance(error, aioftp.StatusCodeError):
        code = Code(error.received_codes[-1])
        kind, status = next((kind, status) for mask, kind, status in _MEANINGS if code.matches(mask))
        return kind(f"{host} answered {str(code)[:3]}.", status=status)
    return dialing.classify(error, phase, host)


@contextmanager
def _classified(phase: Phase, host: str) -> Iterator[None]:
    try:
        yield
    except (aioftp.AIOFTPException, OSError, EOFError, ValueError, LookupError, RayhaulError) as error:
        raised = classify(error, phase, host)
        if raised is error:
            raise
        raise raised from error


class _Session(aioftp.Client):
    """aioftp's client over guarded sockets, that does not listen for ever."""

    def __init__(self, dialer: Dialer, place: Place, tls: ssl.SSLContext) -> None:
        limits = dialer.source
        super().__init__(socket_timeout=limits.first_byte_timeout_s, ssl=tls if place.scheme == "ftps" else None)
        self._dialer = dialer
        self._place = place
        self._tls = tls
        self._told_bytes = 0
        self._opened: list[asyncio.StreamWriter] = []

    async def begin(self) -> None:
        place = self._place
        await self.connect(place.host, place.port)
        if place.scheme == "ftpes":
            await self.upgrade_to_tls(self._tls)
        user, password = _ANONYMOUS if place.user is None else (place.user, place.password or "")
        await self.login(user, password)
        if place.scheme == "ftps":
            # Some servers take these after the login only.
            await self._send_tls_protection_commands()
        await self.command("TYPE I", "200")

    async def _open_connection(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._stream is None:
            made = await self._dialer.dial(host, port, ports={PORTS[self._place.scheme]})
        else:
            transport = self._stream.writer.transport
            made = await self._dialer.dial_peer(transport.get_extra_info("socket"), port)
        is_secret = self.ssl is not None or (self._stream is not None and self._place.scheme == "ftpes")
        limit_s = self._dialer.source.connect_timeout_s
        async with asyncio.timeout(limit_s):
            reader, writer = await asyncio.open_connection(
                sock=made,
                ssl=self._context() if is_secret else None,
                server_hostname=self._place.host if is_secret else None,
            )
        self._opened.append(writer)
        return reader, writer

    def close(self) -> None:
        """Close all connections at once: a farewell would have to be waited for."""
        for writer in self._opened:
            # So some Pythons (3.11.2) say that a TLS connection was closed twice already.
            with suppress(AttributeError):
                writer.transport.abort()

    def _context(self) -> ssl.SSLContext:
        """Return what the data connection is secured with: many servers want the control connection's session."""
        control = None if self._stream is None else self._stream.writer.transport.get_extra_info("ssl_object")
        if control is None or control.session is None:
            return self._tls
        return SSLSessionBoundContext(ssl.PROTOCOL_TLS_CLIENT, context=control.context, session=control.session)

    async def parse_line(self) -> tuple[Code, str]:
        line = await self.stream.readline()
        self._told_bytes += len(line)
        if not line:
            raise ConnectionResetError
        if self._told_bytes > _TOLD_BYTES_MAX:
            raise SourceFailed(f"{self._place.host} has too much to say.")
        # Greetings come in any coding.
        text = line.decode(errors="replace").rstrip()
        return Code(text[:3]), text[3:]

    async def size(self) -> int | None:
        """Return the file's length in bytes; None where the server does not tell."""
        told = await self._told(f"SIZE {self._place.path}")
        return int(told) if told is not None and told.isascii() and told.isdigit() else None

    async def modified(self) -> str | None:
        """Return the file's time of change as Last-Modified is written; None where the server tells none that counts.

        Source: RFC 3659 2.3, 3.
        """
        told = await self._told(f"MDTM {self._place.path}")
        if told is None:
            return None
        try:
            moment = datetime.strptime(told.partition(".")[0], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        except ValueError:
            return None
        return format_datetime(moment, usegmt=True)

    async def restarts(self) -> bool:
        """Return whether the server begins in the middle of a file where it is asked to."""
        code, _ = await self.command("REST 1", ("350", "4xx", "5xx"))
        if not code.matches("350"):
            return False
        await self.command("REST 0", "350")
        return True

    async def _told(self, command: str) -> str | None:
        code, told = await self.command(command, ("213", *_UNKNOWN))
        return told[0].strip() if code.matches("213") and told else None


class FtpTransport(SessionTransport):
    def __init__(self, dialer: Dialer, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls` trusts what the system does not."""
        super().__init__(dialer)
        self._trusted = tls

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # It reads all the system's certificates: most agents never see a file by FTP.
        return self._trusted or ssl.create_default_context()

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        place = self._dialer.place(link.url)
        async with self._session(place) as session:
            with _classified(Phase.HEADERS, place.host):
                size_bytes = await session.size()
                modified = await session.modified()
                restarts = size_bytes is not None and await session.restarts()
        return metadata_of(
            place,
            filename,
            size_bytes=size_bytes,
            last_modified=modified if modified is not None and is_strong(_moment(modified)) else None,
            rangeable=restarts,
        )

    @asynccontextmanager
    async def _opened(
        self, link: Link, pin: Metadata, first_byte: int, end_byte: int | None
    ) -> AsyncIterator[CountedBody]:
        place = self._dialer.place(link.url)
        async with self._dialer.slots, self._session(place) as session:
            with _classified(Phase.HEADERS, place.host):
                await _check_version(session, pin)
                stream = await session.get_stream(f"RETR {place.path}", "1xx", offset=first_byte)
            stream.read_timeout = self._dialer.source.stall_timeout_s
            is_rest = end_byte in {None, pin.size_bytes}

            async def read() -> bytes:
                with _classified(Phase.BODY, place.host):
                    return await stream.read(_PIECE_BYTES)

            async def finish() -> None:
                stream.close()
                await self._check_end(session, place, pin, is_rest=is_rest)

            try:
                yield self._counted(read, pin, first_byte, end_byte, finish=finish)
            finally:
                stream.close()

    async def _check_end(self, session: _Session, place: Place, pin: Metadata, *, is_rest: bool) -> None:
        """Check that what was to be sent was sent, and that the file is still the pinned one. Raises: SourceError."""
        try:
            with _classified(Phase.BODY, place.host):
                # A transfer that we end ourselves is answered in many ways.
                await session.command(None, "2xx" if is_rest else ("2xx", "4xx", "5xx"))
                await _check_version(session, pin)
        except (SourceTruncated, SourceStalled):
            if is_rest:
                raise
            # Some servers leave then, or say nothing.
            async with self._session(place) as other:
                with _classified(Phase.HEADERS, place.host):
                    await _check_version(other, pin)

    @asynccontextmanager
    async def _session(self, place: Place) -> AsyncIterator[_Session]:
        """Give a session that has logged in. Raises: SourceError; EgressDenied."""
        session = _Session(self._dialer, place, self._tls)
        limits = self._dialer.source
        try:
            with _classified(Phase.HEADERS, place.host):
                async with asyncio.timeout(limits.connect_timeout_s + limits.first_byte_timeout_s):
                    await session.begin()
            yield session
        finally:
            session.close()


async def _check_version(session: _Session, pin: Metadata) -> None:
    """Raises: SourceChanged where size or time of change are not those of the pin."""
    if pin.size_bytes is not None and await session.size() != pin.size_bytes:
        raise SourceChanged
    if pin.last_modified is not None and await session.modified() != pin.last_modified:
        raise SourceChanged


def _moment(modified: str) -> datetime:
    return datetime.strptime(modified, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
