"""Limits in bytes per second that hold for the whole cluster, and which agent was granted how much of each.

Laws of this file:
1. What an agent was told counts as in use until it has reported that it goes by something smaller. Nobody is told of
   more while the sum of what is in use would pass the limit.
2. Nothing here is in the ledger. After a change of leadership agents tell what they go by, and keep it; nobody is told
   of more before all are heard of, or lost.
3. Bounded: a limit stands here while leases read under it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rayhaul.job import Job
from rayhaul.policy import rates as policy
from rayhaul.policy.rates import Reader
from rayhaul.rates import RateGrant, RateUse, limits_of

#: Time between two divisions of a limit whose readers are the same.
_DIVIDE_S = 2.0


@dataclass(slots=True)
class _Share:
    """What one agent was granted of one limit, in bytes per second."""

    told: int = 0
    version: int = 0
    #: By its own word; 0 before it is heard of.
    goes_by: int = 0
    #: It may go by so much by now.
    in_use_max: int = 0
    #: Read under that, as last reported.
    used: float = 0.0


@dataclass(slots=True)
class _Limit:
    bytes_per_s: int
    #: By agent; nobody stands here with 0.
    leases: Counter[str] = field(default_factory=Counter)
    shares: dict[str, _Share] = field(default_factory=dict)
    #: Who should have how much; None: to be divided anew.
    targets: Mapping[str, int] | None = None
    divided_at_s: float = float("-inf")

    @property
    def given_out(self) -> int:
        return sum(share.in_use_max for share in self.shares.values())

    def divide(self, now_s: float) -> Mapping[str, int]:
        if self.targets is None or not 0 <= now_s - self.divided_at_s < _DIVIDE_S:
            self.divided_at_s = now_s
            readers = {
                agent: Reader(count, self.shares[agent].goes_by, self.shares[agent].used)
                for agent, count in self.leases.items()
            }
            self.targets = policy.shares(self.bytes_per_s, readers)
        return self.targets


class Rates:
    def __init__(self, *, host_bytes_per_s: int | None = None, cluster_bytes_per_s: int | None = None) -> None:
        """`host_bytes_per_s` holds for each host by itself. None: no such limit."""
        self._host_bytes_per_s = host_bytes_per_s
        self._cluster_bytes_per_s = cluster_bytes_per_s
        self._limits: dict[str, _Limit] = {}
        self._lease: dict[str, tuple[str, tuple[str, ...]]] = {}
        self._limits_of_agent: defaultdict[str, set[str]] = defaultdict(set)
        self._tended_at_s = float("-inf")

    # --- leases ---

    def add_lease(self, lease_id: str, agent: str, job: Job) -> None:
        limits = limits_of(job, host_bytes_per_s=self._host_bytes_per_s, cluster_bytes_per_s=self._cluster_bytes_per_s)
        self._lease[lease_id] = (agent, tuple(limits))
        for name, bytes_per_s in limits.items():
            limit = self._limits.setdefault(name, _Limit(bytes_per_s))
            limit.leases[agent] += 1
            limit.shares.setdefault(agent, _Share())
            limit.targets = None
            self._limits_of_agent[agent].add(name)

    def drop_lease(self, lease_id: str) -> None:
        agent, names = self._lease.pop(lease_id, ("", ()))
        for name in names:
            limit = self._limits[name]
            limit.leases[agent] -= 1
            limit.targets = None
            if limit.leases[agent] <= 0:
                del limit.leases[agent]
            if not limit.leases:
                self._forget(name)

    def forget_leases(self) -> None:
        """Begin anew with the leases, before those that stand are added; what agents go by stays known."""
        known = {name: (limit.bytes_per_s, limit.shares) for name, limit in self._limits.items()}
        for lease_id in list(self._lease):
            self.drop_lease(lease_id)
        for name, (bytes_per_s, shares) in known.items():
            self._limits[name] = _Limit(bytes_per_s, shares=shares)
            for agent in shares:
                self._limits_of_agent[agent].add(name)

    def assume(self) -> None:
        """Count agents that were told nothing by us as going by all there is: another scheduler may have told them."""
        for name, limit in list(self._limits.items()):
            if not limit.leases:
                self._forget(name)
                continue
            for agent in limit.leases:
                share = limit.shares[agent]
                if share.version == 0:
                    share.in_use_max = limit.bytes_per_s

    def part_with(self, agent: str) -> None:
        """Forget what an agent goes by that has ended, or lost all it had."""
        for name in list(self._limits_of_agent.get(agent, ())):
            self._drop_share(name, agent)

    # --- what agents say and are told ---

    def hear(self, agent: str, uses: Iterable[RateUse]) -> None:
        """Take in what an agent reads, and what it goes by."""
        seen = set()
        for use in uses:
            limit = self._limits.get(use.limit)
            if limit is None:
                continue
            seen.add(use.limit)
            share = limit.shares.setdefault(agent, _Share())
            self._limits_of_agent[agent].add(use.limit)
            share.used = use.bytes_per_s
            if use.version >= share.version:
                # It goes by the last we told, or by what another scheduler told it.
                share.version = use.version
                share.told = share.goes_by = share.in_use_max = use.granted
        for name in self._limits_of_agent.get(agent, set()) - seen:
            if agent not in self._limits[name].leases:
                self._drop_share(name, agent)

    def grants(self, agent: str, now_s: float) -> tuple[RateGrant, ...]:
        """Return what an agent may read from now on, under each limit where it has leases."""
        names = sorted(self._limits_of_agent.get(agent, ()))
        return tuple(self._grant(name, agent, now_s) for name in names)

    def grants_of_lease(self, lease_id: str, now_s: float) -> tuple[RateGrant, ...]:
        """Return what a lease goes by when it begins."""
        agent, names = self._lease.get(lease_id, ("", ()))
        return tuple(self._grant(name, agent, now_s) for name in names)

    def _grant(self, name: str, agent: str, now_s: float) -> RateGrant:
        limit = self._limits[name]
        share = limit.shares[agent]
        free = limit.bytes_per_s - (limit.given_out - share.in_use_max)
        # What it goes by already is in nobody's way, whatever the others may have been told.
        allowed = min(limit.divide(now_s).get(agent, 0), max(free, share.goes_by))
        if allowed != share.told or share.version == 0:
            share.version += 1
            share.told = allowed
        share.in_use_max = max(share.in_use_max, allowed)
        return RateGrant(limit=name, bytes_per_s=allowed, version=share.version)

    # --- keeping ---

    def tend(self, now_s: float, online: Iterable[str]) -> None:
        """Have the shares of agents that are gone go to the others. Cheap when nothing is due."""
        if 0 <= now_s - self._tended_at_s < _DIVIDE_S:
            return
        self._tended_at_s = now_s
        for agent in self._limits_of_agent.keys() - set(online):
            # One that is offline has stopped by itself; what it still has leases for, it may come back to.
            for name in list(self._limits_of_agent[agent]):
                if agent not in self._limits[name].leases:
                    self._drop_share(name, agent)

    def _drop_share(self, name: str, agent: str) -> None:
        limit = self._limits[name]
        if agent in limit.leases:
            # Leases that are about to be handed back.
            limit.shares[agent] = _Share()
            return
        limit.shares.pop(agent, None)
        self._limits_of_agent[agent].discard(name)
        if not self._limits_of_agent[agent]:
            del self._limits_of_agent[agent]

    def _forget(self, name: str) -> None:
        for agent in self._limits.pop(name).shares:
            self._limits_of_agent[agent].discard(name)
            if not self._limits_of_agent[agent]:
                del self._limits_of_agent[agent]
