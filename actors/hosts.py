"""What the scheduler remembers of origin hosts: their budgets, and who may have how many connections there.

Laws of this file:
1. What an agent was told counts as in use until it has reported that it goes by something smaller, and that no more is
   under way. Nobody is told of more while the sum of what is in use would pass the budget.
2. Nothing here is in the ledger. After a change of leadership agents tell what they were granted; before one is heard
   of, its leases count as using all that they can. A look at a file's metadata is a lease of one connection, but for
   that: it is not in the ledger, so one that another scheduler ordered counts from its agent's first report on.
3. Bounded: a host stands here while it has leases or shares, and at most `HOSTS_MAX` others while they recover.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rayhaul.origins import HostGrant, HostUse
from rayhaul.policy import hosts as policy
from rayhaul.policy.hosts import Budget
from rayhaul.settings import HostsSettings

#: Budgets that are remembered of hosts that refused; the first known is forgotten first.
HOSTS_MAX = 10_000
#: So much of a host's connections may be asked for metadata while leases want all of them: the n-th part.
_LOOKS_SHARE = 8
#: Time between two looks at what may grow or be forgotten.
_TEND_S = 1.0


@dataclass(slots=True)
class _Share:
    """What one agent may have at one host."""

    told: int = 0
    version: int = 0
    #: At most so many are in use there.
    in_use_max: int = 0
    #: In use, and the most of them at once lately, as last reported.
    connections: int = 0
    peak: int = 0


@dataclass(slots=True)
class _Site:
    """A host that is in use."""

    #: Connections that leases could use, by agent.
    wants: Counter[str] = field(default_factory=Counter)
    leases: set[str] = field(default_factory=set)
    #: Leases to which it is a mirror: they go on without it, so no room is kept for them.
    mirrored: set[str] = field(default_factory=set)
    #: Looks that ask it first.
    looks: set[str] = field(default_factory=set)
    #: Of the connections that are wanted, those for looks, by agent.
    looking: Counter[str] = field(default_factory=Counter)
    shares: dict[str, _Share] = field(default_factory=dict)
    #: Who should have how many; None: to be made anew.
    targets: Mapping[str, int] | None = None

    @property
    def given_out(self) -> int:
        return sum(share.in_use_max for share in self.shares.values())

    @property
    def peak(self) -> int:
        return sum(share.peak for share in self.shares.values())


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host, as it is shown."""

    host: str
    connections: int
    connections_max: int
    pause_until_s: float | None
    lease_ids: Sequence[str]
    #: Leases to which it is a mirror.
    mirrored_ids: Sequence[str]


class Hosts:
    def __init__(self, settings: HostsSettings) -> None:
        self._settings = settings
        self._sites: dict[str, _Site] = {}
        #: Of hosts that refused; all others have a whole one.
        self._budgets: dict[str, Budget] = {}
        #: By lease: its agent, its host and its mirrors' hosts, and the connections it could use.
        self._lease: dict[str, tuple[str, Sequence[str], int]] = {}
        #: By order of a look: its agent, and the hosts that it may ask, the first one first.
        self._look: dict[str, tuple[str, Sequence[str]]] = {}
        self._hosts_of_agent: defaultdict[str, set[str]] = defaultdict(set)
        self._tended_at_s = float("-inf")

    # --- leases ---

    def add_lease(self, lease_id: str, agent: str, host: str, connections: int, mirrors: Sequence[str] = ()) -> None:
        """Have a lease read from a host, and from those of its mirrors."""
        self._lease[lease_id] = (agent, (host, *mirrors), connections)
        for name in (host, *mirrors):
            site = self._want(name, agent, connections)
            (site.leases if name == host else site.mirrored).add(lease_id)

    def drop_lease(self, lease_id: str) -> None:
        known = self._lease.pop(lease_id, None)
        if known is None:
            return
        agent, hosts, connections = known
        for host in hosts:
            site = self._unwant(host, agent, connections)
            site.leases.discard(lease_id)
            site.mirrored.discard(lease_id)

    def forget_leases(self) -> None:
        """Begin anew with leases and looks, before those that stand are added; who may use what stays known."""
        for lease_id in list(self._lease):
            self.drop_lease(lease_id)
        for order_id in list(self._look):
            self.drop_look(order_id)

    def add_look(self, order_id: str, agent: str, hosts: Sequence[str]) -> None:
        """Have an agent look at a file on the first of some hosts, or where that has none, on the others.

        An order that is sent a second time counts once.
        """
        self.drop_look(order_id)
        self._look[order_id] = (agent, hosts)
        for host in hosts:
            self._want(host, agent, 1).looking[agent] += 1
        self._sites[hosts[0]].looks.add(order_id)

    def drop_look(self, order_id: str) -> None:
        agent, hosts = self._look.pop(order_id, ("", ()))
        for host in hosts:
            site = self._unwant(host, agent, 1)
            site.looks.discard(order_id)
            site.looking[agent] -= 1
            if site.looking[agent] == 0:
                del site.looking[agent]

    def _want(self, host: str, agent: str, connections: int) -> _Site:
        site = self._sites.setdefault(host, _Site())
        site.wants[agent] += connections
        site.targets = None
        self._share(site, host, agent)
        return site

    def _unwant(self, host: str, agent: str, connections: int) -> _Site:
        site = self._sites[host]
        site.wants[agent] -= connections
        if site.wants[agent] <= 0:
            del site.wants[agent]
        site.targets = None
        return site

    def assume(self) -> None:
        """Count the leases of agents that were told nothing by us as using all they can: they may have been told by
        another scheduler, or in a turn whose end we did not see.
        """
        for site in self._sites.values():
            for agent, wanted in site.wants.items():
                share = site.shares[agent]
                if share.version == 0:
                    share.in_use_max = max(share.in_use_max, wanted)

    def part_with(self, agent: str) -> None:
        """Forget what an agent uses that has ended, or lost all it had."""
        for host in self._hosts_of_agent.pop(agent, set()):
            site = self._sites[host]
            del site.shares[agent]
            if agent in site.wants:
                # Leases that are about to be handed back.
                self._share(site, host, agent)
            self._tidy(host)

    # --- what may begin ---

    def room(self, host: str, now_s: float) -> int:
        """Return how many more leases would find a connection there."""
        if self.pause_until_s(host, now_s) is not None:
            return 0
        site = self._sites.get(host)
        return self._connections(host) - (0 if site is None else len(site.leases))

    def room_to_look(self, host: str, now_s: float) -> int:
        """Return how many more looks would find a connection there: what leases leave, and a few in any case.

        Without those the metadata of a job would wait for the end of other jobs, which may take hours.
        """
        if self.pause_until_s(host, now_s) is not None:
            return 0
        site = self._sites.get(host) or _Site()
        looks_min = max(1, self._connections(host) // _LOOKS_SHARE)
        return max(looks_min, self._connections(host) - len(site.leases)) - len(site.looks)

    def may_look_from(self, host: str, agent: str, others: Collection[str]) -> bool:
        """Whether an agent has a share of a host's connections, or would have; `others` are about to look there, too.

        One without a share would only wait: the look is for another one.
        """
        site = self._sites.get(host) or _Site()
        if agent in site.wants:
            return self._targets(site, host)[agent] > 0
        return len({*site.wants, *others, agent}) <= self._connections(host)

    def looks_in_vain(self, now_s: float) -> Sequence[str]:
        """Return the looks whose agents have no connection at the host, and are to have none while others want them."""
        return [order_id for order_id, (agent, hosts) in self._look.items() if self._is_in_vain(agent, hosts[0], now_s)]

    def _is_in_vain(self, agent: str, host: str, now_s: float) -> bool:
        site = self._sites[host]
        share = site.shares[agent]
        has_none = share.told == 0 and share.connections == 0 and self._targets(site, host)[agent] == 0
        return has_none and self.pause_until_s(host, now_s) is None

    def _targets(self, site: _Site, host: str) -> Mapping[str, int]:
        if site.targets is None:
            site.targets = policy.shares(self._connections(host), site.wants, site.looking)
        return site.targets

    def _connections(self, host: str) -> int:
        budget = self._budgets.get(host)
        return self._settings.connections_max if budget is None else budget.connections

    def pause_until_s(self, host: str, now_s: float) -> float | None:
        """Return until when the host is left alone; None: it may be asked."""
        budget = self._budgets.get(host)
        return budget.pause_until_s if budget is not None and budget.is_pausing(now_s) else None

    # --- what agents say and are told ---

    def hear(self, agent: str, uses: Iterable[HostUse], now_s: float) -> None:
        """Take in a report: what is in use, and what was refused."""
        seen = set()
        for use in uses:
            seen.add(use.host)
            self._hear_use(agent, use)
            if use.refused_ago_s is not None or use.pause_s > 0:
                self._hear_refusal(use, now_s)
        for host in self._hosts_of_agent.get(agent, set()) - seen:
            site = self._sites[host]
            if agent not in site.wants:
                self._drop_share(host, agent)
            else:
                # The order is on its way to it.
                site.shares[agent].connections = site.shares[agent].peak = 0

    def _hear_use(self, agent: str, use: HostUse) -> None:
        site = self._sites.get(use.host)
        if site is None:
            if use.connections <= 0 and use.granted <= 0:
                return
            site = self._sites[use.host] = _Site()
        share = self._share(site, use.host, agent)
        share.connections = max(0, use.connections)
        share.peak = max(share.connections, use.peak)
        if use.version >= share.version:
            # It goes by the last we told, or by what another scheduler told it.
            share.version, share.told = use.version, use.granted
            share.in_use_max = max(use.granted, use.connections)
        if agent not in site.wants and share.in_use_max == 0:
            self._drop_share(use.host, agent)

    def _hear_refusal(self, use: HostUse, now_s: float) -> None:
        site, before = self._sites.get(use.host), self._budgets.get(use.host)
        if use.refused_ago_s is None:
            return
        after = policy.refused(
            before or policy.whole(self._settings, now_s),
            at_s=now_s - max(0.0, use.refused_ago_s),
            pause_s=use.pause_s,
            given_out=0 if site is None else site.given_out,
            now_s=now_s,
            settings=self._settings,
        )
        if after != before:
            self._put(use.host, after)

    def grants(self, agent: str, now_s: float) -> tuple[HostGrant, ...]:
        """Return what an agent may use from now on, for each host where it has leases or connections."""
        return tuple(self.grant(agent, host, now_s) for host in sorted(self._hosts_of_agent.get(agent, ())))

    def pauses(self, agent: str, uses: Iterable[HostUse], now_s: float) -> tuple[HostGrant, ...]:
        """Tell an agent of hosts that it has no share of, and which pause: its requests may lead through them."""
        mine = self._hosts_of_agent.get(agent, set())
        paused = [(use, self.pause_until_s(use.host, now_s)) for use in uses if use.host not in mine]
        return tuple(
            HostGrant(host=use.host, connections=use.granted, version=use.version, pause_s=until_s - now_s)
            for use, until_s in paused
            if until_s is not None
        )

    def grant(self, agent: str, host: str, now_s: float) -> HostGrant:
        """Tell an agent its share at one host: as much as the others have left of it by now."""
        site = self._sites.setdefault(host, _Site())
        share = self._share(site, host, agent)
        budget = self._budgets.get(host)
        connections = self._connections(host)
        free = connections - (site.given_out - share.in_use_max)
        allowed = max(0, min(self._targets(site, host).get(agent, 0), free))
        if allowed != share.told or share.version == 0:
            share.version += 1
            share.told = allowed
        share.in_use_max = max(share.in_use_max, allowed)
        pause_s = 0.0 if budget is None else max(0.0, budget.pause_until_s - now_s)
        return HostGrant(host=host, connections=allowed, version=share.version, pause_s=pause_s)

    # --- the course of time ---

    def tend(self, now_s: float, online: Iterable[str]) -> None:
        """Give back to hosts what they have earned, and forget what is over. Cheap when nothing is due."""
        if 0 <= now_s - self._tended_at_s < _TEND_S:
            return
        self._tended_at_s = now_s
        for agent in self._hosts_of_agent.keys() - set(online):
            self._drop_idle(agent)
        for host, budget in list(self._budgets.items()):
            site = self._sites.get(host)
            given_out, used = (0, 0) if site is None else (site.given_out, site.peak)
            after = policy.regrown(budget, given_out=given_out, used=used, now_s=now_s, settings=self._settings)
            if policy.is_whole(after, now_s, self._settings):
                del self._budgets[host]
            elif after is not budget:
                self._budgets[host] = after
            if site is not None and after is not budget:
                site.targets = None

    def _drop_idle(self, agent: str) -> None:
        """An agent that is offline has stopped by itself; what it still has leases for, it may come back to."""
        for host in list(self._hosts_of_agent[agent]):
            if agent not in self._sites[host].wants:
                self._drop_share(host, agent)

    def shift(self, by_s: float) -> None:
        self._budgets = {host: policy.shifted(budget, by_s) for host, budget in self._budgets.items()}

    # --- what is shown ---

    def records(self, now_s: float) -> Sequence[HostRecord]:
        """Return the hosts that are in use or recover, by name."""
        return [self._record(host, now_s) for host in sorted(self._sites.keys() | self._budgets.keys())]

    def _record(self, host: str, now_s: float) -> HostRecord:
        site = self._sites.get(host)
        return HostRecord(
            host=host,
            connections=0 if site is None else sum(share.connections for share in site.shares.values()),
            connections_max=self._connections(host),
            pause_until_s=self.pause_until_s(host, now_s),
            lease_ids=() if site is None else sorted(site.leases),
            mirrored_ids=() if site is None else sorted(site.mirrored),
        )

    def given_out(self) -> Mapping[str, int]:
        """Return how many connections may be in use at most, by host."""
        return {host: site.given_out for host, site in self._sites.items()}

    # --- keeping ---

    def _share(self, site: _Site, host: str, agent: str) -> _Share:
        share = site.shares.get(agent)
        if share is None:
            share = site.shares[agent] = _Share()
            self._hosts_of_agent[agent].add(host)
        return share

    def _drop_share(self, host: str, agent: str) -> None:
        del self._sites[host].shares[agent]
        of_agent = self._hosts_of_agent[agent]
        of_agent.discard(host)
        if not of_agent:
            del self._hosts_of_agent[agent]
        self._tidy(host)

    def _tidy(self, host: str) -> None:
        site = self._sites[host]
        # Whoever has a lease or a look there has a share.
        if not site.shares:
            del self._sites[host]

    def _put(self, host: str, budget: Budget) -> None:
        while len(self._budgets) >= HOSTS_MAX and host not in self._budgets:
            del self._budgets[next(iter(self._budgets))]
        self._budgets[host] = budget
        site = self._sites.get(host)
        if site is not None:
            site.targets = None
