"""Who gets what: probes, leases and aborts for the agents, and what is taken back from those that fell silent.

Laws of this file:
1. `decide` chooses, `act` sends, and between the two stands the commit. After a turn that failed the book is rebuilt.
2. Sending is not waiting: an order that gets lost is missed in the agent's next reports and given out again.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from actors.book import AgentRecord, Book, Pending, waiting_of
from actors.decisions import Rules, hand_back
from actors.draft import Draft
from actors.ports import AgentPool, QueueView
from rayhaul.errors import RayhaulError
from rayhaul.ids import NewId
from rayhaul.job import Job, JobEvent, JobStatus
from rayhaul.lease import AbortOrder, AgentReport, JobContext, Lease, Order, ProbeOrder, TransferOrder
from rayhaul.ledger.base import Ledger
from rayhaul.metrics import (
    QUEUE_DEPTH,
    QUEUE_DLQ_DEPTH,
    QUEUE_OLDEST_AGE,
    WORKER_CAPACITY,
    WORKER_CAPACITY_AVG,
    WORKER_OFFLINE,
    WORKERS,
    Meter,
)
from rayhaul.policy.planning import PARTS_MAX, plan_parts
from rayhaul.policy.scheduling import Load, Spread
from rayhaul.settings import Settings

log = logging.getLogger(__name__)

#: An agent gets this long to show in its reports what it was sent; then it counts as lost on the way.
_ARRIVAL_S = 5.0
#: An abort not confirmed after this long is ordered again.
_ABORT_AGAIN_S = 60.0
_AGENTS_LOOK_S = 5.0


class Dispatch:
    def __init__(self, *, ledger: Ledger, pool: AgentPool, settings: Settings, bucket: str, new_id: NewId) -> None:
        self._ledger = ledger
        self._pool = pool
        self._settings = settings
        self._bucket = bucket
        self._new_id = new_id
        self._orders: defaultdict[str, list[Order]] = defaultdict(list)
        self._agents_looked_at_s = float("-inf")

    def decide(self, draft: Draft, book: Book) -> None:
        """Choose probes, aborts and leases for the free places of the agents that report."""
        self._orders.clear()
        for queue in (book.waiting, book.unprobed):
            # Also while no agent is free: the loop sleeps until what `due_at_s` tells.
            queue.promote(draft.now_s)
        free = [record for record in book.online_agents() if not record.draining]
        if not free:
            return
        self._decide_aborts(draft, book, free)
        self._decide_probes(draft, book, free)
        self._decide_leases(draft, book, free)

    async def act(self, draft: Draft, book: Book) -> None:
        """Send what the commit has made true."""
        now_s = draft.now_s
        for lease in draft.granted:
            self._orders[lease.agent].append(await self._transfer_order(book, lease))
        for agent, lease_ids in draft.revokes.items():
            await self._pool.revoke(agent, lease_ids)
        for agent, orders in self._orders.items():
            for order in orders:
                if isinstance(order, ProbeOrder):
                    book.probing[order.order_id] = Pending(order.context.job_id, agent, now_s)
                elif isinstance(order, AbortOrder):
                    book.aborting[order.session_id] = Pending(order.context.job_id, agent, now_s)
            await self._pool.assign(agent, orders)
        self._orders.clear()
        if now_s - self._agents_looked_at_s >= _AGENTS_LOOK_S:
            self._agents_looked_at_s = now_s
            await self._keep_agents()

    def _decide_aborts(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> None:
        if not book.to_abort:
            return
        names = sorted(record.agent for record in free)
        for index, session in enumerate(book.to_abort.values()):
            sent = book.aborting.get(session.session_id)
            if sent is not None and sent.agent in names and draft.now_s - sent.sent_at_s < _ABORT_AGAIN_S:
                continue
            context = JobContext(job_id=session.job_id, user_id="", correlation_id=session.session_id)
            order = AbortOrder(
                session_id=session.session_id,
                context=context,
                bucket=session.bucket,
                key=session.key,
                upload_id=session.upload_id,
            )
            self._orders[names[index % len(names)]].append(order)

    def _decide_probes(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> None:
        slots = self._settings.agent.probe_slots
        used = Counter(pending.agent for pending in book.probing.values() if not pending.answered)
        spread = Spread({r.agent: Load(r.agent, slots, used[r.agent]) for r in free})
        for waiting in book.unprobed.take(draft.now_s, spread.free_slots):
            job = draft.job(waiting.job_id)
            if job is None or job.status is not JobStatus.QUEUED or job.metadata is not None:
                continue
            agent = spread.take()
            assert agent is not None, "no more jobs are taken than there are free places"
            self._orders[agent].append(
                ProbeOrder(
                    order_id=self._new_id("probe"),
                    context=_context(job),
                    url=job.spec.url,
                    headers=job.spec.headers,
                    filename=job.spec.filename,
                    size_bytes_max=job.spec.size_bytes_max,
                )
            )

    def _decide_leases(self, draft: Draft, book: Book, free: Sequence[AgentRecord]) -> None:
        freed = draft.slots_freed()
        loads = {
            r.agent: Load(r.agent, r.capacity.slots, len(book.leases_of_agent.get(r.agent, ())) - freed[r.agent])
            for r in free
            if r.capacity.slots > 0
        }
        spread = Spread(loads)
        running_max = self._settings.queue.running_per_user_max
        for waiting in book.waiting.take(
            draft.now_s,
            spread.free_slots,
            but=frozenset(book.paused),
            running={} if running_max is None else book.running - draft.jobs_stopped(),
            running_max=running_max,
        ):
            job = draft.job(waiting.job_id)
            if job is None or job.status is not JobStatus.QUEUED or job.metadata is None:
                continue
            agent = spread.take()
            assert agent is not None, "no more jobs are taken than there are free slots"
            self._grant(draft, job, book.agents[agent])

    def _grant(self, draft: Draft, job: Job, record: AgentRecord) -> None:
        assert job.metadata is not None
        plan = plan_parts(job.metadata.size_bytes, part_bytes_min=self._settings.transfer.part_bytes_min)
        lease = Lease(
            lease_id=self._new_id("lease"),
            job_id=job.id,
            epoch=job.epoch + 1,
            agent=record.agent,
            incarnation=record.incarnation,
            first_part=1,
            end_part=1 + (plan.parts_count or PARTS_MAX),
            granted_at=draft.now,
        )
        draft.grant(lease)
        told = {"agent": lease.agent, "leaseId": lease.lease_id, "epoch": lease.epoch, "attempt": job.attempt + 1}
        draft.transition(
            job,
            JobEvent.STARTED,
            told,
            epoch=lease.epoch,
            attempt=job.attempt + 1,
            agents=(record.agent,),
            started_at=job.started_at or draft.now,
            next_attempt_at=None,
        )

    async def _transfer_order(self, book: Book, lease: Lease) -> TransferOrder:
        job = book.jobs[lease.job_id]
        assert job.metadata is not None
        assert job.key is not None
        session = book.open_session(job.id)
        plan = plan_parts(job.metadata.size_bytes, part_bytes_min=self._settings.transfer.part_bytes_min)
        return TransferOrder(
            lease_id=lease.lease_id,
            epoch=lease.epoch,
            context=_context(job),
            url=job.spec.url,
            headers=job.spec.headers,
            pin=job.metadata,
            bucket=self._bucket,
            key=job.key,
            part_bytes=plan.part_bytes if session is None else session.part_bytes,
            first_part=lease.first_part,
            end_part=lease.end_part,
            connections=job.spec.connections,
            checksum=job.spec.checksum,
            size_bytes_max=job.spec.size_bytes_max,
            bandwidth_bytes_per_s=job.spec.bandwidth_bytes_per_s,
            session=session,
            parts_done=() if session is None else tuple(await self._ledger.parts(session.session_id)),
        )

    def reconcile(self, draft: Draft, book: Book, report: AgentReport, rules: Rules) -> None:
        """Take back what an agent should hold and does not: it restarted, or the order was lost on the way."""
        for lease_id in list(book.leases_of_agent.get(report.agent, ())):
            lease = draft.lease(lease_id)
            if lease is None:
                continue
            if lease.incarnation != report.incarnation:
                hand_back(draft, lease, rules, f"{report.agent} restarted")
            elif lease_id not in report.held and self._is_late(draft, book.leased_at_s.get(lease_id)):
                hand_back(draft, lease, rules, f"{report.agent} does not hold it")
        self._reconcile_probes(draft, book, report)

    def _reconcile_probes(self, draft: Draft, book: Book, report: AgentReport) -> None:
        answered = _ended_probes(report)
        for order_id, pending in list(book.probing.items()):
            if pending.agent != report.agent:
                continue
            if order_id in report.held:
                if order_id in answered:
                    book.probing[order_id] = replace(pending, answered=True)
            elif pending.answered or order_id in answered:
                del book.probing[order_id]
            elif self._is_late(draft, pending.sent_at_s):
                del book.probing[order_id]
                requeue_probe(draft, book, pending)

    @staticmethod
    def _is_late(draft: Draft, sent_at_s: float | None) -> bool:
        return sent_at_s is None or draft.now_s - sent_at_s > _ARRIVAL_S

    async def _keep_agents(self) -> None:
        """Start agents until the fewest that are wanted exist."""
        try:
            names = set(await self._pool.names())
            for number in range(1, self._settings.scaling.agents_min + 1):
                if f"agent-{number}" not in names:
                    await self._pool.add(f"agent-{number}")
        except RayhaulError as error:
            log.warning("agents could not be listed or started: %s", error.message, extra={"code": error.code})

    def gauge(self, book: Book, meter: Meter, queue: QueueView) -> None:
        """Set the gauges that describe this moment."""
        for priority, depth in queue.depth.items():
            meter.set(QUEUE_DEPTH, depth, priority)
        meter.set(QUEUE_OLDEST_AGE, queue.oldest_age_s)
        meter.set(QUEUE_DLQ_DEPTH, queue.dead_letters_count)
        states = Counter(str(record.state) for record in book.agents.values())
        for state in ("online", "draining", "offline"):
            meter.set(WORKERS, states[state], state)
        meter.set(WORKER_OFFLINE, states["offline"])
        meter.clear(WORKER_CAPACITY)
        online = list(book.online_agents())
        for record in online:
            meter.set(WORKER_CAPACITY, record.capacity.capacity_pct, record.agent)
        meter.set(WORKER_CAPACITY_AVG, sum(r.capacity.capacity_pct for r in online) / len(online) if online else 0.0)


def _ended_probes(report: AgentReport) -> Iterable[str]:
    return {notice.order_id for notice in report.notices if hasattr(notice, "order_id")}


def _context(job: Job) -> JobContext:
    return JobContext(
        job_id=job.id,
        user_id=job.user_id,
        correlation_id=job.correlation_id,
        attempt=job.attempt,
        traceparent=job.traceparent,
    )


def requeue_probe(draft: Draft, book: Book, pending: Pending) -> None:
    """Put a job whose probe got lost back among those to be probed; one that has its metadata is left alone."""
    job = draft.job(pending.job_id)
    if job is None or job.metadata is not None or job.status is not JobStatus.QUEUED or job.id in book.unprobed:
        return
    ready_at_s = 0.0 if job.next_attempt_at is None else job.next_attempt_at.timestamp()
    book.unprobed.push(waiting_of(job, ready_at_s), draft.now_s)


def observe_silence(draft: Draft, book: Book, rules: Rules) -> None:
    """Count agents that have been silent too long as offline, and hand back what they held.

    Repeats itself every turn while an agent is silent, so that a failed commit loses nothing.
    """
    for record in book.agents.values():
        if draft.now_s - record.seen_at_s <= rules.liveness.offline_s:
            continue
        if not record.offline:
            record.offline = True
            log.warning("agent %s is silent: offline", record.agent, extra={"agentId": record.agent})
        for lease_id in list(book.leases_of_agent.get(record.agent, ())):
            lease = draft.lease(lease_id)
            if lease is not None:
                hand_back(draft, lease, rules, f"{record.agent} is silent")
        for order_id, pending in list(book.probing.items()):
            if pending.agent == record.agent:
                del book.probing[order_id]
                requeue_probe(draft, book, pending)
