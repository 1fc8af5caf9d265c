"""Small files that came along with the look at them, and wait in memory for the leases of their jobs.

Laws of this file:
1. What waits, and the room of what is being looked at, is within `source.peeks_bytes_max`; nothing waits longer than
   `source.peek_keep_s`. Where there is no room, a look brings nothing along.
2. It is given away once, to the job that it was read for, and only as the version that the lease pins. Who asks for it
   again, or finds another one, asks the origin.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rayhaul.job import Metadata
from rayhaul.metrics import PEEKS, Meter
from rayhaul.settings import SourceSettings


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    pin: Metadata
    data: bytes
    expiry: asyncio.TimerHandle


class Peeks:
    """One per agent."""

    def __init__(self, settings: SourceSettings, meter: Meter) -> None:
        self._settings = settings
        self._meter = meter
        self._kept: dict[str, _Kept] = {}
        #: Of all that waits, and the most that looks under way may bring.
        self.used_bytes = 0

    @contextmanager
    def room(self) -> Iterator[int]:
        """Hold room for what one look brings along, and give its size; 0: there is none."""
        room_bytes = self._settings.peek_bytes
        if self.used_bytes + room_bytes > self._settings.peeks_bytes_max:
            room_bytes = 0
        self.used_bytes += room_bytes
        try:
            yield room_bytes
        finally:
            self.used_bytes -= room_bytes

    def keep(self, job_id: str, pin: Metadata, data: bytes) -> None:
        """Keep a job's file for its lease, in place of what an earlier look brought."""
        self._drop(job_id)
        expiry = asyncio.get_running_loop().call_later(self._settings.peek_keep_s, self._drop, job_id)
        self._kept[job_id] = _Kept(pin, data, expiry)
        self.used_bytes += len(data)

    def take(self, job_id: str, pin: Metadata) -> bytes | None:
        """Give a job's file away; None where it is not here, or of another version than `pin`."""
        kept = self._kept.get(job_id)
        if kept is None:
            return None
        is_pinned = _version(kept.pin) == _version(pin)
        self._drop(job_id, "used" if is_pinned else "unused")
        return kept.data if is_pinned else None

    def _drop(self, job_id: str, result: str = "unused") -> None:
        kept = self._kept.pop(job_id, None)
        if kept is not None:
            kept.expiry.cancel()
            self.used_bytes -= len(kept.data)
            self._meter.inc(PEEKS, result)


def _version(pin: Metadata) -> tuple[object, ...]:
    return (pin.has_version, pin.size_bytes, pin.etag, pin.last_modified, pin.digest, pin.final_url)
