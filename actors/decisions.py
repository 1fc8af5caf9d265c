"""What follows from what happened: reports and silence become changes in a draft.

Laws of this file:
1. Nothing here waits, reads a clock or talks to anybody; the same inputs give the same draft.
2. A notice under a lease counts only while that lease stands with that epoch; otherwise it is refused and counted.
3. Hearing the same notice twice changes nothing: the first hearing ended or moved what the second would need.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import Any

from actors import quotas, sources, stripes
from actors.book import Book
from actors.draft import Draft
from actors.sweeping import mark_strays
from rayhaul.errors import (
    AgentLost,
    ChecksumMismatch,
    Failure,
    RequeuesExhausted,
    SinkRefused,
    SourceChanged,
    UploadLost,
)
from rayhaul.job import Job, JobEvent, JobStatus, Metadata
from rayhaul.lease import Lease, SessionState, UploadSession
from rayhaul.metrics import (
    CHECKSUM_MISMATCHES,
    FENCED_WRITES,
    JOB_DURATION,
    JOBS_FINISHED,
    METADATA_FETCH,
    METADATA_READY,
    ORPHAN_UPLOADS,
    REQUEUES,
    Meter,
)
from rayhaul.policy import parking, retry
from rayhaul.policy.liveness import SUSPECT_REQUEUES
from rayhaul.policy.naming import object_key
from rayhaul.redaction import redacted
from rayhaul.report import (
    Aborted,
    CommitAsked,
    LeaseFailed,
    LeaseNotice,
    Notice,
    PartsDone,
    Probed,
    ProbeFailed,
    SessionOpened,
    StripeDone,
    Swept,
    Transferred,
    Trimmed,
)
from rayhaul.settings import LivenessSettings, QuotaSettings, TransferSettings

#: Failures after which what was uploaded so far cannot be built on: the file is looked at anew.
_START_OVER = frozenset({SourceChanged.code, UploadLost.code, ChecksumMismatch.code})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings that decisions depend on, and the dice."""

    transfer: TransferSettings
    liveness: LivenessSettings
    key_prefix: str
    rng: Random
    meter: Meter
    quota: QuotaSettings


def hear(draft: Draft, notice: Notice, rules: Rules) -> bool:
    """Take a notice into the draft; return whether it counted (False: stale, refused)."""
    match notice:
        case Probed():
            return _probed(draft, notice, rules)
        case ProbeFailed():
            return _probe_failed(draft, notice, rules)
        case Aborted():
            return _aborted(draft, notice)
        case Swept():
            return mark_strays(draft, notice)
        case _:
            return _hear_under_lease(draft, notice, rules)


def _hear_under_lease(draft: Draft, notice: LeaseNotice, rules: Rules) -> bool:
    lease = draft.lease(notice.lease_id)
    job = draft.job(notice.job_id)
    if lease is None or job is None or not _counts(draft, job, lease, notice):
        draft.count(FENCED_WRITES, type(notice).__name__)
        if isinstance(notice, SessionOpened) and draft.session(notice.session.session_id) is None:
            # The upload exists all the same: somebody has to abort it.
            draft.put_session(notice.session, SessionState.ABORTING)
        return False
    match notice:
        case SessionOpened():
            draft.put_session(notice.session, SessionState.OPEN)
        case PartsDone():
            _take_parts(draft, job, lease, notice, rules)
        case Trimmed():
            stripes.trim(draft, lease, notice)
        case StripeDone():
            draft.heard.note_left_out(job.id, notice.left_out)
            stripes.finish(draft, job, lease)
        case CommitAsked():
            _let_publish(draft, job, lease)
        case Transferred():
            draft.heard.note_left_out(job.id, notice.left_out)
            _complete(draft, job, lease, notice)
            draft.heard.accepted_by_sink(job.id)
        case LeaseFailed():
            draft.heard.note_left_out(job.id, notice.left_out)
            _lease_failed(draft, job, lease, notice.failure, rules)
    return True


def _counts(draft: Draft, job: Job, lease: Lease, notice: LeaseNotice) -> bool:
    """Say whether a notice is of a lease that stands, and of one that may say such a thing."""
    if lease.epoch != notice.epoch or job.is_final:
        return False
    if isinstance(notice, CommitAsked | Transferred):
        return stripes.may_publish(draft, job, lease)
    return job.status is JobStatus.DOWNLOADING or not isinstance(notice, StripeDone)


def _take_parts(draft: Draft, job: Job, lease: Lease, notice: PartsDone, rules: Rules) -> None:
    draft.put_parts([replace(part, agent=lease.agent) for part in notice.parts])
    draft.heard.accepted_by_sink(job.id)
    stripes.note_parts(draft, job)
    failure = quotas.charge_parts(draft, job, notice.parts, rules.quota)
    if failure is not None:
        give_up(draft, job, failure, {"agent": lease.agent, "epoch": lease.epoch}, dead_letter=False)


def _let_publish(draft: Draft, job: Job, lease: Lease) -> None:
    if job.status is JobStatus.DOWNLOADING:
        draft.transition(job, JobEvent.UPLOADING, {"agent": lease.agent, "epoch": lease.epoch})


def _lease_failed(draft: Draft, job: Job, lease: Lease, failure: Failure, rules: Rules) -> None:
    draft.end(lease)
    told = {"agent": lease.agent, "epoch": lease.epoch}
    if draft.leases_of_job(job.id) and _is_of_one_stripe(failure):
        stripes.set_back(draft, job, lease.agent, _waits(failure, rules), failure.message)
        draft.count(REQUEUES, failure.code)
    elif not failure.is_of_job:
        _hand_back_uncharged(draft, replace(job, attempt=job.attempt - 1), failure, told)
    else:
        fail_attempt(draft, job, failure, rules, told)


def _is_of_one_stripe(failure: Failure) -> bool:
    """Say whether other stripes may go on: what befell this one says nothing of the file, the upload or the bucket."""
    return failure.retryable and failure.code not in _START_OVER and failure.code != SinkRefused.code


def _waits(failure: Failure, rules: Rules) -> Callable[[int], float]:
    return lambda attempt: retry.wait_s(failure, attempt=attempt, settings=rules.transfer, rng=rules.rng)


def _probed(draft: Draft, notice: Probed, rules: Rules) -> bool:
    job = draft.job(notice.job_id)
    if job is None or job.metadata is not None or job.status is not JobStatus.QUEUED:
        return False
    found = notice.metadata
    failure = quotas.charge_size(draft, job, found, rules.quota)
    if failure is not None:
        give_up(draft, job, failure, {"stage": "metadata"}, dead_letter=False)
        return True
    key = job.key or object_key(rules.key_prefix, job.id, job.spec.key, found.filename)
    draft.transition(job, JobEvent.METADATA, _told(found), metadata=found, key=key, next_attempt_at=None)
    draft.observe(METADATA_FETCH, found.fetch_ms / 1000, job)
    draft.observe(METADATA_READY, (draft.now - job.created_at).total_seconds(), job)
    return True


def _told(found: Metadata) -> Mapping[str, Any]:
    return {
        "sizeBytes": found.size_bytes,
        "contentType": found.content_type,
        "etag": found.etag,
        "lastModified": found.last_modified,
        "rangeable": found.rangeable,
        "filename": found.filename,
        "finalUrl": redacted(found.final_url),
        "fetchMs": found.fetch_ms,
    }


def _probe_failed(draft: Draft, notice: ProbeFailed, rules: Rules) -> bool:
    job = draft.job(notice.job_id)
    if job is None or job.metadata is not None or job.status is not JobStatus.QUEUED:
        return False
    if notice.failure.is_of_job:
        fail_attempt(draft, replace(job, attempt=job.attempt + 1), notice.failure, rules, {"stage": "metadata"})
    else:
        _hand_back_uncharged(draft, job, notice.failure, {"stage": "metadata"})
    return True


def _aborted(draft: Draft, notice: Aborted) -> bool:
    session = draft.session(notice.session_id)
    if session is None or session.state is not SessionState.ABORTING:
        return False
    draft.put_session(session, SessionState.ABORTED)
    if session.upload_id:
        draft.count(ORPHAN_UPLOADS)
    return True


def _complete(draft: Draft, job: Job, lease: Lease, notice: Transferred) -> None:
    told = {"agent": lease.agent, "epoch": lease.epoch}
    if job.status is JobStatus.DOWNLOADING:
        job = draft.transition(job, JobEvent.UPLOADING, told)
    result = notice.result
    session = draft.open_session(job.id)
    if session is not None:
        # What has no bytes was put at once, and is not of an upload that was opened for an earlier try.
        draft.put_session(session, SessionState.COMPLETED if result.size_bytes else SessionState.ABORTING)
    draft.end(lease)
    quotas.charge_result(draft, job, result.size_bytes)
    draft.transition(
        job,
        JobEvent.COMPLETED,
        {
            **told,
            "bucket": result.bucket,
            "key": result.key,
            "sizeBytes": result.size_bytes,
            "etag": result.etag,
            "sha256": result.sha256,
            "crc64nvme": result.crc64nvme,
            "parts": result.parts_count,
            **({"deduplicatedFrom": result.copied_from} if result.copied_from is not None else {}),
            **sources.told(draft, job, result),
        },
        result=result,
        error=None,
        completed_at=draft.now,
        next_attempt_at=None,
    )
    draft.count(JOBS_FINISHED, "completed", "none", "none")
    draft.observe(JOB_DURATION, (draft.now - job.created_at).total_seconds(), job)


def fail_attempt(draft: Draft, job: Job, failure: Failure, rules: Rules, told: Mapping[str, Any]) -> None:
    """Decide what follows a failed attempt: another one later, or the end. Whoever has a stripe of it stops."""
    draft.revoke_job(job.id)
    if failure.code == ChecksumMismatch.code:
        draft.count(CHECKSUM_MISMATCHES)
    if failure.code == SinkRefused.code and not parking.is_own_fault(draft.heard.parking, job.id):
        _park(draft, job, failure, rules, told)
        return
    draft.heard.parking = parking.ended(draft.heard.parking, job.id, draft.now_s)
    begins_elsewhere = sources.begins_elsewhere(draft, job, failure)
    if begins_elsewhere:
        failure = replace(failure, retryable=True)
    verdict = retry.decide(failure, attempt=job.attempt, settings=rules.transfer, now=draft.now, rng=rules.rng)
    if isinstance(verdict, retry.GiveUp):
        give_up(draft, job, failure, told, dead_letter=failure.retryable)
        return
    changes: dict[str, Any] = {"next_attempt_at": verdict.at, "error": failure, "attempt": job.attempt}
    if failure.code in _START_OVER or begins_elsewhere:
        drop_session(draft, job)
        changes["metadata"] = None
    payload = {**told, **_why(failure), "nextAttemptAt": verdict.at.isoformat(), "attempt": job.attempt}
    payload |= sources.told(draft, job)
    draft.transition(job, JobEvent.REQUEUED, payload, **changes)
    draft.count(REQUEUES, failure.code)


def _hand_back_uncharged(draft: Draft, job: Job, failure: Failure, told: Mapping[str, Any]) -> None:
    """Hand a job back for which its agent alone has no room, or its host has none for more of us.

    Another agent gets it, or it waits: for an agent, or for its host.
    """
    draft.heard.parking = parking.ended(draft.heard.parking, job.id, draft.now_s)
    # Whoever kills agents is given to one that has nothing else, full or not.
    waits = failure.of_host or job.requeues >= SUSPECT_REQUEUES
    wait_s = min(failure.retry_after_s or 0.0, retry.RETRY_AFTER_S_MAX) if waits else 0.0
    at = draft.now + timedelta(seconds=wait_s) if wait_s > 0 else None
    changes: dict[str, Any] = {"attempt": job.attempt, "error": failure, "next_attempt_at": at}
    draft.transition(job, JobEvent.REQUEUED, {**told, **_why(failure)}, **changes)
    draft.count(REQUEUES, failure.code)


def _park(draft: Draft, job: Job, failure: Failure, rules: Rules, told: Mapping[str, Any]) -> None:
    """Hand a job back uncharged, and start no others, until the bucket takes something again."""
    draft.heard.refused_by_sink(job.id, failure.message, park_s=rules.liveness.park_s)
    # Behind the others: where it is this job that the bucket does not take, they show it.
    behind_s = rules.liveness.park_s + max(0.0, (draft.heard.parking.until_s or draft.now_s) - draft.now_s)
    at = draft.now + timedelta(seconds=behind_s)
    payload = {**told, **_why(failure), "parked": True, "nextAttemptAt": at.isoformat()}
    draft.transition(job, JobEvent.REQUEUED, payload, attempt=job.attempt - 1, error=failure, next_attempt_at=at)
    draft.count(REQUEUES, failure.code)


def give_up(draft: Draft, job: Job, failure: Failure, told: Mapping[str, Any], *, dead_letter: bool) -> None:
    """Fail a job for good; abort its upload; put it into the dead-letter queue where deliveries ran out."""
    draft.revoke_job(job.id)
    take_back(draft, job)
    changes: dict[str, Any] = {"error": failure, "completed_at": draft.now, "next_attempt_at": None}
    told = {**told, **_why(failure), **sources.told(draft, job)}
    job = draft.transition(job, JobEvent.FAILED, told, attempt=job.attempt, **changes)
    if dead_letter:
        draft.transition(job, JobEvent.DEADLETTERED, _why(failure), dead_lettered_at=draft.now)
        draft.dead_letters_delta += 1
    draft.count(JOBS_FINISHED, "failed", failure.fault, failure.code)


def _why(failure: Failure) -> Mapping[str, Any]:
    return {"code": failure.code, "message": failure.message, "fault": failure.fault, "retryable": failure.retryable}


def drop_session(draft: Draft, job: Job) -> None:
    """Have the job's upload aborted, if there is one."""
    session = draft.open_session(job.id)
    if session is not None:
        draft.put_session(session, SessionState.ABORTING)


def take_back(draft: Draft, job: Job) -> None:
    """Have what the job has in the bucket removed: its upload, or what a lost agent's single PUT published."""
    if draft.open_session(job.id) is None and job.epoch > 0 and job.key is not None:
        put = UploadSession(
            session_id=f"put_{job.id}_{job.version}",
            job_id=job.id,
            bucket="",
            key=job.key,
            upload_id="",
            part_bytes=0,
            size_bytes=None,
            state=SessionState.ABORTING,
            created_at=draft.now,
        )
        draft.put_session(put, SessionState.ABORTING)
    drop_session(draft, job)


def hand_back(
    draft: Draft,
    lease: Lease,
    rules: Rules,
    why: str,
    *,
    code: str = AgentLost.code,
    charged: bool = True,
    is_young: bool = False,
    wait_s: float = 0.0,
) -> None:
    """Take a lease from an agent that is lost or stuck, and requeue its job; charged too many times, the job fails.

    Where other agents have stripes of the job, these go on, and only what had just begun (`is_young`) is charged: a
    job that many work on for hours outlives many of them. Its parts then wait `wait_s` at least.
    """
    draft.end(lease)
    job = draft.job(lease.job_id)
    if job is None or job.status not in (JobStatus.DOWNLOADING, JobStatus.UPLOADING):
        return
    draft.heard.parking = parking.ended(draft.heard.parking, job.id, draft.now_s)
    failure = replace(AgentLost(why).failure(), code=code)
    others_go_on = bool(draft.leases_of_job(job.id))
    requeues = job.requeues + (1 if charged and (is_young or not others_go_on) else 0)
    told = {"agent": lease.agent, "epoch": lease.epoch, "requeues": requeues}
    if requeues > rules.liveness.requeues_max:
        last = RequeuesExhausted(f"handed back {requeues} times; the last time: {why}").failure()
        give_up(draft, replace(job, requeues=requeues), last, told, dead_letter=True)
        return
    draft.count(REQUEUES, failure.code)
    if others_go_on:
        if requeues != job.requeues:
            draft.change(job, requeues=requeues)
        backoff_s = _waits(failure, rules)
        stripes.set_back(draft, job, lease.agent, lambda count: max(wait_s, backoff_s(count)), why)
        return
    # The run did not fail: it is not charged as an attempt.
    draft.transition(
        job, JobEvent.REQUEUED, {**told, **_why(failure)}, requeues=requeues, attempt=job.attempt - 1, error=failure
    )


def refuse_notice(draft: Draft, book: Book, notice: Notice, failure: Failure) -> None:
    """Fail the job whose notice can not be taken: told again and again, it would be refused for ever."""
    job = None if isinstance(notice, Aborted | Swept) else draft.job(notice.job_id)
    if job is None or job.status not in (JobStatus.QUEUED, JobStatus.DOWNLOADING, JobStatus.UPLOADING):
        return
    if isinstance(notice, Probed | ProbeFailed | Aborted | Swept):
        if job.metadata is not None:
            return
    elif notice.lease_id not in book.leases_of_job.get(job.id, ()):
        return
    give_up(draft, job, failure, {"notice": type(notice).__name__}, dead_letter=True)
