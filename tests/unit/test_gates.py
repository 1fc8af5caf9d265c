"""A host's gate in one process, and the shares that the scheduler hands out: together they keep the budget."""

import asyncio
from contextlib import suppress
from random import Random

import pytest

from actors.hosts import Hosts
from rayhaul.errors import HostFull, SourceBusy
from rayhaul.origins import HostGrant, HostUse
from rayhaul.settings import HostsSettings
from tasks import gates
from tasks.gates import Gates, HostGate

HOST = "origin.example:443"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def grant(connections: int, version: int, *, pause_s: float = 0.0) -> HostGrant:
    return HostGrant(host=HOST, connections=connections, version=version, pause_s=pause_s)


async def hold(gate: HostGate, until: asyncio.Event, waits: list[str] | None = None) -> None:
    async with gate.turn(lambda: None if waits is None else waits.append("waits")):
        await until.wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_it_shrinks_and_grows_under_way() -> None:
    """What runs is left alone when a grant shrinks; the next ones wait until there are fewer, or the grant grows."""
    gate, waits = HostGate(HOST, Clock()), list[str]()
    gate.take(grant(2, 1))
    ends = [asyncio.Event() for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        for end in ends:
            group.create_task(hold(gate, end, waits))
        await settled()
        assert (gate.used, len(waits)) == (2, 3)
        gate.take(grant(1, 2))
        ends[0].set()
        await settled()
        assert gate.used == 1
        gate.take(grant(4, 1))
        await settled()
        assert gate.used == 1, "an older grant came late"
        gate.take(grant(3, 3))
        await settled()
        assert gate.used == 3
        for end in ends:
            end.set()
    assert (gate.used, gate.use().connections, gate.use().version) == (0, 0, 3)


async def test_who_came_first_is_first() -> None:
    """A lane that takes one part after the other lets those by that wait."""
    gate, order = HostGate(HOST, Clock()), list[str]()
    gate.take(grant(1, 1))

    async def lane(name: str) -> None:
        for _ in range(3):
            async with gate.turn(lambda: None):
                order.append(name)
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in ("a", "b"):
            group.create_task(lane(name))
    assert order == ["a", "b", "a", "b", "a", "b"]


async def test_a_refusal_pauses_the_host_here() -> None:
    """Nothing begins before Retry-After is over, whatever was granted; a lease does not hang for a long one."""
    clock = Clock()
    gate = HostGate(HOST, clock)
    gate.take(grant(8, 1))
    with pytest.raises(SourceBusy):
        async with gate.turn(lambda: None):
            raise SourceBusy(retry_after_s=30)
    assert gate.use() == HostUse(
        host=HOST, connections=0, granted=8, version=1, refused_ago_s=0.0, pause_s=30.0, peak=1
    )
    waiting = asyncio.create_task(hold(gate, asyncio.Event()))
    await settled()
    assert gate.used == 0
    clock.now_s += 30.1
    gate.take(grant(8, 1))
    await settled()
    assert gate.used == 1
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    gate.take(grant(8, 2, pause_s=gates.WAIT_S_MAX + 10))
    with pytest.raises(HostFull) as caught:
        await hold(gate, asyncio.Event())
    assert caught.value.retry_after_s == pytest.approx(gates.WAIT_S_MAX + 10)
    assert gate.use().refused_ago_s == pytest.approx(30.1), "our own refusal is not the host's"


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host has nothing for a lease for long, the lease hears that."""
    monkeypatch.setattr(gates, "WAIT_S_MAX", 0.05)
    gate = HostGate(HOST, asyncio.get_running_loop().time)
    gate.take(grant(0, 1))
    with pytest.raises(HostFull):
        await hold(gate, asyncio.Event())
    assert gate.use().refused_ago_s is None


def test_what_is_told_once_is_forgotten() -> None:
    """A refusal is told until a report with it was answered; then an idle host that nobody needs is forgotten."""
    clock = Clock()
    known = Gates(clock)
    known.note("https://origin.example/a", SourceBusy(retry_after_s=5))
    known.note("https://fine.example/a", SourceBusy())
    told_at_s = clock.now_s
    told = known.uses(set())
    assert [(use.host, use.pause_s, use.refused_ago_s) for use in told] == [(HOST, 5, 0), ("fine.example:443", 0, 0)]
    clock.now_s += 1
    assert known.uses(set())[0].refused_ago_s == 1
    known.note("https://fine.example/a", SourceBusy())
    known.settle(told, told_at_s)
    assert [(use.host, use.refused_ago_s) for use in known.uses(set())] == [(HOST, None), ("fine.example:443", 0)]
    clock.now_s += 5
    assert [use.host for use in known.uses({"fine.example:443"})] == ["fine.example:443"]


# --- with the scheduler's book, over a lossy wire ---

BUDGET = 6
SETTINGS = HostsSettings(connections_max=BUDGET, pause_s_max=20, regrow_s=3)
HOSTS = ("a:80", "b:80", "c:80")


class Member:
    """An agent that uses all that it may, and whose requests end by dice."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name = name
        self.clock = clock
        self.begin_anew()

    def begin_anew(self) -> None:
        self.gates = Gates(self.clock)
        self.leases: dict[str, tuple[str, int]] = {}
        #: Looks at metadata by their order, with their host.
        self.looks: dict[str, str] = {}

    def wanted(self, host: str) -> int:
        return sum(wanted for at, wanted in self.leases.values() if at == host) + list(self.looks.values()).count(host)

    def unwritten(self, host: str) -> int:
        """Return how many connections it may have there of which nothing is in the ledger."""
        of_leases = sum(wanted for at, wanted in self.leases.values() if at == host)
        return max(0, max(self.used(host), self.wanted(host)) - of_leases)

    @property
    def hosts(self) -> set[str]:
        return {host for host, _ in self.leases.values()} | set(self.looks.values())

    def move(self, rng: Random) -> None:
        for host, gate in list(self.gates._gates.items()):
            for _ in range(gate.used):
                gate.used -= rng.random() < 0.3
            while gate.used < self.wanted(host) and gate._is_free():
                gate.used += 1

    def used(self, host: str) -> int:
        gate = self.gates._gates.get(host)
        return 0 if gate is None else gate.used


class Life:
    """Leases and looks come and go, reports and answers get lost, agents and schedulers are lost, hosts refuse."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.clock = Clock()
        self.members = [Member(f"agent-{number}", self.clock) for number in range(4)]
        self.hosts = Hosts(SETTINGS)
        self.leases: dict[str, tuple[Member, str, int]] = {}
        self.looks: dict[str, tuple[Member, str]] = {}
        self.count = 0
        #: Agents that this scheduler has heard of.
        self.heard: set[str] = set()
        self.most = dict.fromkeys(HOSTS, 0)
        #: Connections of looks that another scheduler ordered, until this one has heard of them and made room.
        self.unknown = dict.fromkeys(HOSTS, 0)

    def step(self, *, rough: bool) -> None:
        rng = self.rng
        self.clock.now_s += 1
        if rough and rng.random() < 0.02:
            self.change_scheduler()
        if rng.random() < 0.6:
            self.begin_lease(lost=rough and rng.random() < 0.1)
        if self.leases and rng.random() < 0.3:
            self.end_lease(rng.choice(sorted(self.leases)))
        if rng.random() < 0.4:
            self.begin_look(lost=rough and rng.random() < 0.1)
        if self.looks and rng.random() < 0.4:
            self.end_look(rng.choice(sorted(self.looks)))
        self.end_unknown_looks()
        for member in self.members:
            if rough and rng.random() < 0.02:
                self.lose(member)
            member.move(rng)
            if rough and rng.random() < 0.05:
                gate = member.gates._gates.get("a:80")
                if gate is not None:
                    gate.refuse(rng.choice((None, 4.0)))
            self.report(member, lost=rough and rng.random() < 0.2, unanswered=rough and rng.random() < 0.2)
            member.move(rng)
        self.hosts.tend(self.clock(), [member.name for member in self.members])

    def begin_lease(self, *, lost: bool) -> None:
        host = self.rng.choice(HOSTS)
        heard = [member for member in self.members if member.name in self.heard]
        if not heard or self.hosts.room(host, self.clock()) <= 0:
            return
        member, wanted = self.rng.choice(heard), self.rng.randint(1, 4)
        self.count += 1
        lease_id = f"lease-{self.count}"
        self.leases[lease_id] = (member, host, wanted)
        self.hosts.add_lease(lease_id, member.name, host, wanted)
        order = self.hosts.grant(member.name, host, self.clock())
        if not lost:
            member.gates.of(order)
            member.leases[lease_id] = (host, wanted)

    def end_lease(self, lease_id: str) -> None:
        member, _, _ = self.leases.pop(lease_id)
        self.hosts.drop_lease(lease_id)
        member.leases.pop(lease_id, None)

    def begin_look(self, *, lost: bool) -> None:
        host = self.rng.choice(HOSTS)
        heard = [member for member in self.members if member.name in self.heard]
        if not heard or self.hosts.room_to_look(host, self.clock()) <= 0:
            return
        member = self.rng.choice(heard)
        self.count += 1
        order_id = f"look-{self.count}"
        self.looks[order_id] = (member, host)
        self.hosts.add_look(order_id, member.name, [host])
        order = self.hosts.grant(member.name, host, self.clock())
        if not lost:
            member.gates.of(order)
            member.looks[order_id] = host

    def end_unknown_looks(self) -> None:
        for member in self.members:
            for order_id in [id_ for id_ in member.looks if id_ not in self.looks and self.rng.random() < 0.4]:
                del member.looks[order_id]

    def end_look(self, order_id: str) -> None:
        member, _ = self.looks.pop(order_id)
        self.hosts.drop_look(order_id)
        member.looks.pop(order_id, None)

    def lose(self, member: Member) -> None:
        for order_id, (looker, _) in list(self.looks.items()):
            if looker is member:
                self.end_look(order_id)
        for lease_id, (holder, _, _) in list(self.leases.items()):
            if holder is member:
                self.end_lease(lease_id)
        self.hosts.part_with(member.name)
        member.begin_anew()

    def change_scheduler(self) -> None:
        self.hosts = Hosts(SETTINGS)
        self.heard.clear()
        # The ledger has no looks: who asks goes on, and says so.
        self.looks.clear()
        for host in HOSTS:
            self.unknown[host] = sum(member.unwritten(host) for member in self.members)
        for lease_id, (member, host, wanted) in self.leases.items():
            self.hosts.add_lease(lease_id, member.name, host, wanted)
        self.hosts.assume()

    def report(self, member: Member, *, lost: bool, unanswered: bool) -> None:
        told_at_s = self.clock()
        uses = member.gates.uses(member.hosts)
        if lost:
            return
        self.heard.add(member.name)
        self.hosts.hear(member.name, uses, self.clock())
        grants = self.hosts.grants(member.name, self.clock())
        if not unanswered:
            member.gates.settle(uses, told_at_s)
            member.gates.take(grants)

    def check(self) -> None:
        for host in HOSTS:
            used = sum(member.used(host) for member in self.members)
            given_out = self.hosts.given_out().get(host, 0)
            if len(self.heard) == len(self.members) and given_out <= BUDGET:
                self.unknown[host] = 0
            assert used <= given_out + self.unknown[host], f"{host}: more in use than was given out"
            assert used <= BUDGET + self.unknown[host], host
            if self.unknown[host] == 0:
                self.most[host] = max(self.most[host], used)
        assert (
            self.hosts.room("b:80", self.clock()) + sum(host == "b:80" for _, host, _ in self.leases.values()) == BUDGET
        ), "what a refuses is nothing to b"


@pytest.mark.parametrize("seed", range(12))
def test_the_budget_holds_under_faults(seed: int) -> None:
    """Never more connections at a host than the budget, and never fewer than it bears where all is well again; nothing
    is remembered of hosts that nobody uses.
    """
    life = Life(seed)
    for _ in range(300):
        life.step(rough=True)
        life.check()
    assert all(0 < most <= BUDGET for most in life.most.values())
    for lease_id in list(life.leases):
        life.end_lease(lease_id)
    for order_id in list(life.looks):
        life.end_look(order_id)
    for member in life.members:
        member.looks.clear()
        for gate in member.gates._gates.values():
            gate.used = 0
    for _ in range(120):
        life.clock.now_s += 1
        for member in life.members:
            life.report(member, lost=False, unanswered=False)
        life.hosts.tend(life.clock(), [member.name for member in life.members])
    assert (life.hosts._sites, life.hosts._budgets, dict(life.hosts._hosts_of_agent)) == ({}, {}, {})
    assert all(not member.gates._gates for member in life.members)


@pytest.mark.parametrize("seed", range(3))
def test_all_of_it_is_given_out(seed: int) -> None:
    """Where leases want more than there is, two reports are enough, and nobody has less than half of its due."""
    life = Life(seed)
    for member in life.members:
        life.report(member, lost=False, unanswered=False)
    for number, member in enumerate(life.members):
        lease_id = f"lease-{number}"
        life.leases[lease_id] = (member, "a:80", 4)
        life.hosts.add_lease(lease_id, member.name, "a:80", 4)
        member.gates.of(life.hosts.grant(member.name, "a:80", life.clock()))
        member.leases[lease_id] = ("a:80", 4)
        member.move(Random(seed))
    assert life.hosts.given_out()["a:80"] == BUDGET
    for _ in range(8):
        for member in life.members:
            life.report(member, lost=False, unanswered=False)
            for gate in member.gates._gates.values():
                gate.used = min(gate.used, gate.use().granted)
            life.check()
    assert sorted(use.granted for member in life.members for use in member.gates.uses({"a:80"})) == [1, 1, 2, 2]
