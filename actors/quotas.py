"""What a user's quota allows of a job: checked when it is asked for, when its size is known, and while it streams."""

from collections.abc import Sequence

from actors.draft import Draft
from rayhaul.errors import Failure, QuotaExceeded
from rayhaul.job import Job, Metadata
from rayhaul.lease import PartDone
from rayhaul.policy import quota
from rayhaul.settings import QuotaSettings


def check_submission(draft: Draft, user_id: str, settings: QuotaSettings) -> None:
    """Raises: QuotaExceeded where nothing is left of the user's day, so that no job of theirs could run."""
    quota.check(draft.usage(user_id), 1, draft.now, bytes_per_day_max=settings.bytes_per_day_max)


def charge_size(draft: Draft, job: Job, found: Metadata, settings: QuotaSettings) -> Failure | None:
    """Count the announced size; return why the job may not be, where that is too much."""
    size_bytes = found.size_bytes or 0
    try:
        quota.check(draft.usage(job.user_id), size_bytes, draft.now, bytes_per_day_max=settings.bytes_per_day_max)
    except QuotaExceeded as error:
        return error.failure()
    draft.charge(job.user_id, size_bytes)
    return None


def charge_result(draft: Draft, job: Job, size_bytes: int) -> None:
    """Count what a job without an announced size turned out to have."""
    if _is_open_ended(job):
        draft.charge(job.user_id, size_bytes)


def charge_parts(draft: Draft, job: Job, parts: Sequence[PartDone], settings: QuotaSettings) -> Failure | None:
    """Say why a job without an announced size may not go on, where it has come too far; what came is counted then.

    Parts are numbered along the file and are of one size, so the highest number tells how far it has come, also when
    the same parts are told of twice.
    """
    session = draft.open_session(job.id)
    if session is None or not parts or not _is_open_ended(job):
        return None
    came_bytes = max(part.number for part in parts) * session.part_bytes
    try:
        quota.check(draft.usage(job.user_id), came_bytes, draft.now, bytes_per_day_max=settings.bytes_per_day_max)
    except QuotaExceeded as error:
        draft.charge(job.user_id, came_bytes)
        return error.failure()
    return None


def _is_open_ended(job: Job) -> bool:
    return job.metadata is None or job.metadata.size_bytes is None
