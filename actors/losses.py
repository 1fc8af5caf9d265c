"""What becomes of what an agent had in hand when it was lost: it goes to others, and somebody is charged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from actors.book import Book, waiting_of
from actors.decisions import Rules, give_up, hand_back
from actors.draft import Draft
from actors.pending import Pending
from rayhaul.errors import AgentLost, RequeuesExhausted
from rayhaul.job import Job, JobEvent, JobStatus
from rayhaul.lease import Lease
from rayhaul.policy.liveness import APART_S, AtRisk, blamed
from rayhaul.report import AgentReport

Probes = Sequence[tuple[str, Pending]]

#: An agent gets this long to show in its reports what it was sent; then it counts as lost on the way.
ARRIVAL_S = 5.0


def hand_back_lost(
    draft: Draft, book: Book, *, leases: Sequence[Lease], probes: Probes, rules: Rules, why: str
) -> None:
    """Give what a lost agent had to others; the jobs that may be to blame are charged a requeue."""
    probed = {pending.job_id: job for _, pending in probes if (job := _unprobed(draft, pending)) is not None}
    charged = blamed([*_leased(draft, book, leases), *(AtRisk(job.id, job.requeues, 0.0) for job in probed.values())])
    for lease in leases:
        is_young = draft.now_s - book.leased_at_s.get(lease.lease_id, draft.now_s) < APART_S
        hand_back(draft, lease, rules, why, charged=lease.job_id in charged, is_young=is_young)
    requeue_probes(draft, book, probes)
    for job_id, job in probed.items():
        if job_id in charged:
            _charge(draft, job, rules, why)


def reconcile(draft: Draft, book: Book, report: AgentReport, rules: Rules) -> None:
    """Take back what an agent should hold and does not: it restarted, or the order was lost on the way."""
    crashed: list[Lease] = []
    for lease in book.leases_held(report.agent):
        if draft.lease(lease.lease_id) is None:
            continue
        if lease.incarnation != report.incarnation:
            crashed.append(lease)
        elif lease.lease_id in report.held:
            book.arrived.add(lease.lease_id)
        elif lease.lease_id in report.let_go:
            hand_back(draft, lease, rules, f"{report.agent} had no answer from us and let it go", charged=False)
        elif _is_late(draft, book.leased_at_s.get(lease.lease_id)):
            _hand_back_missing(draft, book, lease, rules)
    book.agents[report.agent].note_arrivals(draft.now_s, is_any_here=not report.held.isdisjoint(book.arrived))
    crashed_probes = _reconcile_probes(draft, book, report)
    if crashed or crashed_probes:
        why = f"{report.agent} restarted"
        hand_back_lost(draft, book, leases=crashed, probes=crashed_probes, rules=rules, why=why)


def _hand_back_missing(draft: Draft, book: Book, lease: Lease, rules: Rules) -> None:
    """Take back a lease that its agent does not hold: a job is charged only where it was once seen there."""
    if lease.lease_id in book.arrived:
        hand_back(draft, lease, rules, f"{lease.agent} does not hold it")
        return
    book.agents[lease.agent].note_missed(draft.now_s)
    hand_back(draft, lease, rules, f"it did not arrive at {lease.agent}", charged=False)


def part_with(draft: Draft, book: Book, agent: str, rules: Rules) -> None:
    """Hand back, uncharged, what was on its way to an agent that said goodbye."""
    for lease in book.leases_held(agent):
        if draft.lease(lease.lease_id) is not None:
            hand_back(draft, lease, rules, f"{agent} has left", charged=False)
    requeue_probes(draft, book, probes_of(book, agent))


def probes_of(book: Book, agent: str) -> Probes:
    return [(order_id, pending) for order_id, pending in book.probing.items() if pending.agent == agent]


def probes_used(book: Book) -> Counter[str]:
    """Return how many probe slots are in use, by agent."""
    return Counter(pending.agent for pending in book.probing.values() if not pending.answered)


def requeue_probes(draft: Draft, book: Book, probes: Probes) -> None:
    """Put jobs whose probes got lost back among those to be probed; those that have their metadata are left alone."""
    for order_id, pending in probes:
        book.end_look(order_id)
        job = _unprobed(draft, pending)
        if job is not None and job.id not in book.unprobed_of(job) and job.id not in book.looks_held_back:
            ready_at_s = 0.0 if job.next_attempt_at is None else job.next_attempt_at.timestamp()
            book.unprobed_of(job).push(waiting_of(job, ready_at_s), draft.now_s)


def _reconcile_probes(draft: Draft, book: Book, report: AgentReport) -> Probes:
    """Forget the probes whose outcome is known, requeue those lost on the way; return those of an earlier life."""
    answered = {notice.order_id for notice in report.notices if hasattr(notice, "order_id")}
    lost: list[tuple[str, Pending]] = []
    crashed: list[tuple[str, Pending]] = []
    for order_id, pending in probes_of(book, report.agent):
        if pending.incarnation != report.incarnation:
            crashed.append((order_id, pending))
        elif order_id in report.held:
            if order_id in answered:
                book.note_look_answered(order_id)
        elif pending.answered or order_id in answered:
            book.end_look(order_id)
        elif _is_late(draft, pending.sent_at_s):
            lost.append((order_id, pending))
    requeue_probes(draft, book, lost)
    return crashed


def _charge(draft: Draft, job: Job, rules: Rules, why: str) -> None:
    requeues = job.requeues + 1
    failure = AgentLost(f"while its source was looked at, {why}").failure()
    told = {"stage": "metadata", "requeues": requeues, "code": failure.code, "message": failure.message}
    if requeues > rules.liveness.requeues_max:
        last = RequeuesExhausted(f"handed back {requeues} times; the last time: {failure.message}").failure()
        give_up(draft, replace(job, requeues=requeues), last, told, dead_letter=True)
    else:
        draft.transition(job, JobEvent.REQUEUED, told, requeues=requeues, error=failure)


def _leased(draft: Draft, book: Book, leases: Sequence[Lease]) -> Sequence[AtRisk]:
    found = []
    for lease in leases:
        job = draft.job(lease.job_id)
        if job is not None:
            held_s = draft.now_s - book.leased_at_s.get(lease.lease_id, draft.now_s)
            found.append(AtRisk(job.id, job.requeues, held_s))
    return found


def _unprobed(draft: Draft, pending: Pending) -> Job | None:
    job = draft.job(pending.job_id)
    waits = job is not None and job.metadata is None and job.status is JobStatus.QUEUED
    return job if waits and not pending.answered else None


def _is_late(draft: Draft, sent_at_s: float | None) -> bool:
    return sent_at_s is None or draft.now_s - sent_at_s > ARRIVAL_S
