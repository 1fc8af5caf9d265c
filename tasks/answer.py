"""An answer to a request that left the cluster, and what it means to us where there is none.

Laws of this file:
1. The body is given as it came, never decoded, and ends only where HTTP and TLS say that it does.
2. What aiohttp, TLS and the system raise on the way is turned into our errors in `classify`.
"""

import re
import ssl
from enum import Enum, auto

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from rayhaul.errors import (
    RayhaulError,
    SourceError,
    SourceFailed,
    SourceStalled,
    SourceTimeout,
    SourceTruncated,
    SourceUnreachable,
)
from rayhaul.metrics import SOURCE_BYTES, Meter
from tasks.arriving import Arriving
from tasks.guard import Denied

_SURROGATES = re.compile("[\ud800-\udfff]")


class Phase(Enum):
    """How far an exchange was when it failed."""

    HEADERS = auto()
    BODY = auto()


class RefusedByGuard(OSError):
    """A denial in the shape that passes through aiohttp's connector."""

    def __init__(self, denied: Denied) -> None:
        self.denied = denied
        super().__init__("refused by the egress guard")


#: What goes wrong before the headers are in; the first match counts. The subclasses stand before their bases.
_BEFORE_HEADERS: tuple[tuple[type[Exception], type[SourceError], str], ...] = (
    (TimeoutError, SourceTimeout, "{host} did not answer in time."),
    (aiohttp.ClientConnectorDNSError, SourceUnreachable, "The name {host} cannot be resolved."),
    (aiohttp.ClientConnectorCertificateError, SourceUnreachable, "The TLS certificate of {host} is not valid."),
    (aiohttp.ClientSSLError, SourceUnreachable, "The TLS handshake with {host} failed."),
    (aiohttp.ClientResponseError, SourceFailed, "{host} does not speak proper HTTP."),
    (Exception, SourceUnreachable, "The connection to {host} failed."),
)


def classify(error: Exception, phase: Phase, host: str) -> RayhaulError:
    """Return what an exception of aiohttp, TLS or the system means to us."""
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, RefusedByGuard):
        return cause.denied
    if phase is Phase.BODY:
        return SourceStalled() if isinstance(error, TimeoutError) else SourceTruncated()
    meaning, text = next((meaning, text) for kind, meaning, text in _BEFORE_HEADERS if isinstance(error, kind))
    return meaning(text.format(host=host))


def _readable(headers: CIMultiDictProxy[str]) -> CIMultiDictProxy[str]:
    """Return the headers with what is not UTF-8 read as ISO-8859-1 (RFC 9110 5.5); aiohttp leaves half surrogates."""
    if not any(_SURROGATES.search(value) for value in headers.values()):
        return headers
    return CIMultiDictProxy(
        CIMultiDict(
            (name, value.encode("utf-8", "surrogateescape").decode("latin-1") if _SURROGATES.search(value) else value)
            for name, value in headers.items()
        )
    )


class Answer:
    """A response whose headers are in. The body is read piece by piece and never decoded."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        meter: Meter,
        *,
        stall_timeout_s: float,
        tls: ssl.SSLObject | None = None,
    ) -> None:
        self._response = response
        #: Of characters that every database and JSON reader takes.
        self.headers = _readable(response.headers)
        self._meter = meter
        self._stall_timeout_s = stall_timeout_s
        self._arriving: Arriving | None = None
        self._bytes_read = 0
        self._host = response.url.raw_host or ""
        #: Redirects that led here.
        self.redirects_count = 0
        # None where the whole body is in already.
        protocol = response.connection.protocol if response.connection else None
        if protocol is not None:
            # From here on the limit is the silence between two pieces.
            protocol.read_timeout = stall_timeout_s
            protocol.start_timeout()
        # Kept only while the connection cannot pass to another request: a body that ends by closing it.
        has_end = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        self._protocol = None if has_end else protocol
        self._tls = None if has_end else tls

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def final_url(self) -> str:
        """The URL that answered, after redirects, without user info."""
        return str(self._response.url)

    async def read(self) -> bytes:
        """Return the next bytes as they arrive, maybe as a read-only view; empty at the body's proper end.

        Raises: SourceStalled, SourceTruncated.
        """
        try:
            piece = await (self._response.content.readany() if self._arriving is None else self._arriving.read())
        except (aiohttp.ClientError, OSError) as err:
            raise classify(err, Phase.BODY, self._host) from err
        if piece:
            self._meter.inc(SOURCE_BYTES, by=len(piece))
            self._bytes_read += len(piece)
            if self._arriving is None:
                self._arriving = Arriving.of(self._response, self._bytes_read, stall_timeout_s=self._stall_timeout_s)
        elif self._was_reset() or self._was_cut():
            raise SourceTruncated
        return piece

    def _was_reset(self) -> bool:
        # aiohttp takes a reset for the end of a body that has neither length nor chunks. RFC 9112 8: it is incomplete.
        error = self._protocol.exception() if self._protocol is not None else None
        return isinstance(error, aiohttp.ClientOSError)

    def _was_cut(self) -> bool:
        # Only a close_notify ends TLS properly (RFC 9112 9.8); without it the next read would wait for more.
        if self._tls is None:
            return False
        try:
            return self._tls.read(1) != b""
        except ssl.SSLZeroReturnError:
            return False
        except ssl.SSLError:
            return True

    def close(self) -> None:
        """Give the connection back; one with an unread rest is closed."""
        if self._arriving is not None:
            self._arriving.give_back()
        self._response.release()
