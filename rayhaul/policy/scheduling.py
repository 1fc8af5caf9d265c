"""Which agent gets the next lease: the one with the largest share of its slots free, if no other one is wanted."""

import heapq
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """An agent that may take leases. `used` counts what the scheduler gave it, whatever it reported last."""

    agent: str
    slots: int
    used: int


class Spread:
    """Hands out the free slots of agents, evenly by share in use. Ties go by name, so that the choice is repeatable."""

    def __init__(self, loads: Mapping[str, Load]) -> None:
        self._heap = [
            (load.used / load.slots, name, load.used, load.slots)
            for name, load in loads.items()
            if load.slots > load.used
        ]
        heapq.heapify(self._heap)
        self.free_slots = sum(slots - used for _, _, used, slots in self._heap)

    def take(self, fits: Callable[[str], bool] = lambda _agent: True) -> str | None:
        """Use one slot of an agent that fits, and return whose; None where none is free."""
        passed_by = []
        while self._heap and not fits(self._heap[0][1]):
            passed_by.append(heapq.heappop(self._heap))
        agent = self._take_first()
        for load in passed_by:
            heapq.heappush(self._heap, load)
        return agent

    def take_of(self, wanted: str | None, but: Collection[str] = ()) -> str | None:
        """Use one slot of the agent that is wanted where it has one free, of another else, but of none in `but`.

        Return whose; None where there is no such slot.
        """
        agent = None if wanted is None or wanted in but else self.take(lambda name: name == wanted)
        return agent or self.take(lambda name: name not in but)

    def _take_first(self) -> str | None:
        if not self._heap:
            return None
        _, agent, used, slots = heapq.heappop(self._heap)
        if used + 1 < slots:
            heapq.heappush(self._heap, ((used + 1) / slots, agent, used + 1, slots))
        self.free_slots -= 1
        return agent
