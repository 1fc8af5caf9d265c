"""Where log lines go: to stderr, which for a process that Ray started is a file in Ray's session directory.

Laws of this file:
1. A line is written at once, with one system call: it is there when the process is killed the moment after. (Ray's own
   rotation, RAY_ROTATION_MAX_BYTES, sends stderr through a thread of the same process, and loses the last lines.)
2. What cannot be written is dropped. Nothing is said about it in a shape of its own.
3. A file grows to `file_bytes_max`; then it is set aside under its name with `.1`, in place of the one before.
"""

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

_STDERR = 2
#: How Ray names a process's stderr.
_SUFFIX = ".err"


class Stderr(logging.Handler):
    """Writes to file descriptor 2 itself: libraries put other objects in the place of `sys.stderr` (Ray Serve does)."""

    def __init__(self, *, file_bytes_max: int | None = None) -> None:
        super().__init__()
        self._file_bytes_max = file_bytes_max

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a bad call must not end the work that made it
            line = self._unreadable(record, error)
        # OSError: a full disk, or nobody at the other end.
        with suppress(OSError):
            self._write(line.encode("utf-8", "backslashreplace") + b"\n")

    def _unreadable(self, record: logging.LogRecord, error: Exception) -> str:
        """Return a line for a record that cannot be formatted; its arguments stay out, whatever they are."""
        where = f"{record.module}:{record.lineno}"
        kept = logging.makeLogRecord({"levelno": logging.ERROR, "msg": f"unreadable line of {where}: {type(error)}"})
        return self.format(kept)

    def _write(self, line: bytes) -> None:
        if self._file_bytes_max is not None:
            self._make_room(self._file_bytes_max - len(line))
        while line:
            line = line[os.write(_STDERR, line) :]

    def _make_room(self, bytes_max: int) -> None:
        state = os.fstat(_STDERR)
        if not stat.S_ISREG(state.st_mode) or state.st_size <= bytes_max:
            return
        path = Path(f"/proc/self/fd/{_STDERR}").readlink()
        if path.suffix != _SUFFIX:
            return
        path.replace(f"{path}.1")
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(fresh, _STDERR)
        os.close(fresh)
