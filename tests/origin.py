"""A real HTTP origin on loopback that misbehaves on request.

It speaks HTTP/1.1 by hand over asyncio streams, because no server library lies on purpose. Every request and connection
is recorded.

    async with Origin() as origin:
        url = origin.add("data.bin", size=10_000_000, seed=7, truncate_after=5_000)
"""

import asyncio
import fcntl
import re
import socket
import ssl
import struct
import termios
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Literal, NamedTuple, Self
from urllib.parse import quote, unquote, urlsplit

from origin_faults import shown
from origin_files import (
    LAST_MODIFIED,
    LAST_MODIFIED_LATER,
    WRITE_BYTES,
    Behaviour,
    File,
    Reply,
    Seen,
    content_bytes,
    content_sha256,
    content_windows,
    plan_reply,
)

__all__ = (
    "LAST_MODIFIED",
    "LAST_MODIFIED_LATER",
    "Behaviour",
    "Origin",
    "OriginThread",
    "Seen",
    "content_bytes",
    "content_sha256",
    "content_windows",
)

_HEAD_BYTES_MAX = 64 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_REASONS = {200: "OK", 206: "Partial Content", 302: "Found", 404: "Not Found", 416: "Range Not Satisfiable"}


class _Hangup(Exception):
    """The connection ends here, on purpose."""


class _Peer(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Origin:
    """The server. It runs on the loop that entered it; `add`, `seen` and `resume` may be called from any thread."""

    def __init__(self, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._tls = tls
        self._files: dict[str, File] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._resumed = asyncio.Event()
        self.port = 0
        #: Every request, in order of arrival.
        self.requests: list[Seen] = []
        #: Connections accepted so far.
        self.connections_count = 0
        #: Connections open now, and the most that ever were.
        self.connections_open = 0
        self.connections_open_max = 0
        #: More requests at once are refused with 429 and `Retry-After: 1`; None: none is.
        self.requests_max: int | None = None
        #: Requests under way that were not refused, the most that ever were, and how many were refused.
        self.requests_under_way = 0
        self.requests_under_way_max = 0
        self.refused_count = 0
        #: How often each fault was made, by name (origin_faults.py).
        self.happened: Counter[str] = Counter()

    @property
    def host_port(self) -> str:
        """What `egress.allow` needs to reach this origin."""
        return f"[{self._host}]:{self.port}" if ":" in self._host else f"{self._host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host_port}"

    def add(self, path: str, *, size: int = 0, seed: int = 1, **behaviour: object) -> str:
        """Serve a file under `path` (no leading slash), as `Behaviour(**behaviour)`; return its URL."""
        assert not path.startswith("/")
        how = Behaviour(**behaviour)  # type: ignore[arg-type]
        self._files[path] = File(seed=seed, size=size, behaviour=how, happened=self.happened)
        return f"{self.base_url}/{quote(path)}"

    def remove(self, path: str) -> None:
        """Serve the file, and those below it, no more, and forget what was asked for them."""

        def is_below(other: str) -> bool:
            return other == path or other.startswith(f"{path}/")

        for name in [*filter(is_below, self._files)]:
            del self._files[name]
        self.requests[:] = [request for request in self.requests if not is_below(request.path)]

    def seen(self, path: str) -> list[Seen]:
        """Return the requests for one file."""
        return [request for request in self.requests if request.path == path]

    def resume(self) -> None:
        """Let stalled and silent responses go on, and none stall from now on. May be called from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._resumed.set)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(
            self._accepted, self._host, 0, ssl=self._tls, limit=_HEAD_BYTES_MAX, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections_count += 1
        self.connections_open += 1
        self.connections_open_max = max(self.connections_open_max, self.connections_open)
        number = self.connections_count
        try:
            while (request := await self._read_request(reader, number)) is not None:
                await self._answer(request, _Peer(reader, writer))
        except (_Hangup, OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            # Only __aexit__ cancels; ending quietly keeps the stream library from logging it.
            pass
        finally:
            self.connections_open -= 1
            writer.close()
            # A TLS peer that never answers our close_notify must not hold up the end of a test.
            with suppress(OSError, ssl.SSLError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(1):
                    await writer.wait_closed()

    async def _read_request(self, reader: asyncio.StreamReader, connection: int) -> Seen | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (text.partition(":") for text in lines) if name}
        await reader.readexactly(int(headers.get("content-length", "0")))
        parts = urlsplit(target)
        asked = _RANGE.fullmatch(headers.get("range", ""))
        request = Seen(
            method=method,
            path=unquote(parts.path.lstrip("/")),
            query=parts.query,
            headers=headers,
            range=(int(asked[1]), int(asked[2]) + 1 if asked[2] else None) if asked else None,
            connection=connection,
        )
        self.requests.append(request)
        return request

    async def _answer(self, request: Seen, peer: _Peer) -> None:
        if self.requests_max is not None and self.requests_under_way >= self.requests_max:
            self.refused_count += 1
            self.happened["requests_max"] += 1
            await self._send(Reply(status=429, headers=(("Retry-After", "1"),), body=b"slow down"), request, peer, None)
            return
        self.requests_under_way += 1
        self.requests_under_way_max = max(self.requests_under_way_max, self.requests_under_way)
        try:
            await self._answer_one(request, peer)
        finally:
            self.requests_under_way -= 1

    async def _answer_one(self, request: Seen, peer: _Peer) -> None:
        file = self._files.get(request.path)
        if file is None:
            await self._send(Reply(status=404, body=b"<html>not here</html>"), request, peer, None)
            return
        file.gets_count += request.method == "GET"
        if file.behaviour.silent and file.strikes("silent"):
            await self._hold(peer)
        if file.behaviour.raw is not None:
            self.happened["raw"] += 1
            peer.writer.write(file.behaviour.raw)
            await peer.writer.drain()
            raise _Hangup
        reply = plan_reply(file, request)
        self.happened.update(shown(file, request, reply))
        await self._send(reply, request, peer, file)

    async def _send(self, reply: Reply, request: Seen, peer: _Peer, file: File | None) -> None:
        writer = peer.writer
        headers = [*reply.headers, ("Date", "Wed, 08 Jan 2025 00:00:00 GMT"), ("Server", "tests")]
        match reply.framing:
            case "length":
                headers.append(("Content-Length", str(reply.body_bytes + reply.content_length_lie)))
            case "chunked" | "chunked_unended":
                headers.append(("Transfer-Encoding", "chunked"))
            case "close":
                headers.append(("Connection", "close"))
        head = "".join(f"{name}: {value}\r\n" for name, value in headers)
        writer.write(f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Status')}\r\n{head}\r\n".encode("latin-1"))
        if request.method != "HEAD":
            await self._send_body(reply, peer, file)
        await writer.drain()
        if reply.framing in {"close", "chunked_unended"} or reply.content_length_lie:
            raise _Hangup

    async def _send_body(self, reply: Reply, peer: _Peer, file: File | None) -> None:
        writer = peer.writer
        behaviour = _dripping(reply, file) if file else Behaviour()
        sent = 0
        while True:
            if file and sent == behaviour.stall_after and not self._resumed.is_set() and file.strikes("stall_after"):
                await writer.drain()
                await self._hold(peer)
            if file and sent == behaviour.truncate_after and sent < reply.body_bytes and file.strikes("truncate_after"):
                self.happened[f"truncate_by={behaviour.truncate_by}"] += 1
                await self._cut(peer, behaviour.truncate_by)
            if sent == reply.body_bytes:
                break
            stop = _next_stop(sent, reply.body_bytes, behaviour)
            piece = (
                reply.body[sent:stop]
                if reply.body is not None
                else content_bytes(reply.seed, reply.first + sent, reply.first + stop)
            )
            piece = _flipped(piece, reply.first + sent, file)
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if "chunked" in reply.framing else piece)
            await writer.drain()
            if behaviour.rate_bytes_per_s is not None:
                await asyncio.sleep((stop - sent) / behaviour.rate_bytes_per_s)
            sent = stop
        if reply.framing == "chunked":
            writer.write(b"0\r\n\r\n")

    async def _hold(self, peer: _Peer) -> None:
        """Say nothing until told to go on. Raises: _Hangup where the client has gone by then."""
        waits = [asyncio.ensure_future(self._resumed.wait()), asyncio.ensure_future(peer.reader.read(1))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if not self._resumed.is_set():
            raise _Hangup

    async def _cut(self, peer: _Peer, how: Literal["fin", "rst", "ragged"]) -> None:
        writer = peer.writer
        await writer.drain()
        if how == "ragged":
            writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            await self._hold(peer)
        if how == "rst":
            # What was written must have been read before a reset may overtake it: wait for the kernel's queue to empty.
            sock = writer.get_extra_info("socket")
            while sock.fileno() >= 0 and _unsent_bytes(sock):
                await asyncio.sleep(0.001)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        raise _Hangup


def _dripping(reply: Reply, file: File) -> Behaviour:
    """Return how this answer is sent."""
    sent = range(reply.first, reply.first + reply.body_bytes)
    if not any(at in sent for at in file.behaviour.drips_at) or not file.strikes("drips_at"):
        return file.behaviour
    return replace(file.behaviour, rate_bytes_per_s=file.behaviour.drip_bytes_per_s)


def _flipped(piece: bytes, first: int, file: File | None) -> bytes:
    at = None if file is None else file.behaviour.flip_at
    if file is None or at is None or not first <= at < first + len(piece) or not file.strikes("flip_at"):
        return piece
    return piece[: at - first] + bytes([piece[at - first] ^ 1]) + piece[at - first + 1 :]


def _next_stop(sent: int, body_bytes: int, behaviour: Behaviour) -> int:
    """Return where the next write ends: at the next fault at the latest."""
    stop = min(sent + WRITE_BYTES, body_bytes)
    if behaviour.rate_bytes_per_s is not None:
        # Twenty writes a second make a limit that is smooth enough.
        stop = min(stop, sent + max(1, behaviour.rate_bytes_per_s // 20))
    for fault in (behaviour.truncate_after, behaviour.stall_after):
        if fault is not None and sent < fault < stop:
            stop = fault
    return stop


def _unsent_bytes(sock: socket.socket) -> int:
    """Return how many bytes the peer has not acknowledged. Source: tcp(7), SIOCOUTQ."""
    return int(struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])


class OriginThread:
    """An Origin on a loop of its own in a background thread, for synchronous tests.

    with OriginThread() as origin:
        url = origin.add("data.bin", size=1000)
    """

    def __init__(self, *, host: str = "127.0.0.1") -> None:
        self._host = host
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="origin", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._origin: Origin | None = None

    def _run(self) -> None:
        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with Origin(host=self._host) as self._origin:
                self._ready.set()
                await self._stop.wait()

        asyncio.run(serve())

    def __enter__(self) -> Origin:
        self._thread.start()
        assert self._ready.wait(timeout=10), "the origin did not start"
        assert self._origin is not None
        return self._origin

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive(), "the origin did not stop"
