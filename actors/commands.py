"""What people ask of a job, carried out in a draft: cancel, pause, resume, retry, requeue, replay, discard, stop."""

from typing import Any

from actors.decisions import Rules, hand_back, take_back
from actors.draft import Draft
from actors.ports import Command
from rayhaul.errors import Conflict, NotFound
from rayhaul.job import Job, JobEvent, JobStatus
from rayhaul.metrics import JOBS_FINISHED

#: What an operator stopped on one agent of several is leased to nobody for so long.
_STOPPED_S = 60.0


def obey(draft: Draft, job: Job, command: Command) -> Job:
    """Carry out a user's command.

    Raises: Conflict where the job's state does not allow it.
    """
    match command:
        case Command.CANCEL:
            if job.status is JobStatus.CANCELLED:
                return job
            cancelled = draft.transition(job, JobEvent.CANCELLED, completed_at=draft.now, next_attempt_at=None)
            draft.revoke_job(job.id)
            take_back(draft, job)
            draft.count(JOBS_FINISHED, "cancelled", "caller", "cancelled")
            return cancelled
        case Command.PAUSE:
            paused = draft.transition(job, JobEvent.PAUSED, next_attempt_at=None, attempt=_uncharged(job))
            draft.revoke_job(job.id)
            return paused
        case Command.RESUME:
            return draft.transition(job, JobEvent.RESUMED)
        case Command.RETRY:
            if not job.is_final:
                raise Conflict(f"a {job.status} job can not be retried")
            return _start_again(draft, job, "retry")
        case Command.REQUEUE:
            requeued = _start_again(draft, job, "requeue")
            draft.revoke_job(job.id)
            return requeued


def replay(draft: Draft, job: Job) -> Job:
    """Give a dead-lettered job another life. Raises: Conflict where it is not dead-lettered."""
    _check_dead(job)
    return _start_again(draft, job, "replay")


def discard(draft: Draft, job: Job) -> Job:
    """Take a job out of the dead-letter queue; it stays failed. Raises: Conflict where it is not in there."""
    _check_dead(job)
    draft.dead_letters_delta -= 1
    return draft.change(job, dead_lettered_at=None)


def _check_dead(job: Job) -> None:
    if job.dead_lettered_at is None:
        raise Conflict("the job is not in the dead-letter queue")


def stop_job(draft: Draft, agent: str, job_id: str, rules: Rules) -> Job:
    """Stop what an agent does for a job and hand the job back, uncharged. Raises: NotFound."""
    for lease in draft.leases_of_job(job_id):
        if lease.agent == agent:
            draft.revokes[agent].append(lease.lease_id)
            hand_back(draft, lease, rules, "stopped by an operator", charged=False, wait_s=_STOPPED_S)
            job = draft.job(job_id)
            assert job is not None
            return job
    raise NotFound


def _uncharged(job: Job) -> int:
    """Return the attempts without the one that is stopped: it did not fail."""
    return job.attempt - 1 if job.status in (JobStatus.DOWNLOADING, JobStatus.UPLOADING) else job.attempt


def _start_again(draft: Draft, job: Job, why: str) -> Job:
    changes: dict[str, Any] = {"next_attempt_at": None, "completed_at": None, "error": None, "attempt": _uncharged(job)}
    if job.is_final:
        # The session went with the failure, and the file may have changed since: look at it anew.
        changes |= {"attempt": 0, "requeues": 0, "metadata": None, "started_at": None, "dead_lettered_at": None}
    after = draft.transition(job, JobEvent.REQUEUED, {"code": why}, **changes)
    if job.dead_lettered_at is not None:
        draft.dead_letters_delta -= 1
    return after
