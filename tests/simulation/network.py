"""The agents as the scheduler reaches them (actors.ports.AgentPool), and everything that gets lost on the way.

A call is sent and not awaited, as across Ray: it may be lost, or come late and after a younger one. A process that is
taken for dead may live on and report.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fleet import SimAgent
from reference import ReferenceLedger
from surroundings import Surroundings, describe
from violations import must

from rayhaul.lease import Order, TransferOrder, TrimOrder
from rayhaul.report import AgentReport

#: Longest a call is on its way, and the longest an agent is out of reach: beyond any patience of the scheduler's.
_LATE_S = 20
_AWAY_S = 60
_STARTS_S = 8


@dataclass(slots=True)
class Network:
    around: Surroundings
    ledger: ReferenceLedger
    agents: dict[str, SimAgent] = field(default_factory=dict)
    #: Processes that live on though another has taken their name, and until when.
    ghosts: list[tuple[float, SimAgent]] = field(default_factory=list)
    #: Agents that are being started, and when they are there.
    starting: dict[str, float] = field(default_factory=dict)
    #: What comes late: when, and what happens then.
    late: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    drained: int = 0

    # --- actors.ports.AgentPool ---

    async def assign(self, agent: str, orders: Sequence[Order]) -> None:
        for order in orders:
            if isinstance(order, TransferOrder):
                self._check_order(agent, order)
        odds = self.around.odds
        if self.around.happens(odds.order_lost):
            self.around.note(f"orders to {agent} are lost: {len(orders)}")
            return
        self._send(agent, lambda found: found.assign(orders))

    async def revoke(self, agent: str, lease_ids: Sequence[str]) -> None:
        if not self.around.happens(self.around.odds.order_lost):
            self._send(agent, lambda found: found.revoke(lease_ids))

    async def trim(self, agent: str, orders: Sequence[TrimOrder]) -> None:
        self.around.note(f"{agent} is asked for tails: {', '.join(f'{o.lease_id} from {o.end_part}' for o in orders)}")
        if not self.around.happens(self.around.odds.order_lost):
            self._send(agent, lambda found: found.trim(orders))

    async def add(self, agent: str) -> None:
        if agent not in self.agents:
            self.around.note(f"{agent} is started")
            self.starting.setdefault(agent, self.around.now_s + self.around.rng.randint(0, _STARTS_S))

    async def drain(self, agent: str) -> None:
        self.around.note(f"{agent} is told to drain")

        def drain(found: SimAgent) -> None:
            found.draining = True

        self._send(agent, drain)

    async def withdraw(self, agent: str) -> None:
        self.starting.pop(agent, None)

    async def names(self) -> Sequence[str]:
        return [*self.agents, *(name for name in self.starting if name not in self.agents)]

    def _send(self, agent: str, call: Callable[[SimAgent], None]) -> None:
        found = self.agents.get(agent)
        if found is None or self.around.now_s < found.cut_off_until_s:
            return

        def arrive() -> None:
            # To the process that was there when it was sent, or to none.
            if self.agents.get(agent) is found and not found.leaving:
                if self.around.now_s < found.frozen_until_s:
                    found.mailbox.append(lambda: call(found))
                else:
                    call(found)

        if self.around.happens(self.around.odds.order_late):
            self.late.append((self.around.now_s + self.around.rng.randint(1, _LATE_S), arrive))
        else:
            arrive()

    def _check_order(self, agent: str, order: TransferOrder) -> None:
        """An order leaves only after its lease is durable, and says what the ledger says."""
        rows = self.ledger.rows
        lease = rows.granted.get(order.lease_id)
        must(lease is not None, "order", f"{order.lease_id} is ordered and was never granted")
        assert lease is not None
        must((lease.agent, lease.epoch) == (agent, order.epoch), "order", f"{order.lease_id} is ordered of {agent}")
        job = rows.jobs[order.context.job_id]
        must(lease.job_id == job.id, "order", f"{order.lease_id} is ordered for {job.id}")
        must(order.context.correlation_id == job.correlation_id, "I7", f"the order for {job.id} has another id")
        if order.lease_id in rows.leases:
            must(
                (order.pin, order.key) == (job.metadata, job.key), "order", f"{order.lease_id}: another version or key"
            )
            known = {part.number: part for part in order.parts_done}
            if order.session is not None:
                recorded = rows.parts[order.session.session_id]
                wanted = {n: part for n, part in recorded.items() if order.first_part <= n < order.end_part}
                must(known == wanted, "order", f"{order.lease_id}: other parts")
        stripe = f"parts {order.first_part} to {order.end_part - 1}"
        self.around.note(f"{agent} gets {order.lease_id} epoch {order.epoch} of {job.id}, {stripe}")

    # --- the course of things ---

    def deliver_late(self) -> None:
        due = [call for at_s, call in self.late if at_s <= self.around.now_s]
        self.late = [(at_s, call) for at_s, call in self.late if at_s > self.around.now_s]
        for call in due:
            call()

    def live(self) -> list[tuple[SimAgent, AgentReport]]:
        """Let all agents live for a step; return what they report."""
        now_s = self.around.now_s
        for name in [name for name, at_s in self.starting.items() if at_s <= now_s]:
            del self.starting[name]
            if name not in self.agents:
                self._start(name)
        self.ghosts = [(until_s, ghost) for until_s, ghost in self.ghosts if until_s > now_s and not ghost.leaving]
        return [
            (agent, report)
            for agent in [*self.agents.values(), *(ghost for _, ghost in self.ghosts)]
            if self._befall(agent) and (report := self._live_on(agent)) is not None
        ]

    def is_here(self, agent: SimAgent) -> bool:
        """Whether the process lives and can hear."""
        lives = self.agents.get(agent.name) is agent or any(ghost is agent for _, ghost in self.ghosts)
        now_s = self.around.now_s
        return lives and now_s >= agent.cut_off_until_s and now_s >= agent.frozen_until_s

    def heal(self) -> None:
        """Let whatever was out of reach come back; what was frozen goes on where it was."""
        self.ghosts.clear()
        for agent in self.agents.values():
            agent.cut_off_until_s = agent.unfit_until_s = 0.0
            agent.frozen_until_s = min(agent.frozen_until_s, self.around.now_s)
            agent.lies = False

    def _start(self, name: str) -> None:
        self.agents[name] = SimAgent(name, self.around.new_id("inc"), self.around, self.around.now_s)

    def _befall(self, agent: SimAgent) -> bool:
        """Let happen to an agent what may; return whether it lives on."""
        around, odds = self.around, self.around.odds
        is_ghost = self.agents.get(agent.name) is not agent
        haunts = around.happens(odds.agent_haunts)
        if not is_ghost and (haunts or around.happens(odds.agent_dies)):
            around.note(f"{agent} dies")
            del self.agents[agent.name]
            if haunts:
                self.ghosts.append((around.now_s + around.rng.randint(1, _AWAY_S), agent))
                around.note(f"{agent} lives on as a ghost")
            if around.happens(0.5):
                self._start(agent.name)
            return False
        if around.happens(odds.agent_frozen):
            agent.frozen_until_s = around.now_s + around.rng.randint(1, _AWAY_S)
            around.note(f"{agent} is frozen until {agent.frozen_until_s}")
        if around.happens(odds.agent_cut_off):
            agent.cut_off_until_s = around.now_s + around.rng.randint(1, _AWAY_S)
            around.note(f"{agent} is cut off until {agent.cut_off_until_s}")
        agent.fenceless = agent.fenceless or around.happens(odds.agent_fenceless)
        agent.lies = agent.lies or around.happens(odds.agent_lies)
        if around.happens(odds.agent_unfit):
            agent.unfit_until_s = around.now_s + around.rng.randint(1, _AWAY_S)
        return True

    def _live_on(self, agent: SimAgent) -> AgentReport | None:
        now_s = self.around.now_s
        if now_s < agent.frozen_until_s:
            return None
        if agent.frozen_until_s:
            agent.frozen_until_s = 0.0
            self.around.note(f"{agent} thaws")
            if self.around.happens(0.5):
                agent.at_the_brink()
            for call in agent.mailbox:
                call()
            agent.mailbox.clear()
        agent.work()
        return self._report(agent)

    def _report(self, agent: SimAgent) -> AgentReport | None:
        around = self.around
        if agent.draining and not agent.held:
            agent.leaving = True
        report = agent.compose()
        if agent.leaving and self.agents.get(agent.name) is agent:
            around.note(f"{agent} leaves")
            self.drained += 1
            del self.agents[agent.name]
        if around.now_s < agent.cut_off_until_s or around.happens(around.odds.report_lost):
            return None
        return report


def tell(report: AgentReport) -> str:
    """Return a report in a line, for the trace."""
    return f"{report.agent}/{report.incarnation} #{report.seq} " + "; ".join(map(describe, report.notices))
