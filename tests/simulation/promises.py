"""What must hold of a world, seen from outside: of every answer, of the book after every turn, of all at the end."""

from collections import Counter
from collections.abc import Mapping, Sized
from itertools import pairwise
from typing import Any

from bucket import Bucket
from network import Network
from people import People
from reference import ReferenceLedger
from twin import as_stored
from violations import must, violated

from actors.scheduler import Scheduler
from rayhaul.job import FINAL, Job, JobEvent, JobStatus
from rayhaul.report import AgentReport, CommitAsked, Notice, PartsDone, ReportReply, SessionOpened, Transferred

#: What of the book may have entries when all jobs have ended.
_STAYS = frozenset({"shares", "agents", "paused", "parking", "progress_version", "dead_letters_count", "usage"})


def check_reply(
    reference: ReferenceLedger, report: AgentReport, reply: ReportReply, *, moment: int, poisoned: frozenset[str]
) -> None:
    """What an agent is told is durable, and a stale notice is never told that it counts.

    `moment` is when the report was sent: a lease that ended later may still have stood when the report was heard.
    """
    rows = reference.rows
    for notice in report.notices:
        if notice.notice_id not in reply.acknowledged:
            continue
        if notice.notice_id in reply.refused:
            if isinstance(notice, SessionOpened) and notice.notice_id not in poisoned:
                known = notice.session.session_id in rows.sessions
                must(known, "I4", f"{notice.session.session_id} is refused and forgotten: nobody will abort it")
            continue
        _check_counted(reference, notice, moment)


def _check_counted(reference: ReferenceLedger, notice: Notice, moment: int) -> None:
    rows = reference.rows
    lease_id = getattr(notice, "lease_id", None)
    if lease_id is not None:
        ended_at = reference.ended_at.get(lease_id)
        must(
            lease_id in rows.granted and (ended_at is None or ended_at > moment),
            "fence",
            f"{type(notice).__name__} of {notice.job_id} counts, though {lease_id} had ended before it was sent",
        )
        epoch = getattr(notice, "epoch", None)
        must(rows.granted[lease_id].epoch == epoch, "fence", f"{lease_id} counts under epoch {epoch}")
    match notice:
        case SessionOpened(session=session):
            must(session.session_id in rows.sessions, "durable", f"{session.session_id} is told to stand")
        case PartsDone(parts=parts):
            stand = all(part.number in rows.parts[part.session_id] for part in parts)
            must(stand, "durable", f"parts of {notice.job_id} are told to stand")
        case CommitAsked():
            said = [record.event for record in rows.histories[notice.job_id]]
            must("uploading" in said, "durable", f"{notice.job_id} is told to be uploading")
        case Transferred():
            status = rows.jobs[notice.job_id].status
            must(status is JobStatus.COMPLETED, "durable", f"{notice.job_id} is told to be completed, is {status}")


def check_book(scheduler: Scheduler, reference: ReferenceLedger) -> None:
    """What the scheduler remembers is what stands, once a turn is over."""
    if scheduler._loop._book_in_doubt:
        return
    book, rows = scheduler._book, reference.rows
    if book.jobs != rows.open and _stored(book.jobs) != _stored(rows.open):
        violated("book", f"jobs differ: {_difference(book.jobs, rows.open)}")
    if book.leases != rows.leases:
        violated("book", f"leases differ: {_difference(book.leases, rows.leases)}")
    if book.sessions != rows.live_sessions:
        violated("book", f"uploads differ: {_difference(book.sessions, rows.live_sessions)}")
    must(book.hosts._lease.keys() == book.leases.keys(), "book", "hosts count other leases than those that stand")
    looked_at = {order_id for order_id, pending in book.probing.items() if not pending.answered}
    must(book.hosts._look.keys() == looked_at, "book", "hosts count other looks than those under way")
    aside = ((book.held_back, book.waiting), (book.looks_held_back, book.unprobed))
    twice = [id_ for held, queue in aside for id_ in held._host_of if id_ in queue or id_ not in book.jobs]
    must(not twice, "book", f"held back, and elsewhere: {twice[:2]}")
    must(book.dead_letters_count == rows.dead_letters_count, "book", "dead letters are miscounted")


def _stored(jobs: Mapping[str, Job]) -> Mapping[str, Job]:
    return {job_id: as_stored(job) for job_id, job in jobs.items()}


def _difference(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    keys = sorted(left.keys() ^ right.keys()) or sorted(key for key in left if left[key] != right[key])
    return "; ".join(f"{key}: {left.get(key)} / {right.get(key)}" for key in keys[:2])


def check_ends(reference: ReferenceLedger, people: People, bucket: Bucket) -> None:
    """I1 to I7, at the end."""
    rows = reference.rows
    must(not people.unanswered, "I5", f"never answered: {sorted(people.unanswered)}")
    for job_id in people.accepted:
        must(job_id in rows.jobs, "I5", f"{job_id} was accepted and is not there")
    for job in rows.jobs.values():
        left = f"attempt {job.attempt}, requeues {job.requeues}, next at {job.next_attempt_at}"
        must(job.status in FINAL, "I1", f"{job.id} never ends: {job.status}, {left}")
        history = rows.histories[job.id]
        events = Counter(record.event for record in history)
        must(events[JobEvent.CREATED] == 1, "I1", f"{job.id} was created {events[JobEvent.CREATED]} times")
        must(events[JobEvent.COMPLETED] <= 1, "I6", f"{job.id} was completed {events[JobEvent.COMPLETED]} times")
        epochs = [record.payload["epoch"] for record in history if record.event is JobEvent.STARTED]
        must(epochs == list(range(1, len(epochs) + 1)), "I6", f"{job.id} had the epochs {epochs}")
        must(all(a.seq < b.seq for a, b in pairwise(history)), "I6", f"{job.id}: events out of order")
        if job.status is JobStatus.COMPLETED:
            assert job.result is not None
            stored = bucket.objects.get(job.result.key)
            must(stored is not None and stored.etag == job.result.etag, "I2", f"{job.id}: {stored} is not its result")
        elif job.status is JobStatus.CANCELLED:
            stays = [made for made in bucket.objects.values() if made.job_id == job.id]
            must(not stays, "I2", f"{job.id} was cancelled, and has {stays} in the bucket")
    must(not rows.leases, "I1", f"leases stay: {list(rows.leases)}")
    must(not rows.live_sessions, "I4", f"uploads stay: {list(rows.live_sessions)}")
    known = {session.upload_id for session in rows.sessions.values()}
    orphans = known & set(bucket.uploads)
    must(not orphans, "I4", f"uploads that were told of are still in the bucket: {sorted(orphans)}")
    check_slo_counts(reference)


def check_slo_counts(reference: ReferenceLedger) -> None:
    """Each job's end and each metadata that came is counted once, whatever failed and was begun anew."""
    rows = reference.rows
    events = Counter(record.event for history in rows.histories.values() for record in history)
    counted: Counter[str] = Counter()
    for (slo, _), (total, _) in rows.slo_counts.items():
        counted[slo] += total
    ended = events[JobEvent.COMPLETED] + events[JobEvent.FAILED]
    must(counted["JobSuccess"] == ended, "slo", f"{counted['JobSuccess']} ends counted of {ended}")
    ready = events[JobEvent.METADATA]
    must(counted["MetadataReady"] == ready, "slo", f"{counted['MetadataReady']} metadata counted of {ready}")


def check_rest(scheduler: Scheduler, network: Network) -> None:
    """I8: when nothing is left to do, the scheduler remembers nothing of it."""
    left = {
        name: value
        for name, value in vars(scheduler._book).items()
        if name not in _STAYS and isinstance(value, Sized) and len(value)
    }
    must(not left, "I8", f"the book still has {left}")
    must(not scheduler._loop._inbox, "I8", f"calls wait: {scheduler._loop._inbox}")
    gone = gone_agents(scheduler, network)
    must(not gone, "I8", f"the book still has agents that are gone: {sorted(gone)}")


def gone_agents(scheduler: Scheduler, network: Network) -> set[str]:
    """Return the agents that the book has and nobody else."""
    return set(scheduler._book.agents) - set(network.agents) - set(network.starting)
