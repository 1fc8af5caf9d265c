"""Datagrams to UDP trackers and back: what SOCKS5 calls an association.

Laws of this file:
1. A tracker's name and address are checked by the same guard as every other socket's. It is asked from a socket that is
   connected to the address that was checked: that one hears nobody else.
2. Nothing goes out but what trackers are asked (BEP 15): whole, at most `_REQUESTS_PER_S`, to `_TRACKERS_MAX` at once.
3. Nobody is carried for but the port of loopback that the library named, and only as long as the connection stands over
   which it did. Without an association nobody is heard at all.

Sources: RFC 1928 7 (UDP ASSOCIATE), BEP 15 (UDP trackers), BEP 41 (the path of their URLs).
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

from rayhaul.errors import RayhaulError
from tasks.dialing import Dialer

_log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
#: Kinds of address. Source: RFC 1928 5.
IPV4, NAME, IPV6 = 1, 3, 4
#: Two reserved bytes, and no fragment.
_WHOLE = bytes(3)
_HEADER_BYTES_MIN = 10
_DATAGRAM_BYTES_MAX = 1024

#: Source: BEP 15.
_CONNECT, _ANNOUNCE, _SCRAPE = 0, 1, 2
_CONNECT_ID = 0x417_2710_1980.to_bytes(8)
_CONNECT_BYTES, _ANNOUNCE_BYTES, _SCRAPE_BYTES = 16, 98, 36
#: Of an announcement: one option with the URL's path (BEP 41).
_OPTION_BYTES_MAX = 2 + 255
#: The library reads no more of a datagram than 1500 bytes, ours before it included; this is a whole number of peers.
_ANSWER_BYTES_MAX = 20 + 245 * 6

_TRACKERS_MAX = 128
#: So long after its last answer a tracker's name is resolved anew.
_SILENCE_S_MAX = 60.0
#: What waits while a name is resolved.
_WAITING_MAX = 32
_REQUESTS_PER_S, _REQUESTS_AT_ONCE = 50.0, 200.0


class Datagrams:
    """One per proxy, on the loop that dials."""

    def __init__(self, dialer: Dialer, *, ports: Collection[int]) -> None:
        """`ports`: of trackers, those that need no entry in the allow list."""
        #: Whether the library can ask trackers by now.
        self.is_ready = asyncio.Event()
        self._dialer = dialer
        self._ports = ports
        self._socket: socket.socket | None = None
        self._port = 0
        self._association: object = None
        self._trackers: dict[tuple[str, int], _Tracker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._allowance = _REQUESTS_AT_ONCE
        self._counted_s = 0.0

    def open(self, port: int) -> None:
        """Have a port of loopback. Raises: OSError where somebody else has it."""
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            made.settimeout(0)
            made.bind((LOOPBACK, port))
            self._hear_only(made, port)
        except BaseException:
            made.close()
            raise
        self._socket, self._port = made, port

    async def aclose(self) -> None:
        self._end()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @contextmanager
    def associated(self, client_port: int) -> Iterator[None]:
        """Carry what comes from a port of loopback, in place of an association that has not ended yet.

        Raises: OSError.
        """
        assert self._socket is not None, "it was opened"
        self._end()
        mine = self._association = object()
        self._hear_only(self._socket, client_port)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._hear, self._socket)
        self.is_ready.set()
        try:
            yield
        finally:
            if self._association is mine:
                self._end()

    def _end(self) -> None:
        self.is_ready.clear()
        self._association = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            # It can hear nobody but itself.
            self._hear_only(self._socket, self._port)
        for task in self._tasks:
            task.cancel()

    @staticmethod
    def _hear_only(made: socket.socket, port: int) -> None:
        """Raises: OSError."""
        made.connect((LOOPBACK, port))

    def _hear(self, heard: socket.socket) -> None:
        # There may be nothing after all, or a notice that nobody is at the other end.
        with suppress(OSError):
            datagram = heard.recv(_DATAGRAM_BYTES_MAX)
            try:
                host, port, request = unwrapped(datagram)
            except ValueError as error:
                _log.debug("a datagram of the library is not carried: %s", error)
                return
            self._send(host, port, request)

    def _send(self, host: str, port: int, request: bytes) -> None:
        if not self._is_within_rate():
            return
        tracker = self._trackers.get((host, port))
        if tracker is None:
            if len(self._trackers) >= _TRACKERS_MAX:
                return
            tracker = self._trackers[host, port] = _Tracker()
            task = asyncio.get_running_loop().create_task(self._carry(host, port, tracker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        tracker.send(request)

    def _is_within_rate(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        brought = (now_s - self._counted_s) * _REQUESTS_PER_S
        self._allowance = min(_REQUESTS_AT_ONCE, self._allowance + brought)
        self._counted_s = now_s
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    async def _carry(self, host: str, port: int, tracker: "_Tracker") -> None:
        """Exchange datagrams with a tracker until it has been silent for a while, or is not there."""
        try:
            # The library reads peers in an answer as IPv4's, where a name was given.
            made = await self._dialer.dial(host, port, ports=self._ports, kind=socket.SOCK_DGRAM, family=socket.AF_INET)
            with made, suppress(OSError, TimeoutError):
                await tracker.exchange(made, self._answer)
        except (RayhaulError, ValueError) as error:
            # The dialer has counted and logged what it denied; a name may be none.
            _log.debug("no tracker at %s: %s", host, error)
        finally:
            # After an association another tracker may be there.
            if self._trackers.get((host, port)) is tracker:
                del self._trackers[host, port]

    def _answer(self, answer: bytes, address: tuple[str, int]) -> None:
        """Raises: OSError."""
        if self._socket is not None and self._association is not None:
            self._socket.send(wrapped(answer, *address))


class _Tracker:
    """Whoever is asked under one name and port."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque(maxlen=_WAITING_MAX)

    def send(self, request: bytes) -> None:
        if self._socket is None:
            self._waiting.append(request)
            return
        # A datagram may be lost; who waits for its answer gives up by itself.
        with suppress(OSError):
            self._socket.send(request)

    async def exchange(self, made: socket.socket, answer: Callable[[bytes, tuple[str, int]], None]) -> None:
        """Raises: TimeoutError after `_SILENCE_S_MAX` without an answer; OSError where nobody is there."""
        loop = asyncio.get_running_loop()
        address = made.getpeername()
        self._socket = made
        while self._waiting:
            self.send(self._waiting.popleft())
        async with asyncio.timeout(_SILENCE_S_MAX) as limit:
            while True:
                answer(await loop.sock_recv(made, _ANSWER_BYTES_MAX), address)
                limit.reschedule(loop.time() + _SILENCE_S_MAX)


def unwrapped(datagram: bytes) -> tuple[str, int, bytes]:
    """Return host and port that a datagram of the library is for, and what a tracker is asked by it.

    Raises: ValueError for a fragment, and for what is no question to a tracker.
    """
    if len(datagram) < _HEADER_BYTES_MIN or not datagram.startswith(_WHOLE):
        raise ValueError("it is a fragment")
    kind = datagram[3]
    begins_at, length = (5, datagram[4]) if kind == NAME else (4, {IPV4: 4, IPV6: 16}.get(kind, 0))
    ends_at = begins_at + length
    named = datagram[begins_at:ends_at]
    host = named.decode("ascii") if kind == NAME else str(ip_address(named))
    port, request = int.from_bytes(datagram[ends_at : ends_at + 2]), datagram[ends_at + 2 :]
    if not _is_request(request):
        raise ValueError("it is no question to a tracker")
    return host, port, request


def wrapped(answer: bytes, host: str, port: int) -> bytes:
    """Return what is passed on of an IPv4 address's answer."""
    return _WHOLE + bytes([IPV4]) + ip_address(host).packed + port.to_bytes(2) + answer


def _is_request(said: bytes) -> bool:
    action = int.from_bytes(said[8:12])
    if action == _CONNECT:
        return len(said) == _CONNECT_BYTES and said.startswith(_CONNECT_ID)
    if action == _ANNOUNCE:
        return _ANNOUNCE_BYTES <= len(said) <= _ANNOUNCE_BYTES + _OPTION_BYTES_MAX
    return action == _SCRAPE and len(said) == _SCRAPE_BYTES
