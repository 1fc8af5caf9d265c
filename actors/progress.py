"""How far leases and jobs are: what agents say of their stripes, and what is recorded of all others.

Laws of this file:
1. Of a lease its agent's last word counts; of a part under no lease that has spoken, what the ledger has recorded.
2. Nothing here is durable; the version lets those who follow ask for what has changed since they last did.
"""

from actors.book import Book
from rayhaul.job import Job, Progress
from rayhaul.lease import Lease
from rayhaul.policy import liveness
from rayhaul.policy.liveness import Watch
from rayhaul.policy.partset import between, bytes_of
from rayhaul.policy.planning import parts_count
from rayhaul.report import AgentReport, LeaseProgress
from rayhaul.settings import LivenessSettings


def note_progress(book: Book, report: AgentReport, now_s: float, settings: LivenessSettings) -> None:
    """Follow what an agent tells of the leases it holds."""
    for told in report.progress:
        job = book.jobs.get(told.job_id)
        lease = book.leases.get(told.lease_id)
        if job is None or lease is None or lease.agent != report.agent:
            continue
        book.told[told.lease_id] = told
        best = book.best_bytes_per_s.get(job.id, 0.0)
        book.best_bytes_per_s[job.id] = max(best, told.bytes_per_s)
        progress = _progress_of_job(book, job)
        if book.progress.get(job.id, (0, None))[1] != progress:
            book.progress_version += 1
            book.progress[job.id] = (book.progress_version, progress)
        watch = book.watches.get(told.lease_id) or Watch(now_s)
        eta_s = _eta_s(_bytes_left(book, job, lease, told), told.bytes_per_s)
        book.watches[told.lease_id] = liveness.hear(watch, told, eta_s, now_s, settings)


def progress_of_lease(book: Book, lease: Lease) -> Progress | None:
    """Return how far a lease is, by its agent's last word; None before its first one."""
    told, job = book.told.get(lease.lease_id), book.jobs.get(lease.job_id)
    if told is None or job is None:
        return None
    left = _bytes_left(book, job, lease, told)
    return Progress(
        bytes_done=told.bytes_done,
        bytes_total=None if left is None else told.bytes_done + left,
        bytes_per_s=told.bytes_per_s,
        eta_s=_eta_s(left, told.bytes_per_s),
        parts_done=told.parts_done,
        parts_total=told.parts_total,
    )


def _progress_of_job(book: Book, job: Job) -> Progress:
    session = book.open_session(job.id)
    total = job.metadata.size_bytes if job.metadata else None
    told = [book.told[lease_id] for lease_id in book.leases_of_job[job.id] if lease_id in book.told]
    bytes_done, parts_done = sum(t.bytes_done for t in told), sum(t.parts_done for t in told)
    parts_total = max((t.parts_total or 0 for t in told), default=0) or None
    if session is not None:
        rest = book.parts[session.session_id]
        for one in told:
            lease = book.leases[one.lease_id]
            rest &= ~between(lease.first_part, lease.end_part)
        bytes_done += bytes_of(rest, part_bytes=session.part_bytes, size_bytes=session.size_bytes)
        parts_done += rest.bit_count()
        if session.size_bytes is not None:
            parts_total = parts_count(session.size_bytes, session.part_bytes)
    # The last parts may be on their way with two agents.
    bytes_done = bytes_done if total is None else min(total, bytes_done)
    bytes_per_s = sum(t.bytes_per_s for t in told)
    return Progress(
        bytes_done=bytes_done,
        bytes_total=total,
        bytes_per_s=bytes_per_s,
        eta_s=_eta_s(None if total is None else total - bytes_done, bytes_per_s),
        parts_done=parts_done if parts_total is None else min(parts_total, parts_done),
        parts_total=parts_total,
    )


def _bytes_left(book: Book, job: Job, lease: Lease, told: LeaseProgress) -> int | None:
    """Return the bytes of a stripe that are still to move; None where the file's size is not known."""
    size_bytes = job.metadata.size_bytes if job.metadata else None
    session = book.open_session(job.id)
    if size_bytes is None:
        return None
    if session is None:
        return max(0, size_bytes - told.bytes_done)
    end = min(lease.end_part, parts_count(size_bytes, session.part_bytes) + 1)
    whole = bytes_of(between(lease.first_part, end), part_bytes=session.part_bytes, size_bytes=size_bytes)
    return max(0, whole - told.bytes_done)


def _eta_s(bytes_left: int | None, bytes_per_s: float) -> float | None:
    return bytes_left / bytes_per_s if bytes_left is not None and bytes_per_s > 0 else None
