"""What the API is shown of the book: agents, the queue, one job's live state."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from actors.agent_record import AgentRecord
from actors.book import Book
from actors.ports import AgentView, HostView, JobState, LeaseView, QueueView
from actors.progress import progress_of_lease
from rayhaul.job import Job, JobStatus, Priority, utc
from rayhaul.lease import Lease
from rayhaul.ledger.base import Viewer
from rayhaul.origins import host_of_job
from rayhaul.wire import timestamp


def agent_view(book: Book, record: AgentRecord, now_s: float) -> AgentView:
    return AgentView(
        agent=record.agent,
        state=record.state,
        capacity=record.capacity,
        heartbeat_age_s=max(0.0, now_s - record.seen_at_s),
        leases_count=len(book.leases_of_agent.get(record.agent, ())),
        unfit=record.unfit,
    )


def agent_views(book: Book, now_s: float) -> Sequence[AgentView]:
    return [agent_view(book, book.agents[agent], now_s) for agent in sorted(book.agents)]


def host_views(book: Book, viewer: Viewer, now_s: float) -> Sequence[HostView]:
    return [
        HostView(
            host=record.host,
            connections=record.connections,
            connections_max=record.connections_max,
            bytes_per_s=sum(told.bytes_per_s for id_ in record.lease_ids if (told := book.told.get(id_)) is not None),
            backing_off_until=None if record.pause_until_s is None else utc(record.pause_until_s),
            jobs_waiting=book.held_back.count(record.host) + book.looks_held_back.count(record.host),
        )
        for record in book.hosts.records(now_s)
        if viewer.sees_all
        or any(_is_of(book, viewer, lease_id) for lease_id in (*record.lease_ids, *record.mirrored_ids))
    ]


def _is_of(book: Book, viewer: Viewer, lease_id: str) -> bool:
    lease = book.leases.get(lease_id)
    job = None if lease is None else book.jobs.get(lease.job_id)
    return job is not None and job.user_id == viewer.user_id


def queue_view(book: Book, now_s: float) -> QueueView:
    depth = Counter[Priority]()
    for queue in book.queues:
        depth.update(queue.depth())
    since = [s for queue in book.queues if (s := queue.oldest_since_s()) is not None]
    return QueueView(
        depth={str(priority): depth[priority] for priority in Priority},
        oldest_age_s=max(0.0, now_s - min(since)) if since else 0.0,
        paused=sorted(book.paused),
        dead_letters_count=book.dead_letters_count,
        parked=book.parking.why or "the bucket refuses us" if book.parking.is_parked else None,
    )


def job_state(book: Book, job: Job, parts_done: int, now: datetime) -> JobState:
    leases = [book.leases[lease_id] for lease_id in sorted(book.leases_of_job.get(job.id, ()))]
    return JobState(
        job=job,
        leases=[_lease_view(book, lease, now.timestamp()) for lease in leases],
        session=book.open_session(job.id),
        parts_done=parts_done,
        waits_for=_waits_for(book, job, now),
    )


def _lease_view(book: Book, lease: Lease, now_s: float) -> LeaseView:
    watch = book.watches.get(lease.lease_id)
    return LeaseView(
        lease_id=lease.lease_id,
        agent=lease.agent,
        epoch=lease.epoch,
        first_part=lease.first_part,
        end_part=lease.end_part,
        granted_at=lease.granted_at,
        progress=progress_of_lease(book, lease),
        idle_s=None if watch is None else max(0.0, now_s - watch.moved_at_s),
        doing=None if watch is None else watch.doing or None,
    )


def _waits_for(book: Book, job: Job, now: datetime) -> str | None:
    """Say why a job is not running; the first reason that applies."""
    if job.status not in (JobStatus.PAUSED, JobStatus.QUEUED):
        return None
    next_at, not_before = job.next_attempt_at, job.spec.not_before
    host = host_of_job(job)
    paused_until_s = book.hosts.pause_until_s(host, now.timestamp())
    takers = any(record.takes_leases for record in book.agents.values())
    reasons = (
        (job.status is JobStatus.PAUSED, "its owner paused it"),
        (next_at is not None and next_at > now, f"its next attempt at {_told(next_at)}"),
        (not takers, "an agent: none takes leases"),
        (paused_until_s is not None, f"its host, which asked not to be asked before {_told(_at(paused_until_s))}"),
        (
            job.id in book.held_back or job.id in book.looks_held_back,
            f"a connection: the cluster has all it may have at {host}",
        ),
        (job.metadata is None, "its metadata: an agent looks at the source"),
        (not_before is not None and not_before > now, f"its begin at {_told(not_before)}"),
        (book.parking.is_parked, f"the bucket: {book.parking.why}"),
        (job.spec.priority in book.paused, f"its priority: {job.spec.priority} is paused"),
    )
    return next((reason for applies, reason in reasons if applies), "a free slot")


def _at(moment_s: float | None) -> datetime | None:
    return None if moment_s is None else utc(moment_s)


def _told(moment: datetime | None) -> str:
    return "" if moment is None else timestamp(moment)
