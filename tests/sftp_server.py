"""A real SFTP server (asyncssh) on this loop, over a directory, that misbehaves on request."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

USER, PASSWORD = "alice", "pw:with@signs"
ESCAPED_PASSWORD = "pw%3Awith%40signs"


@dataclass(slots=True)
class Sftp:
    """What a test sees of the server, and may change while it runs."""

    root: Path
    #: As a line of known_hosts names it.
    public_key: str
    port: int = 0
    #: The connection is lost once a read begins at or behind this offset.
    cut_at: int | None = None
    #: Such a read is never answered.
    stall_at: int | None = None
    #: What is told of a size is so much more than there is.
    size_lie: int = 0
    #: Called with the offset of each read before it is answered.
    on_read: Callable[[int], object] = field(default=lambda offset: offset)
    #: Raised when a file is opened.
    refusal: asyncssh.SFTPError | None = None
    opened: list[str] = field(default_factory=list)
    #: What a connection that is lost in the middle of a read leaves open.
    files: list[Any] = field(default_factory=list)
    #: Users that showed a password or a key.
    logins: list[str] = field(default_factory=list)
    authorized: set[str] = field(default_factory=set)

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def known_hosts(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.public_key}"

    def url(self, name: str) -> str:
        return f"sftp://{USER}:{ESCAPED_PASSWORD}@{self.host_port}/{name}"


class _Login(asyncssh.SSHServer):
    def __init__(self, seen: Sftp) -> None:
        self._seen = seen

    def begin_auth(self, username: str) -> bool:
        del username
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        self._seen.logins.append(username)
        return (username, password) == (USER, PASSWORD)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._seen.logins.append(username)
        return username == USER and key.export_public_key().decode().split()[1] in self._seen.authorized


def _files(seen: Sftp) -> type[asyncssh.SFTPServer]:
    class Files(asyncssh.SFTPServer):
        def __init__(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
            self._connection = chan.get_connection()
            super().__init__(chan, chroot=os.fsencode(seen.root))

        def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
            seen.opened.append(path.decode())
            if seen.refusal is not None:
                raise seen.refusal
            opened = super().open(path, pflags, attrs)
            seen.files.append(opened)
            return opened

        async def read(self, file_obj: Any, offset: int, size: int) -> bytes:
            seen.on_read(offset)
            if seen.cut_at is not None and offset >= seen.cut_at:
                self._connection.abort()
                return b""
            if seen.stall_at is not None and offset >= seen.stall_at:
                await asyncio.Event().wait()
            told = super().read(file_obj, offset, size)
            assert isinstance(told, bytes)
            return told

        async def fstat(self, file_obj: Any) -> Any:
            found: Any = super().fstat(file_obj)
            told = asyncssh.SFTPAttrs.from_local(found)
            told.size = (told.size or 0) + seen.size_lie
            return told

    return Files


@asynccontextmanager
async def sftp_server(root: Path) -> AsyncIterator[Sftp]:
    """Yield a server on a free port of 127.0.0.1."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    seen = Sftp(root, key.export_public_key().decode().strip())
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=lambda: _Login(seen),
        server_host_keys=[key],
        sftp_factory=_files(seen),
        config=None,
    )
    seen.port = listener.get_port()
    try:
        yield seen
    finally:
        listener.close()
        await listener.wait_closed()
        for file in seen.files:
            file.close()
