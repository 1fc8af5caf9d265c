"""A cluster that is only counted: jobs wait in one queue, agents have slots, new agents boot, drained ones finish.

What it leaves out: stripes, retries, limits of hosts and of bandwidth. A job is one lease and fills one slot at a
constant rate. The policy reads the load after the tick's leases were given out, as the scheduler must: read before, a
saturated cluster looks as if it had just the slots free that ended within the tick, and the rule may never fire.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field

from bench.scaling.policies import Policy
from bench.scaling.traces import SLOT_BYTES_PER_S, Arrival, Trace
from rayhaul.capacity import Capacity
from rayhaul.policy.scaling import Situation, average_pct, pick_drain
from rayhaul.policy.scheduling import Load, Spread

#: One heartbeat.
_TICK_S = 1.0
#: Time between two points of the picture.
_SAMPLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    slots: int = 8
    #: From asking for an agent until it reports: the node's boot.
    boot_s: float = 60.0
    #: From a drained agent's last lease until its node is gone.
    exit_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    at_s: float
    agents_online: int
    agents_pending: int
    agents_draining: int
    capacity_pct_avg: float
    #: How long the longest-waiting job has waited.
    oldest_wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What happened in one run."""

    trace: str
    policy: str
    #: From arrival to start, one a job, in the order of arrival.
    waits_s: tuple[float, ...]
    #: Time of all nodes together, booting and draining included.
    agent_s: float
    #: Time of all slots together in which they were in use.
    slot_busy_s: float
    #: (when, by how many) the policy changed the number of agents.
    changes: tuple[tuple[float, int], ...]
    samples: tuple[Sample, ...]


@dataclass(slots=True)
class _Agent:
    online_at_s: float
    #: When each of its leases ends, a heap.
    ends_s: list[float] = field(default_factory=list)
    draining: bool = False
    #: When it will be gone; set when a draining one has nothing left.
    gone_at_s: float | None = None


class _Cluster:
    def __init__(self, trace: Trace, plant: Plant) -> None:
        self.plant = plant
        self.agents = {f"agent-{number}": _Agent(0.0) for number in range(1, trace.agents_first + 1)}
        self.queue: deque[Arrival] = deque()
        self.backlog_bytes = 0
        self.waits_s: list[float] = []
        self.slot_busy_s = 0.0

    def online(self, now_s: float) -> dict[str, _Agent]:
        return {name: a for name, a in self.agents.items() if not a.draining and a.online_at_s <= now_s}

    def pending(self, now_s: float) -> dict[str, _Agent]:
        return {name: a for name, a in self.agents.items() if not a.draining and a.online_at_s > now_s}

    def end_leases(self, now_s: float) -> None:
        """End what has come to its end, and let drained agents go."""
        for name, agent in list(self.agents.items()):
            while agent.ends_s and agent.ends_s[0] <= now_s:
                heapq.heappop(agent.ends_s)
            if agent.draining and not agent.ends_s:
                agent.gone_at_s = agent.gone_at_s or now_s + self.plant.exit_s
                if agent.gone_at_s <= now_s:
                    del self.agents[name]

    def situation(self, now_s: float) -> Situation:
        online = self.online(now_s)
        readings = [(Capacity(slots=self.plant.slots, slots_used=0), len(agent.ends_s)) for agent in online.values()]
        pending_count = len(self.pending(now_s))
        return Situation(
            now_s=now_s,
            agents_count=len(online),
            agents_pending=pending_count,
            agents_draining=len(self.agents) - len(online) - pending_count,
            capacity_pct_avg=average_pct(readings),
            jobs_waiting=len(self.queue),
        )

    def arrive(self, arrival: Arrival) -> None:
        self.queue.append(arrival)
        self.backlog_bytes += arrival.size_bytes

    def dispatch(self, now_s: float) -> None:
        if not self.queue:
            return
        online = self.online(now_s)
        spread = Spread({name: Load(name, self.plant.slots, len(a.ends_s)) for name, a in online.items()})
        while self.queue and (name := spread.take()) is not None:
            job = self.queue.popleft()
            self.backlog_bytes -= job.size_bytes
            service_s = job.size_bytes / SLOT_BYTES_PER_S
            heapq.heappush(online[name].ends_s, now_s + service_s)
            self.waits_s.append(now_s - job.at_s)
            self.slot_busy_s += service_s

    def resize(self, wanted: int, now_s: float) -> int:
        """Add, withdraw or drain agents until there are as many as wanted; return by how many that changed."""
        pending, online = self.pending(now_s), self.online(now_s)
        change = wanted - len(pending) - len(online)
        numbers = (f"agent-{number}" for number in range(1, len(self.agents) + abs(change) + 1))
        for name in [name for name in numbers if name not in self.agents][: max(0, change)]:
            self.agents[name] = _Agent(now_s + self.plant.boot_s)
        for _ in range(-change):
            if pending:
                name, _last = pending.popitem()
                del self.agents[name]
            else:
                self._drain_one(online)
        return change

    def _drain_one(self, online: dict[str, _Agent]) -> None:
        loads = [Load(name, self.plant.slots, len(agent.ends_s)) for name, agent in online.items()]
        if (name := pick_drain(loads)) is not None:
            online.pop(name).draining = True


def simulate(trace: Trace, policy: Policy, plant: Plant | None = None) -> Outcome:
    """Run a trace to its end.

    Raises: RuntimeError where jobs still wait then: its figures would flatter the policy.
    """
    cluster = _Cluster(trace, plant or Plant())
    changes, samples = list[tuple[float, int]](), list[Sample]()
    arrivals, agent_s = deque(trace.arrivals), 0.0
    for tick in range(int(trace.duration_s / _TICK_S)):
        now_s = tick * _TICK_S
        cluster.end_leases(now_s)
        while arrivals and arrivals[0].at_s <= now_s:
            cluster.arrive(arrivals.popleft())
        cluster.dispatch(now_s)
        situation = cluster.situation(now_s)
        change = cluster.resize(policy.wanted(situation, cluster.plant.slots, cluster.backlog_bytes), now_s)
        if change:
            changes.append((now_s, change))
        agent_s += len(cluster.agents) * _TICK_S
        if now_s % _SAMPLE_S == 0:
            samples.append(_sample(cluster, situation))
    if cluster.queue:
        raise RuntimeError(f"{trace.name}/{policy.name}: {len(cluster.queue)} jobs still wait at the end")
    return Outcome(
        trace=trace.name,
        policy=policy.name,
        waits_s=tuple(cluster.waits_s),
        agent_s=agent_s,
        slot_busy_s=cluster.slot_busy_s,
        changes=tuple(changes),
        samples=tuple(samples),
    )


def _sample(cluster: _Cluster, situation: Situation) -> Sample:
    return Sample(
        at_s=situation.now_s,
        agents_online=situation.agents_count,
        agents_pending=situation.agents_pending,
        agents_draining=situation.agents_draining,
        capacity_pct_avg=situation.capacity_pct_avg or 0.0,
        oldest_wait_s=situation.now_s - cluster.queue[0].at_s if cluster.queue else 0.0,
    )
