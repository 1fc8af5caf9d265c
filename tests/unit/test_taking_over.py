"""When a body is taken over, how buffers are made, and what errors mean, on a transport that is told what happens."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from rayhaul.errors import SourceTruncated
from tasks import arriving as module
from tasks.answer import Phase, classify
from tasks.arriving import PIECE_BYTES_MAX, REST_BYTES_MIN, Arriving


class _Transport:
    """Tells whether it reads, and of whom it is."""

    def __init__(self) -> None:
        self.is_paused = self.ends = False
        self.protocol: object = None

    def is_closing(self) -> bool:
        return self.ends

    def is_reading(self) -> bool:
        return not self.is_paused

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def set_protocol(self, protocol: object) -> None:
        assert self.is_paused, "uvloop looks at the protocol when it begins to read"
        self.protocol = protocol


class _Library(SimpleNamespace):
    def __init__(self) -> None:
        super().__init__(transport=_Transport(), upgraded=False, read_timeout=1.0, is_lost=False)
        #: What was done to it at the end, in order.
        self.calls: list[str] = []

    def start_timeout(self) -> None:
        assert self.read_timeout is None

    def connection_lost(self, _exc: Exception | None) -> None:
        self.is_lost = True

    def set_response_params(self, *, read_timeout: float) -> None:
        self.read_timeout = read_timeout
        self.calls.append("parser")

    def force_close(self) -> None:
        self.calls.append("close")

    def feed_eof(self) -> None:
        # From here on it may have another request.
        assert self.transport.protocol is self
        self.calls.append("end")


def _response(library: _Library, rest_bytes: int, **headers: str) -> Any:
    content = SimpleNamespace(is_eof=lambda: False, exception=lambda: None, total_bytes=10, feed_eof=library.feed_eof)
    connection = SimpleNamespace(protocol=library)
    return SimpleNamespace(content=content, connection=connection, content_length=10 + rest_bytes, headers=headers)


def _taken(response: Any) -> Arriving | None:
    return Arriving.of(response, 10, stall_timeout_s=1)


@pytest.fixture
def library() -> _Library:
    return _Library()


def _feed(arriving: Arriving, data: bytes) -> None:
    while data:
        buffer = arriving.get_buffer(-1)
        assert len(buffer) > 0
        some = data[: len(buffer)]
        buffer[: len(some)] = some
        arriving.buffer_updated(len(some))
        data = data[len(some) :]


def test_taken_over(library: _Library) -> None:
    """A long rest on a connection that reads, all before it given away, is."""
    arriving = _taken(_response(library, REST_BYTES_MIN))
    assert library.transport.protocol is arriving
    assert library.transport.is_reading()
    assert library.read_timeout is None


@pytest.mark.parametrize(
    "why", ["held back", "paused", "closing", "upgraded", "lost", "released", "at its end", "failed"]
)
def test_not_taken_over(library: _Library, why: str) -> None:
    """What the library holds back would be lost, and so would the end of a connection that it is to be told of."""
    response = _response(library, REST_BYTES_MIN)
    match why:
        case "held back":
            response.content.total_bytes = 11
        case "paused":
            library.transport.is_paused = True
        case "closing":
            library.transport.ends = True
        case "upgraded":
            library.upgraded = True
        case "lost":
            library.transport = None
        case "released":
            response.connection = None
        case "at its end":
            response.content.is_eof = lambda: True
        case "failed":
            response.content.exception = OSError
    assert _taken(response) is None
    assert library.transport is None or library.transport.protocol is None


@pytest.mark.parametrize(
    ("rest_bytes", "headers"),
    [
        (REST_BYTES_MIN - 1, {}),
        (-10, {}),
        (REST_BYTES_MIN, {"Content-Encoding": "gzip"}),
        (REST_BYTES_MIN, {"Transfer-Encoding": "chunked"}),
    ],
)
def test_bodies_that_stay(library: _Library, rest_bytes: int, headers: dict[str, str]) -> None:
    """Short ones, those without a length, and coded ones are the library's."""
    assert _taken(_response(library, rest_bytes, **headers)) is None


async def test_what_trickles_fills_one_buffer(library: _Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand small pieces are copied once each, out of the same buffer; a large one is given with its buffer."""
    made: list[int] = []
    fresh = module._fresh_buffer

    def counted(rest_bytes: int) -> memoryview:
        made.append(rest_bytes)
        return fresh(rest_bytes)

    monkeypatch.setattr(module, "_fresh_buffer", counted)
    arriving = _taken(_response(library, 8 * PIECE_BYTES_MAX))
    assert arriving is not None
    for number in range(10_000):
        _feed(arriving, b"%05d" % number)
        piece = await arriving.read()
        assert (type(piece), piece) == (bytes, b"%05d" % number)
    assert len(made) == 1
    _feed(arriving, b"x" * PIECE_BYTES_MAX)
    assert library.transport.is_paused, "the buffer is full"
    large = await arriving.read()
    assert not library.transport.is_paused
    assert len(made) == 2
    _feed(arriving, b"y" * PIECE_BYTES_MAX)
    assert large == b"x" * PIECE_BYTES_MAX
    assert memoryview(large).readonly


async def test_an_error_of_the_system_is_no_silence(library: _Library) -> None:
    """A connection that the kernel gave up (ETIMEDOUT) was cut; the source was not asked for patience."""
    arriving = _taken(_response(library, REST_BYTES_MIN))
    assert arriving is not None
    reading = asyncio.create_task(arriving.read())
    await asyncio.sleep(0)
    arriving.connection_lost(TimeoutError(110, "timed out"))
    with pytest.raises(ConnectionError) as raised:
        await reading
    assert isinstance(classify(raised.value, Phase.BODY, "host"), SourceTruncated)
    assert library.is_lost


async def test_what_came_before_the_end_is_given(library: _Library) -> None:
    """A connection that is lost does not take along what had come; then it is told, each time."""
    arriving = _taken(_response(library, REST_BYTES_MIN))
    assert arriving is not None
    _feed(arriving, b"come")
    arriving.connection_lost(None)
    assert await arriving.read() == b"come"
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await arriving.read()


@pytest.mark.parametrize("surplus", [b"", b"x"])
async def test_given_back(library: _Library, surplus: bytes) -> None:
    """After the last byte nothing is read; then the library gets its connection, to be closed where there was more."""
    arriving = _taken(_response(library, REST_BYTES_MIN))
    assert arriving is not None
    _feed(arriving, b"x" * (REST_BYTES_MIN - 1))
    assert not library.transport.is_paused
    _feed(arriving, b"x" + surplus)
    assert library.transport.is_paused
    assert library.transport.protocol is arriving
    assert await arriving.read() == b"x" * REST_BYTES_MIN
    assert library.calls == [*(["close"] if surplus else []), "parser", "end"]
    assert library.read_timeout == 1
    assert await arriving.read() == b""
