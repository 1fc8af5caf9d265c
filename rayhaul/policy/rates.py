"""How the bytes per second of one limit are divided between the agents that read under it.

Laws of this file:
1. The shares are never more than the limit, and all of it is given out: nobody waits for what nobody uses.
2. Who uses clearly less than its share keeps twice what it uses, and at least a quarter of its equal share; the rest is
   for the others. As soon as it uses that, it counts in full again.
3. Equal means: by the number of leases. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

#: Below this share of what it was granted, an agent is not held back by it.
_FULL_RATIO = 0.75
#: What it keeps then: this many times what it uses, and at least this part of its equal share.
_GROWTH = 2.0
_FLOOR_RATIO = 0.25


@dataclass(frozen=True, slots=True)
class Reader:
    """An agent that reads under a limit."""

    leases: int
    #: What it goes by, in bytes per second; 0 where it was granted nothing yet, or is not heard of.
    granted: int = 0
    used: float = 0.0


def shares(bytes_per_s: int, readers: Mapping[str, Reader]) -> Mapping[str, int]:
    """Divide a limit.

    >>> shares(900, {"new": Reader(1), "busy": Reader(2, granted=600, used=590)})
    {'new': 300, 'busy': 600}
    >>> shares(900, {"slow": Reader(1, granted=450, used=50), "busy": Reader(1, granted=450, used=450)})
    {'slow': 112, 'busy': 787}
    """
    leases_count = sum(reader.leases for reader in readers.values())
    equal = {name: bytes_per_s * reader.leases / leases_count for name, reader in readers.items()}
    wants = {name: _wanted(reader, equal[name]) for name, reader in readers.items()}
    if sum(wants.values()) < bytes_per_s:
        wants = dict.fromkeys(readers, inf)
    left, found = float(bytes_per_s), dict.fromkeys(readers, 0)
    # Those with the smallest wish for each lease first: what they leave goes to all the others.
    for name in sorted(readers, key=lambda name: (wants[name] / readers[name].leases, name)):
        share = min(wants[name], left * readers[name].leases / leases_count)
        found[name] = int(share)
        left -= share
        leases_count -= readers[name].leases
    return found


def _wanted(reader: Reader, equal: float) -> float:
    if reader.granted == 0 or reader.used >= _FULL_RATIO * reader.granted:
        return inf
    return max(_GROWTH * reader.used, _FLOOR_RATIO * equal)
