"""Whether this machine can take more work: an agent whose disk or memory is full says so, and gets no leases."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

from rayhaul.settings import AgentSettings

log = logging.getLogger(__name__)

_MIB = 1024 * 1024
#: Time between two looks at disk and memory.
_JUDGE_S = 5.0
#: A limit of the container (control group v2), in whose memory all that the agent buffers must fit.
_CGROUP = Path("/sys/fs/cgroup")


class Fitness:
    """Says with each report whether the machine is fit, and looks only every few seconds."""

    def __init__(self, settings: AgentSettings, look: Callable[[AgentSettings], str | None]) -> None:
        self._settings = settings
        self._look = look
        self._looked_at_s = float("-inf")
        self._unfit: str | None = None

    def judged(self, now_s: float) -> str | None:
        """Return why this machine can take no leases, by the last look."""
        if now_s - self._looked_at_s >= _JUDGE_S:
            found, self._looked_at_s = self._look(self._settings), now_s
            if found != self._unfit:
                log.warning("unfit: %s", found) if found else log.info("fit again")
            self._unfit = found
        return self._unfit


def unfit(settings: AgentSettings) -> str | None:
    """Return why this machine can take no leases now, in one sentence; None where it can."""
    try:
        return judge(settings, disk_free_bytes=disk_free_bytes(), memory_free_bytes=memory_free_bytes())
    except OSError as error:
        return f"disk or memory can not be looked at: {error.strerror}"


def judge(settings: AgentSettings, *, disk_free_bytes: int, memory_free_bytes: int) -> str | None:
    if disk_free_bytes < settings.disk_free_bytes_min:
        return f"disk full: {disk_free_bytes // _MIB} MiB free, {settings.disk_free_bytes_min // _MIB} MiB needed"
    if memory_free_bytes < settings.memory_free_bytes_min:
        return f"memory full: {memory_free_bytes // _MIB} MiB free, {settings.memory_free_bytes_min // _MIB} MiB needed"
    return None


def disk_free_bytes() -> int:
    """Return what is free where logs and temporary files lie: bytes on their way never touch a disk."""
    return shutil.disk_usage(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()).free


def memory_free_bytes() -> int:
    """Return what the machine or, where that is less, the container has left."""
    free: int = psutil.virtual_memory().available
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        # Files that were read and may be dropped count as used there.
        told = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        used -= int(told.get("inactive_file", 0))
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))
