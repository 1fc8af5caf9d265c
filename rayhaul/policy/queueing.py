"""The order in which waiting jobs get an agent: by priority, then by age; those that must wait a while stand aside.

Laws of this file:
1. Times are Unix seconds and parameters; nothing here reads a clock.
2. Every operation costs O(log n) at most, whatever the backlog: entries leave the heaps lazily.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from rayhaul.job import Priority

_RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the queue. `since_s` is when it was created: a job handed back keeps its place."""

    job_id: str
    priority: Priority
    since_s: float
    #: Not before this time.
    ready_at_s: float = 0.0


class WaitingQueue:
    def __init__(self) -> None:
        self._entries: dict[str, Waiting] = {}
        self._ready: dict[Priority, list[tuple[float, str]]] = {priority: [] for priority in _RANK}
        self._delayed: list[tuple[float, str]] = []
        self._depth = dict.fromkeys(_RANK, 0)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._entries

    def push(self, waiting: Waiting, now_s: float) -> None:
        """Add a job, or move it when it is there already."""
        self.discard(waiting.job_id)
        self._entries[waiting.job_id] = waiting
        self._depth[waiting.priority] += 1
        if waiting.ready_at_s > now_s:
            heapq.heappush(self._delayed, (waiting.ready_at_s, waiting.job_id))
        else:
            heapq.heappush(self._ready[waiting.priority], (waiting.since_s, waiting.job_id))

    def discard(self, job_id: str) -> None:
        gone = self._entries.pop(job_id, None)
        if gone is not None:
            self._depth[gone.priority] -= 1

    def due_at_s(self) -> float | None:
        """Return when the next delayed job becomes ready; None when none is delayed."""
        while self._delayed:
            ready_at_s, job_id = self._delayed[0]
            entry = self._entries.get(job_id)
            if entry is not None and entry.ready_at_s == ready_at_s:
                return ready_at_s
            heapq.heappop(self._delayed)
        return None

    def take(self, now_s: float, most: int, *, but: frozenset[Priority] = frozenset()) -> Iterator[Waiting]:
        """Remove and yield up to `most` ready jobs in order, leaving those of the priorities in `but`."""
        self._promote(now_s)
        left = most
        for priority in sorted(_RANK, key=_RANK.__getitem__):
            if priority in but:
                continue
            heap = self._ready[priority]
            while heap and left > 0:
                since_s, job_id = heapq.heappop(heap)
                entry = self._entries.get(job_id)
                if entry is None or (entry.since_s, entry.priority) != (since_s, priority) or entry.ready_at_s > now_s:
                    continue
                self.discard(job_id)
                left -= 1
                yield entry

    def depth(self) -> dict[Priority, int]:
        """Return how many jobs wait, delayed ones included, by priority."""
        return dict(self._depth)

    def oldest_since_s(self) -> float | None:
        """Return since when the longest-waiting ready job waits."""
        oldest: float | None = None
        for priority, heap in self._ready.items():
            while heap and not self._stands(heap[0], priority):
                heapq.heappop(heap)
            if heap and (oldest is None or heap[0][0] < oldest):
                oldest = heap[0][0]
        return oldest

    def _stands(self, key: tuple[float, str], priority: Priority) -> bool:
        entry = self._entries.get(key[1])
        return entry is not None and (entry.since_s, entry.priority) == (key[0], priority)

    def _promote(self, now_s: float) -> None:
        while (due_s := self.due_at_s()) is not None and due_s <= now_s:
            _, job_id = heapq.heappop(self._delayed)
            entry = self._entries[job_id]
            heapq.heappush(self._ready[entry.priority], (entry.since_s, job_id))
