"""A source on loopback that sends what a test writes, byte by byte, over blocking sockets in threads of its own.

with RawSource(lambda peer: peer.answer(b"body"), tls=None) as source:
    url = source.url
"""

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

#: Longest that a peer sends or waits: the tests are over long before.
_PATIENCE_S = 30


class Peer:
    """One connection, as the script of a test sees it."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        #: Of the connection, from 1.
        self.number = number
        #: Set when the client has ended the connection.
        self.is_left = threading.Event()

    def asked(self) -> bool:
        """Read one request; whether there was one."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = self.sock.recv(4096)
            if not data:
                self.is_left.set()
                return False
            head += data
        return True

    def begin(self, length: int, *headers: str) -> None:
        lines = ["HTTP/1.1 200 OK", f"Content-Length: {length}", *headers]
        self.send("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, body: bytes, *headers: str) -> None:
        if self.asked():
            self.begin(len(body), *headers)
            self.send(body)

    def wait_left(self) -> None:
        """Return when the client has ended the connection, however."""
        with suppress(OSError):
            while self.sock.recv(65536):
                pass
        self.is_left.set()

    def finish(self) -> None:
        """End with a FIN; TLS says so before."""
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(0.2)
            with suppress(OSError):
                self.sock.unwrap()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        """End with a FIN; TLS says nothing before."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class RawSource:
    """Each connection is given to the script, in a thread; what the script raises but OSError fails the test."""

    def __init__(self, script: Callable[[Peer], None], *, tls: ssl.SSLContext | None) -> None:
        self._script = script
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._troubles: list[Exception] = []
        self.peers: list[Peer] = []
        self.port = self._listener.getsockname()[1]
        self.host_port = f"127.0.0.1:{self.port}"
        self.url = f"{'https' if tls else 'http'}://{self.host_port}/f.bin"

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Wakes the thread that accepts, which close() alone does not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self.peers:
            with suppress(OSError):
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE_S)
        if self._troubles and error is None:
            raise self._troubles[0]

    def _begin(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(_PATIENCE_S)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._begin(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True)
            peer = Peer(sock, len(self.peers) + 1)
            self.peers.append(peer)
            self._script(peer)
        except OSError:
            pass
        except Exception as err:  # noqa: BLE001 - the test's thread raises it
            self._troubles.append(err)
        finally:
            if self.peers:
                self.peers[-1].is_left.set()
            sock.close()
