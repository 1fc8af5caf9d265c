"""Who gets what: probes, leases and aborts for the agents that take them.

Laws of this file:
1. `decide` chooses, `act` sends, and between the two stands the commit. After a turn that failed the book is rebuilt.
2. Sending is not waiting: an order that gets lost is missed in the agent's next reports and given out again.
"""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any

from actors import stripes
from actors.agent_record import AgentRecord
from actors.book import Book
from actors.decisions import give_up
from actors.draft import Draft
from actors.full_agents import FullAgents
from actors.host_turns import HostTurns
from actors.losses import probes_used, requeue_probes
from actors.orders import Orders
from actors.pending import Asked, Pending
from actors.ports import AgentPool
from actors.sweeping import Sweeping
from rayhaul.errors import RayhaulError
from rayhaul.ids import NewId
from rayhaul.job import JobStatus
from rayhaul.lease import AbortOrder, Lease, Order, ProbeOrder, SessionState, TrimOrder
from rayhaul.ledger.base import Ledger
from rayhaul.policy import parking, peeking
from rayhaul.policy.held_back import choose
from rayhaul.policy.queueing import Waiting, WaitingQueue
from rayhaul.policy.scheduling import Load, Spread
from rayhaul.settings import Settings

log = logging.getLogger(__name__)

#: An abort not confirmed after this long is ordered again; sooner where the agent has given up.
_ABORT_AGAIN_S = 60.0
_ABORT_GIVEN_UP_S = 5.0


class Dispatch:
    def __init__(self, *, ledger: Ledger, pool: AgentPool, settings: Settings, bucket: str, new_id: NewId) -> None:
        self._pool = pool
        self._settings = settings
        self._making = Orders(ledger=ledger, settings=settings, bucket=bucket, new_id=new_id)
        self._orders: defaultdict[str, list[Order]] = defaultdict(list)
        self._striping = stripes.Striping(settings)
        self._asks: Sequence[tuple[str, TrimOrder]] = ()
        self._taken: list[tuple[WaitingQueue, Waiting]] = []
        #: Agents that get nothing, because a suspect is apart there.
        self._closed: set[str] = set()
        self._lookers = peeking.Lookers(settings.source)
        self.full = FullAgents()
        self.sweeping = Sweeping(settings.sweep, prefix=settings.s3.prefix, new_id=new_id)
        #: Leases that stand and could not be sent yet.
        self._unsent: list[Lease] = []

    def decide(self, draft: Draft, book: Book) -> None:
        """Choose probes, aborts and leases for the free places of the agents that report."""
        self._asks = ()
        self._orders.clear()
        self._taken.clear()
        for queue in book.queues:
            # Also while no agent is free: the loop sleeps until what `due_at_s` tells.
            queue.promote(draft.now_s)
        online = [record.agent for record in book.online_agents()]
        book.hosts.tend(draft.now_s, online)
        book.rates.tend(draft.now_s, online)
        free = [r for r in book.agents.values() if r.takes_leases and r.avoided_until_s <= draft.now_s]
        if not free:
            return
        self._decide_apart(draft, book, free)
        self._decide_aborts(draft, book, free)
        sweep = self.sweeping.order(draft, book.swept_at)
        if sweep is not None:
            self._orders[min(record.agent for record in free)].append(sweep)
        self._decide_probes(draft, book, free)
        self._decide_leases(draft, book, free)
        self._asks = self._striping.decide(draft, book, self._room(draft, book, free))

    async def act(self, draft: Draft, book: Book) -> None:
        """Send what the commit has made true, once."""
        now_s = draft.now_s
        self._taken.clear()
        to_send, self._orders = self._orders, defaultdict(list)
        leases, self._unsent = [*self._unsent, *draft.granted], []
        for lease in leases:
            if lease.lease_id not in book.leases:
                continue
            try:
                to_send[lease.agent].append(await self._making.transfer(book, lease, now_s))
            except RayhaulError as error:
                log.warning("lease not sent yet: %s", error.message, extra={"jobId": lease.job_id, "code": error.code})
                self._unsent.append(lease)
                book.wait_to_send(lease.lease_id, now_s)
        for agent, lease_ids in draft.revokes.items():
            await _sent(agent, self._pool.revoke(agent, lease_ids))
        await self._ask(book, now_s)
        for agent, orders in to_send.items():
            record = book.agents.get(agent)
            incarnation = "" if record is None else record.incarnation
            for index, order in enumerate(orders):
                if isinstance(order, AbortOrder):
                    orders[index] = await self._making.under_its_job(order, book)
                if isinstance(order, ProbeOrder):
                    sent = Pending(order.context.job_id, agent, incarnation, now_s)
                    orders[index] = book.begin_look(order, sent)
                elif isinstance(order, AbortOrder):
                    book.aborting[order.session_id] = Pending(order.context.job_id, agent, incarnation, now_s)
            await _sent(agent, self._pool.assign(agent, orders))

    async def _ask(self, book: Book, now_s: float) -> None:
        """Ask agents for the tails of their stripes; who is not heard of is asked again."""
        asks: defaultdict[str, list[TrimOrder]] = defaultdict(list)
        for agent, order in self._asks:
            if order.lease_id in book.leases:
                before = book.asked.get(order.lease_id)
                book.asked[order.lease_id] = Asked(now_s, shared=before is not None and before.shared)
                asks[agent].append(order)
        for agent, orders in asks.items():
            await _sent(agent, self._pool.trim(agent, orders))
        self._asks = ()

    def put_back(self, draft: Draft) -> None:
        """Undo `decide`: what was taken from the queues stands in them again."""
        self._asks = ()
        for queue, waiting in self._taken:
            queue.push(waiting, draft.now_s)
        self._taken.clear()
        self._orders.clear()

    def _take(self, queue: WaitingQueue, draft: Draft, most: int, **limits: Any) -> Sequence[Waiting]:
        taken = queue.take(draft.now_s, most, **limits)
        self._taken.extend((queue, waiting) for waiting in taken)
        return taken

    def _decide_aborts(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> None:
        if not book.to_abort:
            return
        names = sorted(record.agent for record in free)
        for index, session in enumerate(book.to_abort.values()):
            now = draft.session(session.session_id)
            if now is None or now.state is not SessionState.ABORTING:
                continue
            sent = book.aborting.get(session.session_id)
            if sent is not None and sent.agent in names:
                is_held = session.session_id in book.agents[sent.agent].held
                if draft.now_s - sent.sent_at_s < (_ABORT_AGAIN_S if is_held else _ABORT_GIVEN_UP_S):
                    continue
            self._orders[names[index % len(names)]].append(self._making.abort(session))

    def _decide_probes(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> None:
        in_vain = [(order_id, book.probing[order_id]) for order_id in book.hosts.looks_in_vain(draft.now_s)]
        # Their agents hear of it with their next reports. A suspect would only be given to such an agent again.
        requeue_probes(draft, book, [look for look in in_vain if look[1].job_id not in book.suspects])
        slots = self._settings.agent.probe_slots
        used = probes_used(book)
        spread = Spread({r.agent: Load(r.agent, slots, used[r.agent]) for r in free if r.agent not in self._closed})
        turns = HostTurns(draft, book, self.full)
        most = spread.free_slots
        book.looks_held_back.readmit(book.unprobed, most, draft.now_s, turns.room_to_look, running={})
        chosen = choose(book.unprobed, draft.now_s, most, partial(turns.may_look, spread), running={})
        self._taken.extend((book.unprobed, waiting) for waiting in chosen)
        for waiting in chosen:
            if waiting.job_id in turns.lookers:
                self._look_at(draft, waiting, turns.lookers[waiting.job_id])

    def _decide_leases(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> None:
        spread = Spread(self._loads(draft, book, free))
        starts_max = parking.starts_max(draft.heard.parking, draft.now_s)
        most = spread.free_slots if starts_max is None else min(starts_max, spread.free_slots)
        for waiting in self._choose_startable(draft, book, most):
            full = self.full.of(waiting.job_id, draft.now_s)
            agent = spread.take_of(self._lookers.take(draft.job(waiting.job_id)), full)
            assert agent is not None or full, "no more jobs are taken than there are free slots"
            if agent is not None:
                self._start(draft, waiting, book.agents[agent])
            else:
                again_at_s = self.full.again_at_s(waiting.job_id, draft.now_s)
                book.waiting.push(waiting._replace(ready_at_s=again_at_s), draft.now_s)

    def _decide_apart(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> None:
        """Give suspects agents where nothing else has just begun, and nothing else begins for a while.

        Where there is no such agent, one is kept free of new things until it is.
        """
        closed = self._closed = set(book.apart(draft.now_s))
        if not (book.unprobed_apart.ready_count() or self._may_start_apart(draft, book)):
            return
        busy = book.busy_anew(draft.now_s)
        places = sorted(
            (load.used, load.agent) for load in self._loads(draft, book, free).values() if load.used < load.slots
        )
        for _, agent in places:
            if agent not in busy and self._give_apart(draft, book, agent):
                closed.add(agent)
        waits = book.unprobed_apart.ready_count() or self._may_start_apart(draft, book)
        kept = next((agent for _, agent in places if agent not in closed), None)
        if waits and kept is not None:
            closed.add(kept)

    def _give_apart(self, draft: Draft, book: Book, agent: str) -> bool:
        for waiting in self._take(book.unprobed_apart, draft, 1):
            self._look_at(draft, waiting, agent)
            return True
        if parking.starts_max(draft.heard.parking, draft.now_s) != 0:
            for waiting in self._take_startable(book.waiting_apart, draft, book, 1):
                self._start(draft, waiting, book.agents[agent])
                return True
        return False

    @staticmethod
    def _may_start_apart(draft: Draft, book: Book) -> bool:
        is_parked = parking.starts_max(draft.heard.parking, draft.now_s) == 0
        return not is_parked and book.waiting_apart.ready_count(but=draft.paused) > 0

    def _take_startable(self, queue: WaitingQueue, draft: Draft, book: Book, most: int) -> Sequence[Waiting]:
        return self._take(queue, draft, most, **self._limits(draft, book))

    def _choose_startable(self, draft: Draft, book: Book, most: int) -> Sequence[Waiting]:
        """Take jobs whose hosts have a connection left for them; the others stand aside."""
        limits, turns = self._limits(draft, book), HostTurns(draft, book, self.full)
        book.held_back.readmit(book.waiting, most, draft.now_s, turns.room, **limits)
        chosen = choose(book.waiting, draft.now_s, most, turns.may_start, **limits)
        self._taken.extend((book.waiting, waiting) for waiting in chosen)
        return chosen

    def _limits(self, draft: Draft, book: Book) -> dict[str, Any]:
        running_max = self._settings.queue.running_per_user_max
        running = {} if running_max is None else book.running - draft.jobs_stopped() + draft.jobs_started()
        return {"but": draft.paused, "running": running, "running_max": running_max}

    def _look_at(self, draft: Draft, waiting: Waiting, agent: str) -> None:
        job = draft.job(waiting.job_id)
        if job is None or job.status is not JobStatus.QUEUED or job.metadata is not None:
            return
        order = self._making.look(job)
        if order.may_peek:
            self._lookers.note(job.id, agent, draft.now_s)
        self._orders[agent].append(order)

    def _loads(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> Mapping[str, Load]:
        change = draft.slots_change()
        return {
            record.agent: Load(
                record.agent,
                record.capacity.slots,
                len(book.leases_of_agent.get(record.agent, ())) + change[record.agent],
            )
            for record in free
            if record.capacity.slots > 0 and record.agent not in self._closed
        }

    def _room(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> Mapping[str, int]:
        """Return the slots that jobs may be widened with; a quarter of them is left to jobs that come."""
        loads = self._loads(draft, book, free)
        return {agent: load.slots - load.slots // 4 - load.used for agent, load in loads.items()}

    def _start(self, draft: Draft, waiting: Waiting, record: AgentRecord) -> None:
        job = draft.job(waiting.job_id)
        if job is None or job.status is not JobStatus.QUEUED or job.metadata is None:
            return
        limits = self._settings.liveness
        try:
            holder = stripes.Holder(record.agent, record.incarnation)
            stripes.begin(draft, job, holder, part_bytes_min=self._settings.transfer.part_bytes_min)
            draft.heard.parking = parking.tried(
                draft.heard.parking, job.id, draft.now_s, park_s=limits.park_s, park_s_max=limits.park_s_max
            )
        except RayhaulError as error:
            # A job that can not be planned must not stand in the way of all others.
            give_up(draft, job, error.failure(), {"stage": "planning"}, dead_letter=error.retryable)


async def _sent(agent: str, sending: Awaitable[None]) -> None:
    """Tell an agent something. One that can not be told holds up nobody: what it misses its reports show."""
    try:
        await sending
    except Exception:
        log.exception("%s can not be told", agent, extra={"agentId": agent})
