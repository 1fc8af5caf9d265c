"""What the processes of the cluster have counted, as one sum.

Laws of this file:
1. A process tells cumulative values: what is heard again, or late, changes nothing.
2. No sum jumps. A process that counted long before this scheduler began is heard from where it stands: a counter that
   fell to 0 with the old scheduler and came back whole would be seen as so many events at once (Prometheus, rate()).
3. Gauges are of this moment: those of a process that fell silent are left out after a while, and its counts stay.
"""

from dataclasses import dataclass, replace

from rayhaul.metrics import Snapshot, difference, merge

#: Processes tell every few seconds; one that has not for so long is gone or cut off, and its gauges say nothing.
_FRESH_S = 60.0
#: Its last word is kept apart for so long: should it come back, what it counted meanwhile is added.
_KEPT_S = 3600.0


@dataclass(slots=True)
class _Process:
    newest: Snapshot
    #: What it had counted when it was first heard, and is not ours.
    base: Snapshot
    heard_at_s: float


class Counts:
    def __init__(self) -> None:
        self._processes: dict[str, _Process] = {}
        #: What processes that are gone have counted.
        self._gone = Snapshot()

    def hear(self, process: str, told: Snapshot, now_s: float) -> None:
        """Take what a process has counted since it began."""
        # An agent of an earlier release does not number them.
        number = getattr(told, "number", None)
        known = self._processes.get(process)
        if known is None:
            is_first = number is not None and number <= 1
            self._processes[process] = _Process(told, Snapshot() if is_first else told, now_s)
        elif number is None or number >= known.newest.number:
            known.newest, known.heard_at_s = told, now_s

    def part_with(self, process: str) -> None:
        """Keep what a process that is gone has counted, and nothing else of it."""
        known = self._processes.pop(process, None)
        if known is not None:
            self._gone = merge([self._gone, replace(difference(known.newest, known.base), gauges={})])

    def sum(self, now_s: float) -> Snapshot:
        for process in [name for name, known in self._processes.items() if now_s - known.heard_at_s > _KEPT_S]:
            self.part_with(process)
        return merge([self._gone, *(_part(known, now_s) for known in self._processes.values())])


def _part(known: _Process, now_s: float) -> Snapshot:
    mine = difference(known.newest, known.base)
    return mine if now_s - known.heard_at_s <= _FRESH_S else replace(mine, gauges={})
