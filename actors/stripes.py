"""Stripes: leases are begun here, a running job is widened with slots that nobody waits for, and closed up at the end.

Laws of this file (ADR 7):
1. A run begins with one lease for the whole job. What others take over, that lease has given up before: its agent has
   acknowledged where it ends now.
2. Stripes that are parts of a job never complete its upload. When the last of them ends, its agent gets one more lease,
   for the whole job: it sends what is missing, if anything is, and completes.
3. Nothing here is needed for a job to end: a request that gets lost, or is not answered, leaves it on fewer agents.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from actors.book import Book
from actors.draft import Draft
from actors.pending import Asked, Setback
from rayhaul.job import Job, JobEvent, JobStatus
from rayhaul.lease import Lease, TrimOrder, UploadSession
from rayhaul.origins import host_of_job
from rayhaul.policy import parking, striping
from rayhaul.policy.partset import missing
from rayhaul.policy.planning import PARTS_MAX, expected_checksum, parts_count, plan_parts, tells_versions
from rayhaul.policy.striping import Grant, Plan, Situation, Stripe
from rayhaul.report import Trimmed
from rayhaul.settings import Settings
from tasks.checksum import Checksum

log = logging.getLogger(__name__)

#: A request for a tail that was not answered is made again after this; one that brought nothing, after the second.
_ASK_AGAIN_S = 3.0
_NOTHING_TO_GIVE_S = 10.0
#: All jobs are looked at so often; those whose stripes have changed, at once.
_SWEEP_S = 1.0
#: Setbacks after which no more stripes are leased: those that are left finish, or fail. Forgotten after so long without
#: one, once parts come in.
_SETBACKS_MAX = 5
_FORGIVEN_S = 60.0


@dataclass(frozen=True, slots=True)
class Holder:
    """An agent's life that a lease is granted to."""

    agent: str
    incarnation: str


# --- granting ---


def begin(draft: Draft, job: Job, holder: Holder, *, part_bytes_min: int) -> None:
    """Start a run of a queued job: one lease for all of it. Raises: SourceTooLarge."""
    lease = _lease(draft, job, holder, 1, 1 + _parts_max(draft, job, part_bytes_min))
    told = {"agent": lease.agent, "leaseId": lease.lease_id, "epoch": lease.epoch, "attempt": job.attempt + 1}
    draft.transition(
        job,
        JobEvent.STARTED,
        told,
        epoch=lease.epoch,
        attempt=job.attempt + 1,
        agents=(holder.agent,),
        started_at=job.started_at or draft.now,
        next_attempt_at=None,
    )


def join(draft: Draft, job: Job, holder: Holder, first_part: int, end_part: int) -> None:
    """Give a stripe of a running job to an agent."""
    lease = _lease(draft, job, holder, first_part, end_part)
    told = {"agent": lease.agent, "leaseId": lease.lease_id, "epoch": lease.epoch, "attempt": job.attempt}
    draft.transition(
        job,
        JobEvent.STARTED,
        {**told, "firstPart": first_part, "endPart": end_part, **_told_setbacks(draft, job)},
        epoch=lease.epoch,
        agents=job.agents if holder.agent in job.agents else (*job.agents, holder.agent),
    )


def _told_setbacks(draft: Draft, job: Job) -> Mapping[str, str]:
    """Return what the history has not told yet of stripes that came back: why parts are begun again, and so late."""
    before = draft.heard.setback(job.id)
    if before is None or not before.untold:
        return {}
    draft.heard.put_setback(job.id, replace(before, untold=()))
    return {"setback": "; ".join(before.untold)}


def trim(draft: Draft, lease: Lease, notice: Trimmed) -> None:
    """Take an agent's word where its stripe ends now."""
    gives = notice.end_part < lease.end_part
    draft.heard.answer(lease.lease_id, Asked(draft.now_s, gave_nothing=not gives, shared=notice.shared))
    if gives:
        draft.trim(lease, notice.end_part)


def finish(draft: Draft, job: Job, lease: Lease) -> None:
    """End a stripe whose parts are in; the last one's agent goes on with the whole job, and completes it."""
    draft.end(lease)
    session = draft.open_session(job.id)
    recorded = 0 if session is None else draft.recorded(session.session_id)
    for other in draft.leases_of_job(job.id):
        if _overlap(lease, other) and not missing(recorded, other.first_part, _end(other, session)):
            # It was sending the same parts, and was slower.
            draft.end(other)
            draft.revokes[other.agent].append(other.lease_id)
    if not draft.leases_of_job(job.id):
        count = PARTS_MAX if session is None else _count(session)
        join(draft, job, Holder(lease.agent, lease.incarnation), 1, 1 + count)


def is_twin(book: Book, lease: Lease) -> bool:
    """Whether a lease is for parts that an earlier one of its job has on their way."""
    others = (book.leases[lease_id] for lease_id in book.leases_of_job.get(lease.job_id, ()))
    return any(other.epoch < lease.epoch and _overlap(lease, other) for other in others)


def _overlap(one: Lease, other: Lease) -> bool:
    return other.first_part < one.end_part and one.first_part < other.end_part


def set_back(draft: Draft, job: Job, agent: str, wait_s: Callable[[int], float], why: str) -> None:
    """Note that a stripe came back while others go on: its parts wait for another agent, longer each time."""
    before = draft.heard.setback(job.id)
    count = 1 if before is None else before.count + 1
    untold = (*(() if before is None else before.untold), f"{agent}: {why}")[-_SETBACKS_MAX:]
    draft.heard.put_setback(job.id, Setback(count, draft.now_s + wait_s(count), agent, untold))
    log.warning("a stripe came back, the others go on: %s", why, extra={"jobId": job.id})


def note_parts(draft: Draft, job: Job) -> None:
    """Forget setbacks once parts come in and nothing has happened for a while."""
    before = draft.heard.setback(job.id)
    if before is not None and draft.now_s > before.until_s + _FORGIVEN_S:
        draft.heard.put_setback(job.id, replace(before, count=0) if before.untold else None)


def may_publish(draft: Draft, job: Job, lease: Lease) -> bool:
    """Say whether a lease may complete the upload: the newest, the only one, and for the whole job."""
    session = draft.open_session(job.id)
    is_whole = lease.first_part == 1 and (session is None or lease.end_part > _count(session))
    return is_whole and lease.epoch == job.epoch and len(draft.leases_of_job(job.id)) == 1


def _lease(draft: Draft, job: Job, holder: Holder, first_part: int, end_part: int) -> Lease:
    lease = Lease(
        lease_id=draft.new_id("lease"),
        job_id=job.id,
        epoch=job.epoch + 1,
        agent=holder.agent,
        incarnation=holder.incarnation,
        first_part=first_part,
        end_part=end_part,
        granted_at=draft.now,
    )
    draft.grant(lease)
    return lease


def _parts_max(draft: Draft, job: Job, part_bytes_min: int) -> int:
    assert job.metadata is not None
    session = draft.open_session(job.id)
    if session is not None:
        # Settings may have changed since it was opened; its parts have not.
        return _count(session)
    return plan_parts(job.metadata.size_bytes, part_bytes_min=part_bytes_min).parts_count or PARTS_MAX


def _count(session: UploadSession) -> int:
    return PARTS_MAX if session.size_bytes is None else parts_count(session.size_bytes, session.part_bytes)


def _end(lease: Lease, session: UploadSession | None) -> int:
    return lease.end_part if session is None else min(lease.end_part, _count(session) + 1)


# --- widening ---


class Striping:
    """Spreads running jobs over agents that have room. Remembers when it last looked at all of them."""

    def __init__(self, settings: Settings) -> None:
        self._parts_min = settings.transfer.stripe_parts_min
        self._digest_bytes_max = settings.transfer.digest_bytes_max
        self._connections_max = settings.hosts.connections_max
        self._swept_at_s = float("-inf")

    def decide(self, draft: Draft, book: Book, room: Mapping[str, int]) -> Sequence[tuple[str, TrimOrder]]:
        """Lease stripes to agents with room to spare, by agent; return what agents are to be asked for."""
        changed, book.restripe = book.restripe, set()
        spare = {agent: slots for agent, slots in room.items() if slots > 0}
        if not spare or parking.starts_max(draft.heard.parking, draft.now_s) is not None:
            book.restripe = changed
            return []
        jobs: Sequence[str] = sorted(changed)
        if not 0 <= draft.now_s - self._swept_at_s < _SWEEP_S:
            self._swept_at_s = draft.now_s
            jobs = sorted(book.session_of_job)
        asks = []
        # The emptiest first; in order as the turn began, which is good enough.
        ranked = sorted(spare, key=lambda agent: (-spare[agent], agent))
        for job_id in jobs:
            job, session = draft.job(job_id), draft.open_session(job_id)
            if job is not None and session is not None and self._may_widen(draft, book, job, session):
                free = [agent for agent in ranked if agent in spare]
                asks += self._widen(draft, book, job, free, spare)
        return asks

    def _may_widen(self, draft: Draft, book: Book, job: Job, session: UploadSession) -> bool:
        if job.status is not JobStatus.DOWNLOADING or job.id in book.suspects or job.spec.priority in draft.paused:
            return False
        setback = draft.heard.setback(job.id)
        if setback is not None and (setback.count > _SETBACKS_MAX or draft.now_s < setback.until_s):
            return False
        found = job.metadata
        if found is None or session.size_bytes is None or not found.rangeable:
            return False
        checksum = expected_checksum(job.spec, found, digest_bytes_max=self._digest_bytes_max)
        needs_order = job.spec.compute_sha256 or (checksum is not None and Checksum.parse(checksum).needs_order)
        return not needs_order and (found.has_version or tells_versions(checksum))

    def _widen(
        self,
        draft: Draft,
        book: Book,
        job: Job,
        free: Sequence[str],
        spare: dict[str, int],
    ) -> list[tuple[str, TrimOrder]]:
        plan = self._plan(draft, book, job, free)
        for grant in plan.grants:
            spare[grant.agent] -= 1
            if spare[grant.agent] == 0:
                del spare[grant.agent]
            job = self._joined(draft, book, job, grant)
        if plan.trim is None:
            return []
        lease = draft.lease(plan.trim.lease_id)
        assert lease is not None, "it was planned for"
        return [(lease.agent, TrimOrder(lease_id=lease.lease_id, job_id=job.id, end_part=plan.trim.end_part))]

    @staticmethod
    def _joined(draft: Draft, book: Book, job: Job, grant: Grant) -> Job:
        holder = Holder(grant.agent, book.agents[grant.agent].incarnation)
        join(draft, job, holder, grant.first_part, grant.end_part)
        joined = draft.job(job.id)
        assert joined is not None
        return joined

    def _plan(self, draft: Draft, book: Book, job: Job, free: Sequence[str]) -> Plan:
        leases, session = draft.leases_of_job(job.id), draft.open_session(job.id)
        stripes_max = max(1, self._connections_max // job.spec.connections)
        # Without a connection left at the host, another agent would only wait.
        stripes_max = min(stripes_max, len(leases) + max(0, book.hosts.room(host_of_job(job), draft.now_s)))
        if session is None or not 0 < len(leases) < stripes_max:
            return Plan()
        setback = draft.heard.setback(job.id)
        taken = {lease.agent for lease in leases}
        if setback is not None:
            # Others first.
            free = sorted(free, key=lambda agent: agent == setback.agent)
        count = _count(session)
        return striping.decide(
            Situation(
                parts_count=count,
                part_bytes=session.part_bytes,
                recorded=draft.recorded(session.session_id),
                stripes=[_stripe(draft, book, lease, count) for lease in leases],
                connections=job.spec.connections,
                free=[agent for agent in free if agent not in taken],
                stripes_max=stripes_max,
                parts_min=self._parts_min,
                best_bytes_per_s=book.best_bytes_per_s.get(job.id, 0.0),
            )
        )


def _stripe(draft: Draft, book: Book, lease: Lease, parts_count: int) -> Stripe:
    told = book.told.get(lease.lease_id)
    asked = book.asked.get(lease.lease_id)
    is_whole = lease.first_part == 1 and lease.end_part > parts_count
    return Stripe(
        lease_id=lease.lease_id,
        first_part=lease.first_part,
        end_part=lease.end_part,
        bytes_per_s=0.0 if told is None else told.bytes_per_s,
        held_s=draft.now_s - book.leased_at_s.get(lease.lease_id, draft.now_s),
        is_asked=asked is not None and _is_recent(asked, draft.now_s),
        is_shared=not is_whole or (asked is not None and asked.shared),
    )


def _is_recent(asked: Asked, now_s: float) -> bool:
    return now_s - asked.at_s < (_NOTHING_TO_GIVE_S if asked.gave_nothing else _ASK_AGAIN_S)
