"""The only way out for BitTorrent: a SOCKS5 proxy on loopback, which asks the guard for each peer and each tracker.

Laws of this file:
1. What is connected to was checked by the same guard as every other socket, name and address alike. The library is told
   to resolve nothing, and its own sockets are bound to loopback: past this proxy there is no way to anywhere else.
2. Whoever does not know this process's password gets nothing.
3. Connections out, and questions to UDP trackers (`torrent_datagrams`), are all that is done. Nobody can be waited for
   (BIND).

Source: RFC 1928 (SOCKS5), RFC 1929 (its password).
"""

import asyncio
import hmac
import logging
import secrets
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

from rayhaul.errors import EgressDenied, Internal, RayhaulError
from tasks.dialing import Dialer
from tasks.magnet import PEER_PORTS
from tasks.torrent_datagrams import IPV4, IPV6, LOOPBACK, NAME, Datagrams

_log = logging.getLogger(__name__)

USER = "rayhaul"
_VERSION, _PASSWORD_VERSION, _BY_PASSWORD = 5, 1, 2
#: Commands. Source: RFC 1928 4.
_CONNECT, _ASSOCIATE = 1, 3
_NO_METHOD = 0xFF
#: Replies. Source: RFC 1928 6.
_DONE, _FAILED, _DENIED, _UNREACHABLE, _NO_COMMAND = 0, 1, 2, 4, 7
_CONNECTIONS_MAX = 512
_HANDSHAKE_S_MAX = 10
_BUFFER_BYTES = 256 * 1024
_PORTS_TRIED_MAX = 20


class TorrentProxy:
    """One per process, on the loop that dials."""

    def __init__(self, dialer: Dialer, *, tracker_ports: Collection[int]) -> None:
        self.password = secrets.token_urlsafe(24)
        self.port = 0
        self._dialer = dialer
        self._ports = frozenset(tracker_ports) | frozenset(PEER_PORTS)
        self._datagrams = Datagrams(dialer, ports=self._ports)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Raises: Internal; OSError."""
        if self._server is not None:
            return
        for _ in range(_PORTS_TRIED_MAX):
            server = await asyncio.start_server(self._accept, LOOPBACK, 0, limit=_BUFFER_BYTES)
            self.port = server.sockets[0].getsockname()[1]
            try:
                # The library's socket is connected to one port (`torrent_session`): that of both.
                self._datagrams.open(self.port)
            except OSError:
                server.close()
                continue
            self._server = server
            return
        raise Internal("This machine has no port left for BitTorrent.")

    async def ready(self) -> None:
        """Return when the library can ask UDP trackers: what it asks them earlier is lost."""
        try:
            async with asyncio.timeout(_HANDSHAKE_S_MAX):
                await self._datagrams.is_ready.wait()
        except TimeoutError:
            _log.warning("BitTorrent asks no UDP trackers: its library wants no datagrams carried")

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._datagrams.aclose()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= _CONNECTIONS_MAX:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Either side may hang up at any byte.
            with suppress(OSError, EOFError, TimeoutError, ValueError):
                async with asyncio.timeout(_HANDSHAKE_S_MAX):
                    command, host, port = await self._asked(reader, writer)
                if command == _ASSOCIATE:
                    await self._associate(port, reader, writer)
                    return
                async with self._dialed(host, port, writer) as (far_reader, far_writer):
                    await _relay(reader, far_writer, far_reader, writer)
        finally:
            writer.transport.abort()

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, str, int]:
        """Return what the library wants, and where. Raises: ValueError, EOFError, OSError."""
        version, methods_count = await reader.readexactly(2)
        methods = await reader.readexactly(methods_count)
        if version != _VERSION or _BY_PASSWORD not in methods:
            writer.write(bytes([_VERSION, _NO_METHOD]))
            raise ValueError("no password is offered")
        writer.write(bytes([_VERSION, _BY_PASSWORD]))
        await self._check_password(reader, writer)
        version, command, _, kind = await reader.readexactly(4)
        host = await _host(reader, kind)
        port = int.from_bytes(await reader.readexactly(2))
        if version != _VERSION or command not in {_CONNECT, _ASSOCIATE}:
            writer.write(_reply(_NO_COMMAND))
            raise ValueError("nobody is waited for here")
        return command, host, port

    async def _check_password(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version, user_length = await reader.readexactly(2)
        user = await reader.readexactly(user_length)
        (password_length,) = await reader.readexactly(1)
        password = await reader.readexactly(password_length)
        is_right = hmac.compare_digest(password, self.password.encode()) and user == USER.encode()
        writer.write(bytes([_PASSWORD_VERSION, 0 if is_right else 1]))
        if version != _PASSWORD_VERSION or not is_right:
            raise ValueError("wrong password")

    async def _associate(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry datagrams of a port of the library until it hangs up. Raises: ValueError; OSError."""
        if not port:
            writer.write(_reply(_FAILED))
            raise ValueError("it is not said who sends datagrams")
        with self._datagrams.associated(port):
            writer.write(_reply(_DONE, self.port))
            while await reader.read(_BUFFER_BYTES):
                pass

    @asynccontextmanager
    async def _dialed(
        self, host: str, port: int, writer: asyncio.StreamWriter
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Give the far side, once the library knows that it is there. Raises: OSError where there is none."""
        try:
            made = await self._dialer.dial(host, port, ports=self._ports)
        except RayhaulError as error:
            # The dialer has counted and logged what it denied.
            _log.debug("no connection to %s: %s", host, error.message)
            writer.write(_reply(_DENIED if isinstance(error, EgressDenied) else _UNREACHABLE))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            raise ConnectionError(error.message) from error
        far_reader, far_writer = await asyncio.open_connection(sock=made, limit=_BUFFER_BYTES)
        try:
            writer.write(_reply(_DONE))
            yield far_reader, far_writer
        finally:
            far_writer.transport.abort()


async def _host(reader: asyncio.StreamReader, kind: int) -> str:
    if kind == NAME:
        (length,) = await reader.readexactly(1)
        return (await reader.readexactly(length)).decode("ascii")
    lengths = {IPV4: 4, IPV6: 16}
    if kind not in lengths:
        raise ValueError("no such kind of address")
    return str(ip_address(await reader.readexactly(lengths[kind])))


def _reply(code: int, port: int = 0) -> bytes:
    """Return an answer; `port`: of loopback, where datagrams are to be sent. For a connection it means nothing."""
    return bytes([_VERSION, code, 0, IPV4]) + ip_address(LOOPBACK).packed + port.to_bytes(2)


async def _relay(
    reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Pass bytes both ways until either side is done: a peer that has said all has nothing more to hear."""
    ways = [asyncio.ensure_future(_pump(reader, far_writer)), asyncio.ensure_future(_pump(far_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Raises: OSError."""
    while piece := await reader.read(_BUFFER_BYTES):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
