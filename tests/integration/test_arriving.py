"""Long bodies that come past the HTTP library: the bytes, the connection afterwards, and all ways in which they end."""

import asyncio
import gzip
import hashlib
import importlib.util
import random
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from aiohttp.client_proto import ResponseHandler
from authority import certificates
from origin import content_bytes
from raw_source import Peer, RawSource

from rayhaul.errors import SourceStalled, SourceTimeout, SourceTruncated, SourceUnreachable
from rayhaul.metrics import SOURCE_BYTES, Meter
from rayhaul.settings import EgressSettings, SourceSettings
from tasks.answer import Answer
from tasks.arriving import PIECE_BYTES_MAX, REST_BYTES_MIN, Arriving
from tasks.egress import GuardedClient

_MIB = 1024 * 1024
_SEED = 11
LONG = content_bytes(_SEED, 0, 3 * _MIB + 17)
_SHORT = b"the next answer"
_UNASKED = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nunasked"


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["plain", "tls"])
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


#: Ray's processes run uvloop.
_LOOPS = [
    "asyncio",
    pytest.param("uvloop", marks=pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="no uvloop here")),
]


@pytest.fixture(params=_LOOPS)
def loops(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    if request.param == "asyncio":
        return asyncio.new_event_loop
    import uvloop  # noqa: PLC0415 - where it is there

    return uvloop.new_event_loop


class Rig:
    """Runs a test's coroutine with a client of a scripted source, and sees that nothing is complained of."""

    def __init__(
        self,
        loops: Callable[[], asyncio.AbstractEventLoop],
        contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._loops = loops
        self._contexts = contexts
        self.meter = Meter()
        #: Bodies that were taken over.
        self.taken: list[Arriving] = []
        begin = Arriving._begin

        def counted(arriving: Arriving) -> None:
            self.taken.append(arriving)
            begin(arriving)

        monkeypatch.setattr(Arriving, "_begin", counted)

    @property
    def bytes_counted(self) -> float:
        return sum(count for key, count in self.meter.snapshot().counters.items() if key[0] == SOURCE_BYTES.name)

    def run(
        self,
        script: Callable[[Peer], None],
        task: Callable[[GuardedClient, RawSource], Awaitable[None]],
        **settings: float,
    ) -> None:
        complaints: list[object] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            async with (
                asyncio.timeout(40),
                GuardedClient(
                    EgressSettings(allow=(source.host_port,)),
                    SourceSettings(**settings),
                    connections_max=8,
                    meter=self.meter,
                    tls=None if self._contexts is None else self._contexts[1],
                ) as client,
            ):
                await task(client, source)
            async with asyncio.timeout(40):
                while _is_connected(source.port):
                    await asyncio.sleep(0.02)
            # Transports that were closed say so at the next turns.
            await asyncio.sleep(0.02)

        with (
            RawSource(script, tls=None if self._contexts is None else self._contexts[0]) as source,
            asyncio.Runner(loop_factory=self._loops) as runner,
        ):
            runner.run(main())
        assert complaints == []


def _is_connected(port: int) -> bool:
    """Say whether this process has a connection to the source that it has not closed."""
    connections = psutil.Process().net_connections("tcp4")
    return any(one.status != psutil.CONN_LISTEN and one.raddr.port == port and one.fd >= 0 for one in connections)


@pytest.fixture
def rig(
    wire: str,
    loops: Callable[[], asyncio.AbstractEventLoop],
    tls_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Rig]:
    if wire == "plain":
        yield Rig(loops, None, monkeypatch)
        return
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tls_files[1])
    yield Rig(loops, (server, ssl.create_default_context(cafile=tls_files[0])), monkeypatch)


async def pieces_of(answer: Answer) -> list[bytes]:
    pieces = []
    while piece := await answer.read():
        pieces.append(piece)
    assert await answer.read() == b"", "the end stays the end"
    return pieces


async def drained(answer: Answer, got: bytearray) -> None:
    while piece := await answer.read():
        got += piece


async def fetched(client: GuardedClient, source: RawSource) -> bytes:
    async with client.open(source.url) as answer:
        return b"".join(await pieces_of(answer))


async def all_in(arriving: Arriving) -> None:
    """Return when all that was announced is in, though nobody reads."""
    while arriving._rest_bytes:
        await asyncio.sleep(0.005)


async def left(peer: Peer) -> None:
    """Return when the client has ended the connection."""
    async with asyncio.timeout(10):
        while not peer.is_left.is_set():
            await asyncio.sleep(0.005)


def send_in(peer: Peer, data: bytes, dice: random.Random) -> None:
    """Send in splits of any size, some after a moment."""
    rest = memoryview(data)
    while rest:
        size = dice.randint(1, dice.choice((100, 5_000, 70_000, 400_000, 2 * _MIB)))
        peer.send(bytes(rest[:size]))
        rest = rest[size:]
        time.sleep(dice.choice((0, 0, 0.003)))


# --- the bytes, and the connection afterwards ---


def test_bytes_and_connection(rig: Rig) -> None:
    """Whatever the sizes and splits, the bytes are the source's, and stay so once given, on one connection."""
    dice = random.Random(7)
    sizes = [len(LONG), 2 * _MIB, REST_BYTES_MIN + 1, *(dice.randint(2, len(LONG)) for _ in range(6)), 10 * _MIB]
    bodies = [content_bytes(number, 0, size) for number, size in enumerate(sizes)]

    def script(peer: Peer) -> None:
        for body in bodies:
            assert peer.asked()
            peer.begin(len(body))
            send_in(peer, body, dice)
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        pauses = random.Random(8)
        for body in bodies:
            given = []
            async with client.open(source.url) as answer:
                while piece := await answer.read():
                    given.append((piece, hashlib.sha256(piece).digest()))
                    await asyncio.sleep(pauses.choice((0, 0, 0.002)))
            assert b"".join(piece for piece, _ in given) == body
            assert [hashlib.sha256(piece).digest() for piece, _ in given] == [digest for _, digest in given]
            # The first one is the library's.
            assert max(len(piece) for piece, _ in given[1:] or given) <= PIECE_BYTES_MAX
            assert memoryview(given[-1][0]).readonly
        assert rig.bytes_counted == sum(sizes)
        assert len(source.peers) == 1

    rig.run(script, task)
    assert len(rig.taken) >= 4


def test_a_body_longer_than_the_silence_allowed(rig: Rig) -> None:
    """The library's clock does not run on meanwhile, and runs again for the next answer's headers."""

    def script(peer: Peer) -> None:
        assert peer.asked()
        peer.begin(len(LONG))
        for first in range(0, len(LONG), 256 * 1024):
            peer.send(LONG[first : first + 256 * 1024])
            time.sleep(0.06)
        assert peer.asked()
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        assert await fetched(client, source) == LONG
        with pytest.raises(SourceTimeout):
            await fetched(client, source)
        assert len(source.peers) == 1

    rig.run(script, task, stall_timeout_s=0.5, first_byte_timeout_s=0.4)
    assert len(rig.taken) == 1


@pytest.mark.parametrize("surplus", [b"x", b"garbage\r\n" * 1000, _UNASKED])
def test_more_than_was_announced(rig: Rig, surplus: bytes) -> None:
    """It is no part of the body, and the connection that brought it does not bring the next answer."""

    def script(peer: Peer) -> None:
        body = LONG if peer.number == 1 else _SHORT
        assert peer.asked()
        peer.begin(len(body))
        # The end and the surplus can not be taken apart.
        peer.send(body[:-1000])
        time.sleep(0.05)
        peer.send(body[-1000:] + (surplus if peer.number == 1 else b""))
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        assert await fetched(client, source) == LONG
        assert await fetched(client, source) == _SHORT
        assert len(source.peers) == 2
        await left(source.peers[0])

    rig.run(script, task)
    assert len(rig.taken) == 1


@pytest.mark.parametrize("surplus", [b"garbage\r\n\r\n", _UNASKED])
def test_bytes_that_nobody_asked_for(rig: Rig, surplus: bytes) -> None:
    """What comes on an idle connection is not swallowed, nor taken for an answer: another connection is made."""
    is_idle, is_sent = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(LONG if peer.number == 1 else _SHORT)
        if peer.number == 1:
            is_idle.wait(10)
            peer.send(surplus)
            is_sent.set()
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        assert await fetched(client, source) == LONG
        is_idle.set()
        assert await asyncio.to_thread(is_sent.wait, 10)
        await asyncio.sleep(0.05)
        assert await fetched(client, source) == _SHORT
        assert len(source.peers) == 2

    rig.run(script, task)
    assert len(rig.taken) == 1


def test_connections_that_all_bring_something(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of which no connection can be used is given up, and not connected to over and over."""
    monkeypatch.setattr(ResponseHandler, "should_close", property(lambda _self: True))

    async def task(client: GuardedClient, source: RawSource) -> None:
        with pytest.raises(SourceUnreachable):
            await fetched(client, source)
        # The source accepts in its own time.
        async with asyncio.timeout(10):
            while len(source.peers) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(source.peers) <= 10

    rig.run(Peer.wait_left, task)


# --- how it ends otherwise ---


@pytest.mark.parametrize("how", ["finish", "cut", "reset"])
def test_cut_at_any_byte(rig: Rig, how: str) -> None:
    """A FIN, with and without the word of TLS, and a reset: what was given is the beginning, and it says truncated."""
    dice = random.Random(how)
    ends = [dice.randint(1, len(LONG) - 1) for _ in range(4)] + [len(LONG) - 1]

    def script(peer: Peer) -> None:
        assert peer.asked()
        peer.begin(len(LONG))
        send_in(peer, LONG[: ends[peer.number - 1]], dice)
        getattr(peer, how)()
        if how != "reset":
            peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        for end in ends:
            got = bytearray()
            async with client.open(source.url) as answer:
                with pytest.raises(SourceTruncated):
                    await drained(answer, got)
                with pytest.raises(SourceTruncated):
                    await answer.read()
            assert LONG[:end].startswith(got)
        assert len(source.peers) == len(ends)

    rig.run(script, task)
    assert rig.taken


@pytest.mark.parametrize("how", ["finish", "cut", "reset"])
def test_an_end_after_the_last_byte(rig: Rig, how: str) -> None:
    """A body that is in is whole, whatever becomes of its connection while it waits to be read."""
    body = LONG[:_MIB]
    are_all_in, is_gone = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        assert peer.asked()
        peer.begin(len(body), "Connection: close")
        peer.send(body[:100_000])
        time.sleep(0.05)
        peer.send(body[100_000:])
        are_all_in.wait(10)
        getattr(peer, how)()
        is_gone.set()

    async def task(client: GuardedClient, source: RawSource) -> None:
        async with client.open(source.url) as answer:
            got = await answer.read()
            await all_in(rig.taken[0])
            are_all_in.set()
            await asyncio.to_thread(is_gone.wait, 10)
            await asyncio.sleep(0.05)
            assert b"".join([got, *await pieces_of(answer)]) == body

    rig.run(script, task)
    assert len(rig.taken) == 1


def test_an_end_that_comes_with_the_last_byte(rig: Rig) -> None:
    """A connection that is ended together with the body does not cost the body."""

    def script(peer: Peer) -> None:
        peer.answer(LONG[:_MIB], "Connection: close")
        peer.finish()

    async def task(client: GuardedClient, source: RawSource) -> None:
        for _ in range(5):
            assert await fetched(client, source) == LONG[:_MIB]

    rig.run(script, task)
    assert len(rig.taken) == 5


def test_silence(rig: Rig) -> None:
    """It is timed from the last byte on, and the connection is given up."""

    def script(peer: Peer) -> None:
        assert peer.asked()
        peer.begin(len(LONG))
        peer.send(LONG[:_MIB])
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        got, clock = bytearray(), asyncio.get_running_loop().time
        async with client.open(source.url) as answer:
            while len(got) < _MIB:
                got += await answer.read()
            began_s = clock()
            with pytest.raises(SourceStalled):
                await answer.read()
            assert clock() - began_s >= 0.49
        assert got == LONG[:_MIB]
        await left(source.peers[0])

    rig.run(script, task, stall_timeout_s=0.5)
    assert len(rig.taken) == 1


@pytest.mark.parametrize("is_waiting", [True, False])
def test_cancelled(rig: Rig, *, is_waiting: bool) -> None:
    """Whoever stops to read, in the middle of waiting or not, leaves a connection that is closed."""
    is_under_way = asyncio.Event()

    def script(peer: Peer) -> None:
        assert peer.asked()
        peer.begin(len(LONG))
        peer.send(LONG[:_MIB] if is_waiting else LONG)
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        async def reading() -> None:
            async with client.open(source.url) as answer:
                while await answer.read():
                    if rig.taken:
                        is_under_way.set()
                        if not is_waiting:
                            await asyncio.Event().wait()

        reader = asyncio.create_task(reading())
        await is_under_way.wait()
        await asyncio.sleep(0.05)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await left(source.peers[0])

    rig.run(script, task)
    assert len(rig.taken) == 1


def test_closed_when_all_is_in(rig: Rig) -> None:
    """A body of which nothing is on the way any more does not cost its connection, though nobody read it."""
    body = LONG[:_MIB]

    def script(peer: Peer) -> None:
        peer.answer(body)
        peer.answer(_SHORT)
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        async with client.open(source.url) as answer:
            await answer.read()
            await all_in(rig.taken[0])
        assert await fetched(client, source) == _SHORT
        assert len(source.peers) == 1

    rig.run(script, task)
    assert len(rig.taken) == 1


def test_closed_unread_and_read_afterwards(rig: Rig) -> None:
    """A body that was let go of says so to whoever reads on."""

    def script(peer: Peer) -> None:
        peer.answer(LONG)
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        async with client.open(source.url) as answer:
            await answer.read()
        with pytest.raises(SourceTruncated):
            await drained(answer, bytearray())
        await left(source.peers[0])

    rig.run(script, task)
    assert len(rig.taken) == 1


# --- bounds ---


def test_a_reader_that_stops_makes_the_source_wait(rig: Rig) -> None:
    """No more is taken than the system's buffers and one of ours have room for."""
    sent = [0]
    body = content_bytes(3, 0, _MIB) * 64

    def script(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
        assert peer.asked()
        peer.begin(len(body))
        for first in range(0, len(body), 65536):
            peer.send(body[first : first + 65536])
            sent[0] = first + 65536
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        async with client.open(source.url) as answer:
            got = bytearray(await answer.read())
            before = -1
            while sent[0] != before:
                before = sent[0]
                await asyncio.sleep(0.3)
            assert sent[0] < 24 * _MIB
            assert rig.taken[0]._filled_bytes <= PIECE_BYTES_MAX
            for piece in await pieces_of(answer):
                got += piece
        assert got == body

    rig.run(script, task)
    assert len(rig.taken) == 1


# --- what is never taken over ---


def _chunked(body: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:_MIB], body[_MIB:])) + b"0\r\n\r\n"


_ZIPPED = gzip.compress(LONG, 1)
_OTHER_BODIES = {
    "coded": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_ZIPPED),
        _ZIPPED,
        _ZIPPED,
    ),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", _chunked(LONG), LONG),
    "ended by closing": (b"HTTP/1.1 200 OK\r\n\r\n", LONG, LONG),
    "ended by closing, HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\n", LONG, LONG),
    "short": (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % REST_BYTES_MIN,
        LONG[:REST_BYTES_MIN],
        LONG[:REST_BYTES_MIN],
    ),
    "none": (b"HTTP/1.1 204 No Content\r\nContent-Length: 9000000\r\n\r\n", b"", b""),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9000000\r\n\r\n", b"", b""),
}


@pytest.mark.parametrize("kind", _OTHER_BODIES)
def test_never_taken_over(rig: Rig, kind: str) -> None:
    """Bodies that are coded, of no announced length, or short, and answers without one stay the library's."""
    head, sent, body = _OTHER_BODIES[kind]

    def script(peer: Peer) -> None:
        assert peer.asked()
        peer.send(head)
        # So that the first piece is not the whole.
        peer.send(sent[:1000])
        time.sleep(0.02)
        peer.send(sent[1000:])
        peer.finish()

    async def task(client: GuardedClient, source: RawSource) -> None:
        assert await fetched(client, source) == body

    rig.run(script, task)
    assert rig.taken == []


def test_an_old_answer_of_announced_length(rig: Rig) -> None:
    """HTTP/1.0 with a length is taken over, and its connection, which ends by it, is not used again."""

    def script(peer: Peer) -> None:
        assert peer.asked()
        peer.send(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LONG))
        peer.send(LONG)
        peer.wait_left()

    async def task(client: GuardedClient, source: RawSource) -> None:
        for number in (1, 2):
            assert await fetched(client, source) == LONG
            await left(source.peers[number - 1])

    rig.run(script, task)
    assert len(rig.taken) == 2
