"""The sweep: when an agent is sent to look for uploads that are nobody's, and what becomes of those it tells of."""

import logging
from datetime import timedelta

from actors.draft import Draft
from rayhaul.ids import NewId
from rayhaul.lease import JobContext, SessionState, SweepOrder, Swept, UploadSession
from rayhaul.settings import SweepSettings

log = logging.getLogger(__name__)

#: A store's clock may be that far from ours.
_CLOCKS_APART = timedelta(minutes=1)


class Sweeping:
    """Says when it is time for a look. In memory alone: a scheduler that begins anew begins its interval anew."""

    def __init__(self, settings: SweepSettings, *, prefix: str, new_id: NewId) -> None:
        self._settings = settings
        self._prefix = prefix
        self._new_id = new_id
        self._next_at_s: float | None = None
        #: The order under way, or the last one.
        self.order_id: str | None = None

    def order(self, now_s: float) -> SweepOrder | None:
        """Return the order for a look that is due; one that got lost is made up for by the next."""
        if self._next_at_s is not None and now_s < self._next_at_s:
            return None
        is_first, self._next_at_s = self._next_at_s is None, now_s + self._settings.interval_s
        if is_first:
            return None
        self.order_id = self._new_id("sweep")
        return SweepOrder(
            order_id=self.order_id,
            context=JobContext(job_id="", user_id="", correlation_id=self.order_id),
            prefix=self._prefix,
            age_s_min=self._settings.age_s_min,
            rule_days=self._settings.rule_days,
        )


def mark_strays(draft: Draft, notice: Swept) -> bool:
    """Have the uploads aborted that belong to jobs of ours and that none of their sessions accounts for.

    They become sessions that are aborting, so that an agent is asked until it confirms that the store knows them no
    more; one that is aborted stays so, also when it is told again. Jobs and sessions were read into the draft before;
    of a job that is not there nothing is known, so it is not ours.
    """
    for upload in notice.uploads:
        if draft.job(upload.job_id) is None or _may_be_told(draft, upload):
            continue
        if draft.session(upload.session_id) is not None or draft.knows_upload(upload.upload_id):
            continue
        log.warning("an upload is nobody's: %s", upload.key, extra={"jobId": upload.job_id})
        draft.put_session(upload, SessionState.ABORTING)
    return True


def _may_be_told(draft: Draft, upload: UploadSession) -> bool:
    """Whether an agent that holds the job now may have opened it, and its word is on the way."""
    latest = upload.created_at + _CLOCKS_APART
    return any(lease.granted_at <= latest for lease in draft.leases_of_job(upload.job_id))
