"""The body of an answer on its way from the socket into buffers of our own, past the HTTP library's copies of it.

Laws of this file:
1. It begins where the library has given away everything that it took, and ends with the last byte of the announced
   length. Then the library has its connection back, with a parser that expects an answer, fit for another request.
2. Never is more given than was announced, and no more taken than one buffer ahead of who reads: the socket slows the
   source. One byte is asked for beyond the end: a source that sends it has broken the framing, and its connection is
   closed after the body instead of being used again.
3. What has been given away is never written to again, and nobody else can write to it.
4. Only a body of a plain announced length (RFC 9112 6.2) is taken over; whatever ends or is coded otherwise is not.
"""

import asyncio
from typing import Self

import aiohttp
from aiohttp.client_proto import ResponseHandler

#: Of one buffer, and so the largest piece: large enough to be few, small enough for a cache.
PIECE_BYTES_MAX = 1024 * 1024
#: A smaller rest is not worth the change of protocols.
REST_BYTES_MIN = 256 * 1024


class Arriving(asyncio.BufferedProtocol):
    """Stands in for the library's protocol while the rest of one body comes."""

    def __init__(
        self, library: ResponseHandler, body: aiohttp.StreamReader, rest_bytes: int, *, stall_timeout_s: float
    ) -> None:
        assert library.transport is not None, "it is connected"
        self._library = library
        self._transport = library.transport
        self._body = body
        #: Announced, and not in yet.
        self._rest_bytes = rest_bytes
        self._stall_timeout_s = stall_timeout_s
        self._buffer = _fresh_buffer(rest_bytes)
        self._filled_bytes = 0
        self._has_surplus = False
        self._waiting: asyncio.Future[None] | None = None
        self._error: OSError | None = None
        self._stands_in = False

    @classmethod
    def of(cls, response: aiohttp.ClientResponse, bytes_read: int, *, stall_timeout_s: float) -> Self | None:
        """Take over the rest of a body of which so much was read; None where that can not be, or not yet."""
        body, connection = response.content, response.connection
        library = connection.protocol if connection is not None else None
        transport = library.transport if library is not None else None
        if library is None or transport is None or body.is_eof() or body.exception() is not None:
            return None
        rest_bytes = (response.content_length or 0) - bytes_read
        is_coded = "Transfer-Encoding" in response.headers or "Content-Encoding" in response.headers
        if rest_bytes < REST_BYTES_MIN or is_coded or library.upgraded:
            return None
        # What the library holds back while it does not read would be lost, and so would the end of a connection of
        # which it is to be told already.
        if body.total_bytes != bytes_read or transport.is_closing() or not transport.is_reading():
            return None
        arriving = cls(library, body, rest_bytes, stall_timeout_s=stall_timeout_s)
        arriving._begin()
        return arriving

    def _begin(self) -> None:
        # From here on silence is timed in `read`.
        self._library.read_timeout = None
        self._library.start_timeout()
        self._stands_in = True
        # A transport chooses how it reads when it begins to.
        self._transport.pause_reading()
        self._transport.set_protocol(self)
        self._transport.resume_reading()

    def give_back(self) -> None:
        """Let the library have its connection again; with a rest of the body unread, it will close it."""
        if not self._stands_in:
            return
        self._stands_in = False
        self._transport.pause_reading()
        self._transport.set_protocol(self._library)
        if self._rest_bytes > 0 or self._error is not None:
            self._fail(ConnectionError("the connection was given back"))
            return
        if self._has_surplus:
            self._library.force_close()
        # Its parser waits for a body that came past it: it would swallow what nobody asked for. A new one refuses that.
        self._library.set_response_params(read_timeout=self._stall_timeout_s)
        self._body.feed_eof()

    async def read(self) -> bytes:
        """Return the next bytes as they arrive; empty at the end. Raises: OSError; TimeoutError of a silence."""
        if self._filled_bytes == 0 and self._rest_bytes > 0:
            if self._error is None:
                await self._more()
            if self._filled_bytes == 0 and self._error is not None:
                raise self._error
        piece = self._taken()
        if self._rest_bytes == 0:
            self.give_back()
        elif self._stands_in:
            self._transport.resume_reading()
        return piece

    async def _more(self) -> None:
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        silence = loop.call_later(self._stall_timeout_s, self._fail, TimeoutError())
        try:
            await self._waiting
        finally:
            silence.cancel()
            self._waiting = None

    def _taken(self) -> bytes:
        piece = self._buffer[: self._filled_bytes]
        self._filled_bytes = 0
        if len(piece) * 2 < len(self._buffer):
            # Of what trickles, a copy costs less than another buffer.
            return bytes(piece)
        self._buffer = _fresh_buffer(self._rest_bytes)
        # Hashes, sockets and byte arrays take a view as they take bytes.
        return piece.toreadonly()  # type: ignore[return-value]

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _fail(self, error: OSError) -> None:
        self._error = self._error or error
        self._wake()

    # --- what the transport calls ---

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer[self._filled_bytes : self._filled_bytes + self._rest_bytes + 1]

    def buffer_updated(self, nbytes: int) -> None:
        self._has_surplus = nbytes > self._rest_bytes
        taken_bytes = min(nbytes, self._rest_bytes)
        self._filled_bytes += taken_bytes
        self._rest_bytes -= taken_bytes
        if self._filled_bytes == len(self._buffer) or self._rest_bytes == 0:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        # The transport closes itself, and tells so by `connection_lost`.
        self._library.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stands_in = False
        # Not the error itself: one that the kernel gave up by (ETIMEDOUT) is no silence of the source's.
        self._fail(ConnectionError(f"the connection is lost: {exc}"))
        self._library.connection_lost(exc)

    def pause_writing(self) -> None:
        self._library.pause_writing()

    def resume_writing(self) -> None:
        self._library.resume_writing()


def _fresh_buffer(rest_bytes: int) -> memoryview:
    # With room for one byte too many.
    return memoryview(bytearray(min(PIECE_BYTES_MAX, rest_bytes + 1)))
