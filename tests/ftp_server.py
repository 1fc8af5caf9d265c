"""A real FTP server (pyftpdlib) in a thread of its own, over a directory, that misbehaves on request.

with ftp_server(root) as server:
    server.cut_after = 1000
    FtpTransport(...).open_range(Link(server.url("file.bin")), ...)
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.log import logger
from pyftpdlib.servers import FTPServer

USER, PASSWORD = "alice", "pw:with@signs"
ESCAPED_PASSWORD = "pw%3Awith%40signs"
_ROUND_S = 0.02
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class Ftp:
    """What a test sees of the server, and may change while it runs."""

    root: Path
    port: int = 0
    scheme: str = "ftp"
    #: A data connection is closed after so many bytes, and the server says that something went wrong.
    cut_after: int | None = None
    #: The same, but it says that all is well.
    cut_silently: bool = False
    #: Commands that are answered so.
    answers: dict[str, str] = field(default_factory=dict)
    #: Called with the command's line before it is carried out.
    on_command: Callable[[str], object] = field(default=lambda line: line)
    #: Every line that was received, passwords included.
    commands: list[str] = field(default_factory=list)

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, name: str) -> str:
        return f"{self.scheme}://{USER}:{ESCAPED_PASSWORD}@{self.host_port}/{name}"

    def count(self, command: str) -> int:
        return sum(line.split(" ")[0].upper() == command for line in self.commands)


def _handlers(seen: Ftp, control: type[Any], data: type[Any]) -> type[Any]:
    class Data(data):  # type: ignore[misc]
        sent_bytes = 0

        def send(self, piece: bytes) -> Any:
            if seen.cut_after is not None:
                piece = piece[: max(0, seen.cut_after - self.sent_bytes)]
                if not piece:
                    if not seen.cut_silently:
                        self.handle_close()
                        return 0
                    self._resp = ("226 Transfer complete.", logger.debug)
                    self.close()
                    return 0
            sent = super().send(piece)
            self.sent_bytes += sent
            return sent

    class Control(control):  # type: ignore[misc]
        dtp_handler = Data
        authorizer = DummyAuthorizer()
        use_sendfile = False
        auth_failed_timeout = 0
        # Lines that are too long for one of the library's own make it speak in several.
        banner = "welcome " * 20

        def pre_process_command(self, line: str, cmd: str, arg: str) -> None:
            seen.commands.append(line)
            seen.on_command(line)
            if cmd in seen.answers:
                self.respond(seen.answers[cmd])
                return
            super().pre_process_command(line, cmd, arg)

    Control.authorizer.add_user(USER, PASSWORD, str(seen.root), perm="elr")
    return Control


@contextmanager
def ftp_server(
    root: Path, *, control: type[Any] = FTPHandler, data: type[Any] = DTPHandler, options: Mapping[str, Any] = _NONE
) -> Iterator[Ftp]:
    """Yield a server on a free port of 127.0.0.1; `options` are attributes of the library's handler."""
    seen = Ftp(root)
    handler = _handlers(seen, control, data)
    for name, value in options.items():
        setattr(handler, name, value)
    server = FTPServer(("127.0.0.1", 0), handler, ioloop=IOLoop())
    seen.port = server.address[1]
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            server.serve_forever(timeout=_ROUND_S, blocking=False, handle_exit=False)
        server.close_all()

    thread = threading.Thread(target=serve, name="ftp-server")
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
