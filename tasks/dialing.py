"""Sockets for what is not HTTP: every name and every address passes the guard, as it does in the HTTP client.

Laws of this file:
1. A name is refused when any of its addresses is bad; what is connected to is an address that was checked.
2. A second connection of an exchange goes to the address of the first one, whatever the other side says.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Collection, Sequence

from aiohttp.abc import AbstractResolver, ResolveResult

from rayhaul.errors import SourceError, SourceFailed, SourceStalled, SourceTimeout, SourceTruncated, SourceUnreachable
from rayhaul.metrics import EGRESS_DENIED, Meter
from rayhaul.redaction import redacted
from rayhaul.settings import EgressSettings, SourceSettings
from tasks.answer import Phase
from tasks.guard import AddressGuard, Denied, Reason
from tasks.names import Names
from tasks.places import Place

_log = logging.getLogger(__name__)

#: What goes wrong before the first byte of a file; the first match counts. The subclasses stand before their bases.
_BEFORE_BODY: Sequence[tuple[type[Exception], type[SourceError], str]] = (
    (TimeoutError, SourceTimeout, "{host} did not answer in time."),
    (ssl.SSLCertVerificationError, SourceUnreachable, "The TLS certificate of {host} is not valid."),
    (ssl.SSLError, SourceUnreachable, "The TLS handshake with {host} failed."),
    (OSError, SourceUnreachable, "The connection to {host} failed."),
    (EOFError, SourceUnreachable, "The connection to {host} failed."),
    (Exception, SourceFailed, "{host} does not speak its protocol properly."),
)

#: Below are the ports of services; no server sends us there for its data.
_DATA_PORT_MIN = 1024
_PORTS_END = 65_536


def classify(error: Exception, phase: Phase, host: str) -> SourceError:
    """Return what an exception of TLS or the system means to us, or one of a library that has found nonsense."""
    if phase is Phase.BODY and isinstance(error, TimeoutError):
        return SourceStalled()
    if phase is Phase.BODY and isinstance(error, OSError | EOFError):
        return SourceTruncated()
    meaning, text = next((meaning, text) for kind, meaning, text in _BEFORE_BODY if isinstance(error, kind))
    return meaning(text.format(host=host))


class Dialer:
    """One per process."""

    def __init__(
        self,
        guard: AddressGuard,
        egress: EgressSettings,
        source: SourceSettings,
        *,
        slots: asyncio.Semaphore,
        meter: Meter,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """`slots`: for all connections to sources, the HTTP client's too, as `resolver` (default: one of its own)."""
        self.source = source
        self.slots = slots
        self.meter = meter
        self.guard = guard
        self._egress = egress
        self._names = resolver or Names()

    def place(self, url: str) -> Place:
        """Return where the file of a URL lies. Raises: InvalidRequest; EgressDenied."""
        try:
            return Place.of(self.guard, url)
        except Denied as denied:
            self._deny(denied, redacted(url))
            raise

    def _deny(self, denied: Denied, where: str) -> None:
        self.meter.inc(EGRESS_DENIED, denied.reason)
        _log.warning("egress denied (%s): %s", denied.reason, where, extra={"code": denied.code})

    async def dial(
        self,
        host: str,
        port: int,
        *,
        ports: Collection[int],
        kind: socket.SocketKind = socket.SOCK_STREAM,
        family: int = socket.AF_UNSPEC,
    ) -> socket.socket:
        """Return a socket connected to a host; `ports`: of the protocol, those that need no entry in the allow list.

        Whatever the `family` that is wanted, all addresses of the name are checked.
        Raises: EgressDenied; SourceUnreachable; SourceTimeout.
        """
        try:
            async with asyncio.timeout(self._egress.dns_timeout_s + self.source.connect_timeout_s):
                records = await self._resolved(host, port, ports)
                wanted = [record for record in records if family in {socket.AF_UNSPEC, record["family"]}]
                return await self._first_of(wanted, host, kind)
        except Denied as denied:
            self._deny(denied, host)
            raise
        except TimeoutError:
            raise SourceTimeout(f"{host} did not answer in time.") from None

    async def dial_peer(self, first: socket.socket, port: int) -> socket.socket:
        """Return a second socket to the machine at the other end of `first`.

        Raises: EgressDenied; SourceUnreachable; SourceTimeout.
        """
        address = first.getpeername()
        if not _DATA_PORT_MIN <= port < _PORTS_END:
            denied = Denied(Reason.PORT)
            self._deny(denied, f"{address[0]}:{port}")
            raise denied
        try:
            async with asyncio.timeout(self.source.connect_timeout_s):
                # Flow and scope of IPv6 go along.
                return await _connected(first.family, (address[0], port, *address[2:]), socket.SOCK_STREAM)
        except TimeoutError:
            raise SourceTimeout(f"{address[0]} did not answer in time.") from None
        except OSError as error:
            raise SourceUnreachable(f"The connection to {address[0]} failed.") from error

    async def _resolved(self, host: str, port: int, ports: Collection[int]) -> Sequence[ResolveResult]:
        try:
            records = await self._names.resolve(host, port, socket.AF_UNSPEC)
        except OSError as error:
            raise SourceUnreachable(f"The name {host} cannot be resolved.") from error
        for record in records:
            self.guard.check_address(record["host"], port, host, ports=ports)
        return records

    async def _first_of(self, records: Sequence[ResolveResult], host: str, kind: socket.SocketKind) -> socket.socket:
        for record in records:
            try:
                return await _connected(record["family"], (record["host"], record["port"]), kind)
            except OSError as error:
                _log.info("%s: no connection to %s: %s", host, record["host"], error.strerror or type(error).__name__)
        raise SourceUnreachable(f"The connection to {host} failed.")


async def _connected(family: int, address: tuple[str | int, ...], kind: socket.SocketKind) -> socket.socket:
    """Raises: OSError."""
    made = socket.socket(family, kind)
    try:
        made.settimeout(0)
        await asyncio.get_running_loop().sock_connect(made, address)
    except BaseException:
        made.close()
        raise
    return made
