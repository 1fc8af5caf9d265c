"""The order in which waiting jobs get an agent: shares between priorities, turns between users, age within a user.

The next job is chosen in three steps, none of which looks at more than one job:
1. The priority, by virtual time: a start moves a priority on by 1/share, and the one that would be least far after its
   next start is next (ties: the higher one). One that had nothing to start meanwhile goes on from the current virtual
   time: nobody saves up, nobody pays for the past. (Golestani, "A self-clocked fair queueing scheme", INFOCOM 1994.)
2. The user: those with ready jobs of that priority take turns, one job each. Who is new, or had run out of ready jobs,
   or was at the limit of running jobs when a turn came, goes to the back.
3. The job: of that user's ready jobs of that priority the one created first.

Laws of this file:
1. No priority starves: while one with share w has something to start, another with share v starts at most v // w + 1
   times between two starts of it (16:4:1: 22 starts between two low ones, 2 between two high ones). Shares, and not a
   rank that grows with age: in a backlog older than the ageing time all would be at the top, and priorities gone.
2. No user starves: between two starts of a user's, each other user has one at most, in the same priority. So a user's
   k-th job starts within k * N * (1 + the starts of law 1), where N users wait; others' backlogs are not in it.
3. Every operation costs O(log n) amortised, and O(1) for jobs that come in the order of their creation. On top of that
   `take` looks once at each user found at the limit: there are no more of them than jobs run in the cluster.
4. Times are Unix seconds and parameters; nothing here reads a clock or rolls dice. The same calls give the same order.
"""

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from math import lcm
from types import MappingProxyType
from typing import NamedTuple

from rayhaul.job import Priority
from rayhaul.settings import QueueSettings

#: Jobs that become ready in one go: some milliseconds, so that a million jobs put off to midnight do not stop the loop.
PROMOTED_MAX = 10_000
#: Jobs that are gone may stay in a line until they are this many and the larger part of it.
_GONE_MIN = 64

_NOBODY: Mapping[str, int] = MappingProxyType({})


def shares_of(settings: QueueSettings) -> Mapping[Priority, int]:
    """Return the shares, the highest priority first."""
    return {
        Priority.HIGH: settings.share_high,
        Priority.NORMAL: settings.share_normal,
        Priority.LOW: settings.share_low,
    }


SHARES = shares_of(QueueSettings())


class Waiting(NamedTuple):
    """A job in the queue. A tuple for its size and because tuples are compared by C: by age, then by id."""

    #: When it was created: a job handed back keeps its place among its user's.
    since_s: float
    job_id: str
    user_id: str
    priority: Priority
    #: Not before this time.
    ready_at_s: float = 0.0


class _Line:
    """Ready jobs, oldest first. One that is gone stays until it comes to the front, or the line is thinned out."""

    __slots__ = ("_in_order", "_late", "count")

    def __init__(self) -> None:
        #: Almost all jobs come in the order of their creation and need no heap; those handed back do.
        self._in_order: deque[Waiting] = deque()
        self._late: list[Waiting] = []
        #: Of those that are not gone.
        self.count = 0

    def push(self, entry: Waiting) -> None:
        if not self._in_order or self._in_order[-1] < entry:
            self._in_order.append(entry)
        else:
            heapq.heappush(self._late, entry)
        self.count += 1

    def first(self, ready: Mapping[str, Waiting]) -> Waiting | None:
        """Return the oldest one that is still among `ready`, which has the jobs by id."""
        in_order, late = self._in_order, self._late
        while in_order and ready.get(in_order[0].job_id) is not in_order[0]:
            in_order.popleft()
        while late and ready.get(late[0].job_id) is not late[0]:
            heapq.heappop(late)
        if in_order and not (late and late[0] < in_order[0]):
            return in_order[0]
        return late[0] if late else None

    def drop(self, ready: Mapping[str, Waiting]) -> None:
        """Count one job off, which is not among `ready` any more."""
        self.count -= 1
        if len(self._in_order) + len(self._late) > 2 * self.count + _GONE_MIN:
            self._in_order = deque(entry for entry in self._in_order if ready.get(entry.job_id) is entry)
            self._late = [entry for entry in self._late if ready.get(entry.job_id) is entry]
            heapq.heapify(self._late)


class _Lane:
    """The ready jobs of one priority, a line for each user that has some."""

    __slots__ = ("_stride", "limited", "now", "open", "turns")

    def __init__(self, stride: int) -> None:
        self._stride = stride
        #: Whose turn is next comes first.
        self.turns: OrderedDict[str, _Line] = OrderedDict()
        #: Users that were at their limit when their turn came.
        self.limited: dict[str, _Line] = {}
        #: The virtual time this priority has come to; never ahead of the queue's.
        self.now = 0
        #: Whether there was something to start when last looked at.
        self.open = False

    @property
    def due(self) -> int:
        """The virtual time it will have come to with its next start."""
        return self.now + self._stride

    def look(self, virtual_now: int, *, paused: bool) -> None:
        """See whether it takes part in the choice; one that comes back goes on from the current virtual time."""
        can_start = bool(self.turns) and not paused
        if can_start and not self.open:
            self.now = virtual_now
        self.open = can_start

    def push(self, entry: Waiting) -> None:
        line = self._line(entry.user_id)
        if line is None:
            line = self.turns[entry.user_id] = _Line()
        line.push(entry)

    def drop(self, entry: Waiting, ready: Mapping[str, Waiting]) -> None:
        line = self._line(entry.user_id)
        assert line is not None, "a ready job stands in its user's line"
        line.drop(ready)
        if line.count == 0:
            self.turns.pop(entry.user_id, None)
            self.limited.pop(entry.user_id, None)

    def _line(self, user_id: str) -> _Line | None:
        return self.turns.get(user_id) or self.limited.get(user_id)


class WaitingQueue:
    """All waiting jobs. Shares are relative to each other; see `QueueSettings`."""

    def __init__(self, shares: Mapping[Priority, int] = SHARES) -> None:
        # In whole numbers, virtual time never drifts.
        whole = lcm(*shares.values())
        self._lanes = {priority: _Lane(whole // shares[priority]) for priority in SHARES}
        self._virtual_now = 0
        self._ready: dict[str, Waiting] = {}
        self._by_age = _Line()
        self._delayed: dict[str, Waiting] = {}
        self._due: list[tuple[float, Waiting]] = []
        self._depth = dict.fromkeys(SHARES, 0)

    def __len__(self) -> int:
        return len(self._ready) + len(self._delayed)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._ready or job_id in self._delayed

    def push(self, waiting: Waiting, now_s: float) -> None:
        """Add a job, or move it when it is there already."""
        self.discard(waiting.job_id)
        self._depth[waiting.priority] += 1
        if waiting.ready_at_s > now_s:
            self._delayed[waiting.job_id] = waiting
            heapq.heappush(self._due, (waiting.ready_at_s, waiting))
        else:
            self._make_ready(waiting)

    def discard(self, job_id: str) -> None:
        if (entry := self._ready.pop(job_id, None)) is not None:
            self._drop(entry)
        elif (entry := self._delayed.pop(job_id, None)) is not None:
            self._depth[entry.priority] -= 1
            if len(self._due) > 2 * len(self._delayed) + _GONE_MIN:
                self._due = [due for due in self._due if self._is_delayed(due[1])]
                heapq.heapify(self._due)

    def due_at_s(self) -> float | None:
        """Return when the next delayed job becomes ready; None when none is delayed."""
        while self._due and not self._is_delayed(self._due[0][1]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def promote(self, now_s: float) -> None:
        """Make delayed jobs ready whose time has come, at most PROMOTED_MAX; then `due_at_s` stays in the past."""
        for _ in range(PROMOTED_MAX):
            due_at_s = self.due_at_s()
            if due_at_s is None or due_at_s > now_s:
                return
            _, entry = heapq.heappop(self._due)
            del self._delayed[entry.job_id]
            self._make_ready(entry)

    def take(
        self,
        now_s: float,
        most: int,
        *,
        but: frozenset[Priority] = frozenset(),
        running: Mapping[str, int] = _NOBODY,
        running_max: int | None = None,
    ) -> list[Waiting]:
        """Remove and return up to `most` ready jobs in order, leaving those of the priorities in `but`.

        `running` has the number of jobs that run by user; nobody is brought above `running_max`.
        """
        self.promote(now_s)
        self._readmit(running, running_max)
        for priority, lane in self._lanes.items():
            lane.look(self._virtual_now, paused=priority in but)
        taken: list[Waiting] = []
        taken_of: Counter[str] = Counter()
        while len(taken) < most and (lane_next := self._lane_next()) is not None:
            user_id, line = next(iter(lane_next.turns.items()))
            if running_max is not None and running.get(user_id, 0) + taken_of[user_id] >= running_max:
                lane_next.limited[user_id] = lane_next.turns.pop(user_id)
            else:
                entry = line.first(self._ready)
                assert entry is not None, "who has a turn has a ready job"
                taken.append(entry)
                taken_of[user_id] += 1
                lane_next.turns.move_to_end(user_id)
                self._virtual_now = lane_next.now = lane_next.due
                del self._ready[entry.job_id]
                self._drop(entry)
            lane_next.open = bool(lane_next.turns)
        return taken

    def depth(self) -> dict[Priority, int]:
        """Return how many jobs wait, delayed ones included, by priority."""
        return dict(self._depth)

    def ready_count(self, *, but: frozenset[Priority] = frozenset()) -> int:
        """Return how many jobs could start now, leaving those of the priorities in `but`."""
        if not but:
            return len(self._ready)
        return sum(entry.priority not in but for entry in self._ready.values())

    def oldest_since_s(self) -> float | None:
        """Return since when the longest-waiting ready job waits."""
        first = self._by_age.first(self._ready)
        return None if first is None else first.since_s

    def _make_ready(self, entry: Waiting) -> None:
        self._ready[entry.job_id] = entry
        self._by_age.push(entry)
        self._lanes[entry.priority].push(entry)

    def _drop(self, entry: Waiting) -> None:
        """Forget a job that was ready and has left `_ready`."""
        self._depth[entry.priority] -= 1
        self._by_age.drop(self._ready)
        self._lanes[entry.priority].drop(entry, self._ready)

    def _is_delayed(self, entry: Waiting) -> bool:
        return self._delayed.get(entry.job_id) is entry

    def _readmit(self, running: Mapping[str, int], running_max: int | None) -> None:
        """Give turns again to users that have come below the limit."""
        for lane in self._lanes.values():
            for user_id in list(lane.limited):
                if running_max is None or running.get(user_id, 0) < running_max:
                    lane.turns[user_id] = lane.limited.pop(user_id)

    def _lane_next(self) -> _Lane | None:
        found: _Lane | None = None
        for lane in self._lanes.values():
            if lane.open and (found is None or lane.due < found.due):
                found = lane
        return found
