"""SFTP as a transport: one session for each range, only to hosts whose keys an operator has named.

Laws of this file:
1. A host key that is not in `sources.sftp_known_hosts` is refused before anything of the caller's is sent. Nothing of
   the machine is used: no configuration, no agent, no keys of its own.
2. Size and time of change pin the version. They are those of the open file, compared before it is read and once more
   before the last bytes are given: a file that is replaced meanwhile is still the one that was opened.
3. What asyncssh and the system raise is turned into our errors in `classify`, and nowhere else.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import cast

import asyncssh

from rayhaul.errors import (
    InvalidRequest,
    RayhaulError,
    SourceBusy,
    SourceChanged,
    SourceError,
    SourceFailed,
    SourceNotFound,
    SourceRefused,
    SourceTruncated,
    SourceUnreachable,
)
from rayhaul.job import Metadata
from tasks import dialing
from tasks.answer import Phase
from tasks.bodies import CountedBody
from tasks.dialing import Dialer
from tasks.links import Link
from tasks.openings import SessionTransport, is_strong, metadata_of
from tasks.places import PORTS, Place

#: A private key in OpenSSH's format, in base64, instead of a password.
KEY_HEADER = "sftp-private-key"
#: Asked for at once, in as many requests as the server takes: one after the other, each would cost a round trip.
_PIECE_BYTES = 1024 * 1024

#: What a refusal means; the first that matches counts. Sources: RFC 4253 11.1, draft-ietf-secsh-filexfer-02 7.
_MEANINGS: Sequence[tuple[tuple[type[Exception], ...], type[SourceError], int | None, str]] = (
    ((asyncssh.HostKeyNotVerifiable,), SourceRefused, None, "The host key of {host} is not one that is trusted here."),
    ((asyncssh.PermissionDenied,), SourceRefused, 401, "{host} refused the login."),
    ((asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath), SourceNotFound, 404, "{host} has no such file."),
    ((asyncssh.SFTPPermissionDenied,), SourceRefused, 403, "{host} refused the file."),
    ((asyncssh.ChannelOpenError,), SourceRefused, None, "{host} opens no SFTP session."),
    ((asyncssh.ProtocolError, asyncssh.KeyExchangeFailed), SourceFailed, None, "{host} does not speak proper SSH."),
)
_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.DisconnectError)


def classify(error: Exception, phase: Phase, host: str) -> RayhaulError:
    """Return what an exception of asyncssh or the system means to us."""
    if isinstance(error, RayhaulError):
        return error
    for kinds, meaning, status, text in _MEANINGS:
        if isinstance(error, kinds):
            return meaning(text.format(host=host), status=status)
    if isinstance(error, asyncssh.DisconnectError) and error.code == asyncssh.DISC_TOO_MANY_CONNECTIONS:
        return SourceBusy(f"{host} has too many connections.")
    if isinstance(error, _LOST):
        return SourceTruncated() if phase is Phase.BODY else SourceUnreachable(f"The connection to {host} failed.")
    if isinstance(error, asyncssh.SFTPError):
        return SourceFailed(f"{host} failed on its side.")
    return dialing.classify(error, phase, host)


@contextmanager
def _classified(phase: Phase, host: str) -> Iterator[None]:
    try:
        yield
    except (asyncssh.Error, OSError, EOFError, ValueError, RayhaulError) as error:
        raised = classify(error, phase, host)
        if raised is error:
            raise
        raise raised from error


class SftpTransport(SessionTransport):
    def __init__(self, dialer: Dialer, known_hosts: str | None) -> None:
        """`known_hosts`: the text of such a file, or the name of one on this machine."""
        super().__init__(dialer)
        self._known_hosts = known_hosts

    async def probe(self, link: Link, filename: str | None) -> Metadata:
        place = self._place(link)
        async with self._file(link, place) as file:
            with _classified(Phase.HEADERS, place.host):
                size_bytes, modified = await _version(file)
        return metadata_of(
            place,
            filename,
            size_bytes=size_bytes,
            last_modified=None if modified is None or not is_strong(modified) else _text(modified),
            rangeable=size_bytes is not None,
        )

    @asynccontextmanager
    async def _opened(
        self, link: Link, pin: Metadata, first_byte: int, end_byte: int | None
    ) -> AsyncIterator[CountedBody]:
        place = self._place(link)
        async with self._dialer.slots, self._file(link, place) as file:
            with _classified(Phase.HEADERS, place.host):
                await _check_version(file, pin)
            body = _Reader(file, place.host, first_byte, end_byte, stall_s=self._dialer.source.stall_timeout_s)

            async def finish() -> None:
                with _classified(Phase.BODY, place.host):
                    await _check_version(file, pin)

            yield self._counted(body.read, pin, first_byte, end_byte, finish=finish)

    def _place(self, link: Link) -> Place:
        place = self._dialer.place(link.url)
        if place.user is None:
            raise InvalidRequest("sftp:// needs a user: sftp://user:password@host/path.")
        return place

    @asynccontextmanager
    async def _file(self, link: Link, place: Place) -> AsyncIterator[asyncssh.SFTPClientFile]:
        """Give the open file. Raises: SourceError; EgressDenied; InvalidRequest."""
        limits = self._dialer.source
        keys = _private_keys(link.headers)
        trusted = await self._trusted()
        made = await self._dialer.dial(place.host, place.port, ports={PORTS["sftp"]})
        connection = None
        try:
            with _classified(Phase.HEADERS, place.host):
                async with asyncio.timeout(limits.connect_timeout_s + limits.first_byte_timeout_s):
                    connection = await asyncssh.connect(
                        place.host,
                        place.port,
                        sock=made,
                        config=None,
                        known_hosts=trusted,
                        username=place.user or "",
                        password=place.password,
                        client_keys=keys or None,
                        agent_path=None,
                        gss_host=None,
                    )
                    session = await connection.start_sftp_client()
                    # Absolute, as draft-ietf-secsh-scp-sftp-ssh-uri has it; ~ as curl does.
                    path = place.path.removeprefix("~/") if place.path.startswith("~/") else f"/{place.path}"
                    file = await session.open(path, "rb")
            yield file
        finally:
            if connection is None:
                made.close()
            else:
                connection.abort()

    async def _trusted(self) -> asyncssh.SSHKnownHosts:
        """Raises: SourceRefused where no key is trusted."""
        known = self._known_hosts or ""
        try:
            text = known if " " in known.strip() else await asyncio.to_thread(Path(known.strip()).read_text)
            return asyncssh.import_known_hosts(text)
        except (OSError, ValueError) as error:
            raise SourceRefused("The host keys of sources.sftp_known_hosts cannot be read here.") from error


class _Reader:
    """Reads on from an offset."""

    def __init__(
        self, file: asyncssh.SFTPClientFile, host: str, first_byte: int, end_byte: int | None, *, stall_s: float
    ) -> None:
        self._file = file
        self._host = host
        self._offset = first_byte
        self._end_byte = end_byte
        self._stall_s = stall_s

    async def read(self) -> bytes:
        wanted = _PIECE_BYTES if self._end_byte is None else min(_PIECE_BYTES, self._end_byte - self._offset)
        with _classified(Phase.BODY, self._host):
            async with asyncio.timeout(self._stall_s):
                # The library's types say text, whatever a file is opened for.
                piece = cast("bytes", await self._file.read(wanted, self._offset))
        self._offset += len(piece)
        return piece


def _private_keys(headers: Mapping[str, str]) -> Sequence[asyncssh.SSHKey]:
    """Return the key that the job brings along, if any. Raises: InvalidRequest, which does not tell it."""
    texts = [value for name, value in headers.items() if name.lower() == KEY_HEADER]
    try:
        return [asyncssh.import_private_key(base64.b64decode(text, validate=True)) for text in texts]
    except (ValueError, asyncssh.KeyImportError):
        raise InvalidRequest(f"The header {KEY_HEADER} is no private key in base64.") from None


async def _version(file: asyncssh.SFTPClientFile) -> tuple[int | None, datetime | None]:
    """Return size in bytes and time of change, as far as the server tells them."""
    attributes = await file.stat()
    modified = None if attributes.mtime is None else datetime.fromtimestamp(attributes.mtime, UTC)
    return attributes.size, modified


async def _check_version(file: asyncssh.SFTPClientFile, pin: Metadata) -> None:
    """Raises: SourceChanged where size or time of change are not those of the pin."""
    size_bytes, modified = await _version(file)
    if pin.size_bytes is not None and size_bytes != pin.size_bytes:
        raise SourceChanged
    if pin.last_modified is not None and (modified is None or _text(modified) != pin.last_modified):
        raise SourceChanged


def _text(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)
