"""Disk for what has to lie somewhere before it can be sent on: bounded, an agent's own, and gone with it.

Laws of this file:
1. What is reserved never exceeds `bytes_max`, nor what the disk has left when it is asked for.
2. A directory belongs to the process that holds its lock. Whoever begins removes those of processes that are gone.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path

from rayhaul.errors import AgentFull, Internal, SourceTooLarge

_log = logging.getLogger(__name__)

_LOCK = ".lock"
_PREFIX = "rayhaul-agent-"
#: Left for everybody else on the machine.
_FREE_BYTES_MIN = 256 * 1024 * 1024
_RETRY_AFTER_S = 30


class Scratch:
    """One per process. All of it blocks: for threads, but for `reserve` and `release`."""

    def __init__(self, root: Path, bytes_max: int, *, free_bytes_min: int = _FREE_BYTES_MIN) -> None:
        self.root = root
        self.bytes_max = bytes_max
        self._free_bytes_min = free_bytes_min
        self._reserved: dict[tuple[str, int], int] = {}
        self._own: Path | None = None
        self._lock_fd: int | None = None

    @property
    def reserved_bytes(self) -> int:
        return sum(self._reserved.values())

    def begin(self) -> None:
        """Make a directory of our own, and remove those whose processes are gone. Raises: OSError."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self.root.glob(f"{_PREFIX}*"):
            if (lock_fd := _locked(left)) is not None:
                _log.info("scratch of a process that is gone: removing %s", left)
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock_fd)
        own = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self.root))
        self._lock_fd = _locked(own)
        self._own = own

    def end(self) -> None:
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
        self._own = self._lock_fd = None

    def directory(self, name: str) -> Path:
        """Return an empty directory. Raises: Internal."""
        try:
            if self._own is None:
                self.begin()
            assert self._own is not None, "it was begun"
            made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._own))
        except OSError as error:
            raise Internal("The scratch directory of this agent cannot be written to.") from error
        return made

    def reserve(self, name: str, index: int, bytes_count: int) -> None:
        """Raises: SourceTooLarge where it never fits; AgentFull where it does not fit now."""
        if (name, index) in self._reserved:
            return
        if bytes_count > self.bytes_max:
            raise SourceTooLarge(
                f"The file needs {bytes_count} bytes of scratch disk; an agent has {self.bytes_max} "
                "(sources.torrent_scratch_bytes_max)."
            )
        free_bytes = shutil.disk_usage(self.root).free - self._free_bytes_min
        if self.reserved_bytes + bytes_count > self.bytes_max or bytes_count > free_bytes:
            raise no_room()
        self._reserved[name, index] = bytes_count

    def release(self, name: str) -> None:
        for key in [key for key in self._reserved if key[0] == name]:
            del self._reserved[key]


def no_room() -> AgentFull:
    """Return what it means that the disk is full, before anything is fetched or in the middle of it."""
    return AgentFull("The scratch disk of this agent has no room now.", retry_after_s=_RETRY_AFTER_S)


def _locked(directory: Path) -> int | None:
    """Return a descriptor that holds the directory's lock; None where another process has it, or it is gone."""
    try:
        lock_fd = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock_fd)
        return None
    return lock_fd
