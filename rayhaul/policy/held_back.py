"""Jobs that stand aside because their host has no connection left, so that those of other hosts go by.

Laws of this file:
1. A job is moved aside once and back once each time its host fills up: what a start costs does not grow with the number
   of jobs that stand aside, nor with the number of hosts.
2. Who comes back stands in the queue at the place that its age gives it; the jobs of one host come back in the order in
   which priorities and users take turns everywhere.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from rayhaul.job import Priority
from rayhaul.policy.queueing import SHARES, Waiting, WaitingQueue

#: Hosts that are looked at in one go, the longest not looked at first.
HOSTS_LOOKED_MAX = 256
#: Jobs that are looked at in one go: some milliseconds. The rest of those in the way comes in the next turns.
LOOKED_MAX = 2000


class HeldBack:
    def __init__(self, shares: Mapping[Priority, int] = SHARES) -> None:
        self._shares = shares
        self._queues: OrderedDict[str, WaitingQueue] = OrderedDict()
        self._host_of: dict[str, str] = {}
        self._depth = dict.fromkeys(SHARES, 0)

    def __len__(self) -> int:
        return len(self._host_of)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._host_of

    def count(self, host: str) -> int:
        """Return how many jobs of a host stand aside."""
        queue = self._queues.get(host)
        return 0 if queue is None else len(queue)

    def push(self, waiting: Waiting, host: str, now_s: float) -> None:
        self.discard(waiting.job_id)
        if host not in self._queues:
            self._queues[host] = WaitingQueue(self._shares)
        self._queues[host].push(waiting, now_s)
        self._host_of[waiting.job_id] = host
        self._depth[waiting.priority] += 1

    def discard(self, job_id: str) -> None:
        host = self._host_of.pop(job_id, None)
        if host is None:
            return
        queue = self._queues[host]
        before = queue.depth()
        queue.discard(job_id)
        for priority, count in queue.depth().items():
            self._depth[priority] += count - before[priority]
        if not len(queue):
            del self._queues[host]

    def readmit(self, queue: WaitingQueue, most: int, now_s: float, room: Callable[[str], int], **limits: Any) -> None:
        """Move up to `most` jobs, whose hosts have room again, back into the queue. `limits`: those of `take`."""
        for _ in range(min(len(self._queues), HOSTS_LOOKED_MAX)):
            host, aside = next(iter(self._queues.items()))
            self._queues.move_to_end(host)
            for waiting in aside.take(now_s, min(most, room(host)), **limits):
                most -= 1
                del self._host_of[waiting.job_id]
                self._depth[waiting.priority] -= 1
                queue.push(waiting, now_s)
            if not len(aside):
                del self._queues[host]
            if most <= 0:
                return

    # --- as a queue among others ---

    def promote(self, now_s: float) -> None:
        """Nothing here waits for a time."""

    def due_at_s(self) -> float | None:
        return None

    def depth(self) -> dict[Priority, int]:
        return dict(self._depth)

    def oldest_since_s(self) -> float | None:
        since = (queue.oldest_since_s() for queue in self._queues.values())
        return min((since_s for since_s in since if since_s is not None), default=None)


def choose(
    queue: WaitingQueue,
    now_s: float,
    most: int,
    may_start: Callable[[Waiting], bool],
    *,
    running: Mapping[str, int],
    **limits: Any,
) -> list[Waiting]:
    """Take up to `most` jobs that may start. Where one may not, `may_start` has put it elsewhere."""
    found: list[Waiting] = []
    running_now = Counter(running)
    looked = 0
    while len(found) < most and looked < LOOKED_MAX:
        batch = queue.take(now_s, most - len(found), running=running_now, **limits)
        if not batch:
            break
        looked += len(batch)
        for waiting in batch:
            if may_start(waiting):
                found.append(waiting)
                running_now[waiting.user_id] += 1
    return found
