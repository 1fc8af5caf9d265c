"""Keeps as many agents as the scaling policy wants: asks for more, withdraws what is not there yet, drains.

Laws of this file:
1. New agents are actors that Ray can not place yet: the demand that makes Ray's own autoscaler bring nodes.
2. Whoever is drained takes no more leases; what it has not finished after `scaling.drain_s` is handed back uncharged.
3. Nothing here is durable: after a restart the agents that exist are looked up, and the windows begin anew.
"""

import logging
from collections.abc import Sequence
from itertools import count

from actors.agent_record import AgentRecord
from actors.book import Book
from actors.decisions import Rules, hand_back
from actors.draft import Draft
from actors.gauges import reading_of
from actors.ports import AgentPool
from rayhaul.capacity import AgentState
from rayhaul.errors import RayhaulError
from rayhaul.metrics import AGENTS_PENDING, AGENTS_WANTED, SCALING_DECISIONS, Meter
from rayhaul.policy import scaling
from rayhaul.policy.alert_rules import AlertRule
from rayhaul.policy.scaling import Decision, Reason, Situation
from rayhaul.policy.scheduling import Load
from rayhaul.settings import ScalingSettings

log = logging.getLogger(__name__)

#: Time between two looks at which agents exist, and between two drain orders to one that has not heard.
_LOOK_S = 2.0
#: An agent that is unfit for longer is replaced. Source: the specification's runbook for an offline worker, step 5.
_REPLACE_S = 300.0
#: After its goodbye an agent's name may stand in Ray's list for a moment. Longer, and its process hangs: it is killed.
_GOODBYE_S = 10.0
#: An agent that Ray has, and that has been silent for so long, hangs: it is killed, and another one takes its place.
_HANGS_S = 300.0


class Scaler:
    def __init__(self, rule: AlertRule, settings: ScalingSettings, pool: AgentPool, meter: Meter) -> None:
        self._settings = settings
        self._pool = pool
        self._meter = meter
        self._memory = scaling.beginning(rule, settings)
        #: The agents that Ray has or starts; None before the first look.
        self._names: frozenset[str] | None = None
        self._looked_at_s = float("-inf")
        #: The last decision that was told.
        self._told: tuple[int, Reason] | None = None
        self._decision: Decision | None = None
        self._gone_at_s: dict[str, float] = {}

    @property
    def load_pct(self) -> float | None:
        """The average share in use that decisions are made from; None where nothing is known."""
        return self._memory.load.value

    @property
    def knows_agents(self) -> bool:
        """Whether it has seen which agents there are: before that it decides nothing."""
        return self._names is not None

    def decide(self, draft: Draft, book: Book, rules: Rules) -> None:
        """Take this turn's decision, to be carried out by `act` once it is durable."""
        self._decision = None
        self._hand_back_late(draft, book, rules)
        if self._names is None:
            return
        situation = self._situation(book, self._names, draft.now_s)
        self._memory = scaling.observe(self._memory, situation, self._settings)
        decision = self._decision = scaling.decide(self._memory, situation, self._settings)
        self._meter.set(AGENTS_WANTED, decision.wanted)
        self._meter.set(AGENTS_PENDING, situation.agents_pending)
        if (decision.wanted, decision.reason) != self._told:
            draft.note_scaling(decision)
            if decision.change:
                draft.count(SCALING_DECISIONS, decision.reason)

    def put_back(self) -> None:
        """Forget the decision of a turn that failed."""
        self._decision = None

    def shift(self, by_s: float) -> None:
        """Move on the times that are remembered: the clock was set, or the loop held up."""
        self._memory = scaling.shifted(self._memory, by_s)
        self._gone_at_s = {agent: at_s + by_s for agent, at_s in self._gone_at_s.items()}

    async def act(self, book: Book, now_s: float) -> None:
        """Carry out what was decided, and look at what there is."""
        decision, self._decision = self._decision, None
        try:
            if decision is not None:
                if (decision.wanted, decision.reason) != self._told:
                    log.info("scaling, %s", decision)
                self._told = (decision.wanted, decision.reason)
                if decision.change:
                    await self._carry_out(book, decision)
                self._memory = scaling.remember(self._memory, decision)
            if not 0 <= now_s - self._looked_at_s < _LOOK_S:
                await self._look(book, now_s)
        except RayhaulError as error:
            log.warning("agents could not be listed or changed: %s", error.message, extra={"code": error.code})

    def _hand_back_late(self, draft: Draft, book: Book, rules: Rules) -> None:
        for record in book.agents.values():
            if record.drained_at_s is None or draft.now_s - record.drained_at_s <= self._settings.drain_s:
                continue
            for lease in book.leases_held(record.agent):
                if draft.lease(lease.lease_id) is not None:
                    draft.revokes[record.agent].append(lease.lease_id)
                    hand_back(draft, lease, rules, f"{record.agent} is draining", charged=False)

    async def drain(self, record: AgentRecord, now_s: float) -> None:
        """Let an agent finish and exit."""
        if record.drained_at_s is None:
            record.drained_at_s = now_s
        await self._pool.drain(record.agent)

    def gone(self, agent: str, now_s: float) -> None:
        """Note that an agent said goodbye."""
        self._gone_at_s[agent] = now_s

    def _situation(self, book: Book, names: frozenset[str], now_s: float) -> Situation:
        online = [record for record in book.agents.values() if record.takes_leases]
        draining = [record for record in book.agents.values() if record.state is AgentState.DRAINING]
        unfit = [
            record
            for record in book.agents.values()
            if record.state is AgentState.UNFIT and now_s - record.unfit_since_s < _REPLACE_S
        ]
        return Situation(
            now_s=now_s,
            agents_count=len(online),
            # One that is unfit is expected back, for a while; then it is replaced.
            agents_pending=len(self._pending(book, names)) + len(unfit),
            agents_draining=len(draining),
            capacity_pct_avg=scaling.average_pct(reading_of(book, record) for record in online),
            jobs_waiting=_startable(book),
            # Those that are there and of no use count too: replacing them for ever would fill the machines.
            room=max(0, self._settings.agents_max - len(names - self._gone_at_s.keys())),
        )

    def _pending(self, book: Book, names: frozenset[str]) -> Sequence[str]:
        """Return the agents that Ray has or starts and that do not report, by number.

        An agent that fell silent is among them: Ray starts it again, on another node where its own is lost.
        """
        here = {record.agent for record in book.agents.values() if not record.offline and record.seq > 0}
        return sorted(names - here - self._gone_at_s.keys(), key=_number)

    async def _carry_out(self, book: Book, decision: Decision) -> None:
        names = self._names or frozenset()
        if decision.change > 0:
            free = (f"agent-{number}" for number in count(1) if f"agent-{number}" not in names)
            for agent in [next(free) for _ in range(decision.change)]:
                await self._pool.add(agent)
                self._names = names = names | {agent}
                self._gone_at_s.pop(agent, None)
            return
        pending = [agent for agent in self._pending(book, names) if agent not in book.agents]
        withdrawn = pending[::-1][: -decision.change]
        for agent in withdrawn:
            await self._pool.withdraw(agent)
            self._names = names = names - {agent}
        for _ in range(-decision.change - len(withdrawn)):
            await self._drain_one(book, decision.situation.now_s)

    async def _look(self, book: Book, now_s: float) -> None:
        """See which agents there are, and clear away those that will not come back."""
        names = frozenset(await self._pool.names())
        self._gone_at_s = {agent: at_s for agent, at_s in self._gone_at_s.items() if agent in names}
        lost = [agent for agent, at_s in self._gone_at_s.items() if now_s - at_s > _GOODBYE_S]
        for record in list(book.agents.values()):
            silent_s = now_s - record.seen_at_s
            if not record.offline or book.leases_of_agent.get(record.agent):
                continue
            if record.agent not in names or record.seq == 0:
                # That life does not come back: it left and its goodbye got lost, or it ended before this scheduler.
                del book.agents[record.agent]
            elif silent_s > _HANGS_S:
                lost.append(record.agent)
        for agent in lost:
            log.warning("agent %s does not come back and is given up", agent, extra={"agentId": agent})
            await self._pool.withdraw(agent)
        self._names, self._looked_at_s = names - set(lost), now_s
        self._gone_at_s = {agent: at_s for agent, at_s in self._gone_at_s.items() if agent not in lost}
        await self._drain_again(book)

    async def _drain_one(self, book: Book, now_s: float) -> None:
        online = [record for record in book.agents.values() if record.takes_leases]
        loads = (Load(r.agent, r.capacity.slots, len(book.leases_of_agent.get(r.agent, ()))) for r in online)
        agent = scaling.pick_drain(loads)
        if agent is not None:
            await self.drain(book.agents[agent], now_s)

    async def _drain_again(self, book: Book) -> None:
        """Orders may be lost: say it again to those that do not say themselves that they drain."""
        for record in book.agents.values():
            if record.drained_at_s is not None and not (record.draining or record.offline):
                await self._pool.drain(record.agent)


def _number(agent: str) -> tuple[int, str]:
    digits = agent.rpartition("-")[2]
    return (int(digits) if digits.isdigit() else 0, agent)


def _startable(book: Book) -> int:
    """Return how many jobs could be started or looked at now, were there an agent."""
    paused = frozenset(book.paused)
    waiting = book.waiting.ready_count(but=paused) + book.waiting_apart.ready_count(but=paused)
    return waiting + book.unprobed.ready_count() + book.unprobed_apart.ready_count()
