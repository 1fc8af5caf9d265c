"""What an agent can carry, and how much of it is in use."""

import math
from dataclasses import dataclass
from enum import StrEnum


class AgentState(StrEnum):
    #: Reports, takes leases.
    ONLINE = "online"
    #: Reports that it cannot take leases: disk or memory is full. Running ones finish.
    UNFIT = "unfit"
    #: Takes no new leases; running ones finish.
    DRAINING = "draining"
    #: Silent for longer than `liveness.offline_s`; its leases are handed back.
    OFFLINE = "offline"


def _share_pct(used: float, most: float) -> float:
    """Return `used` of `most` in percent, within 0 to 100; nonsense counts as full, so that nothing is sent there."""
    if not (math.isfinite(used) and math.isfinite(most)) or most <= 0:
        return 100.0
    return min(100.0, max(0.0, 100.0 * used / most))


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    slots: int
    slots_used: int
    bytes_per_s: float = 0.0
    #: None: no limit set, bandwidth does not count towards `capacity_pct`.
    bytes_per_s_max: float | None = None
    #: Memory for buffered parts.
    memory_bytes: int = 0
    memory_bytes_max: int | None = None

    @property
    def is_sane(self) -> bool:
        """Whether the figures can be true; an agent that reports others is not trusted with leases."""
        figures = (self.slots, self.slots_used, self.bytes_per_s, self.memory_bytes)
        return all(math.isfinite(figure) and figure >= 0 for figure in figures)

    @property
    def slots_free(self) -> int:
        return max(0, self.slots - self.slots_used)

    @property
    def capacity_pct(self) -> float:
        """The highest share in use of slots, bandwidth and memory, 0 to 100."""
        shares = [_share_pct(self.slots_used, self.slots)]
        if self.bytes_per_s_max is not None:
            shares.append(_share_pct(self.bytes_per_s, self.bytes_per_s_max))
        if self.memory_bytes_max is not None:
            shares.append(_share_pct(self.memory_bytes, self.memory_bytes_max))
        return max(shares)
