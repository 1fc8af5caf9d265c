"""The sweep: when an agent is sent to look for uploads that are nobody's, and what becomes of those it tells of."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

from actors.draft import Draft
from rayhaul.ids import NewId
from rayhaul.lease import JobContext, Lease, OpenUpload, SessionState, SweepOrder, UploadSession
from rayhaul.metrics import ORPHAN_UPLOADS
from rayhaul.report import Swept
from rayhaul.settings import SweepSettings

log = logging.getLogger(__name__)

#: A store's clock, and that of a scheduler before this one, may be that far from ours.
_CLOCKS_APART = timedelta(minutes=1)


class Sweeping:
    """Says when it is time for a look.

    When the last one was is in the ledger: a scheduler that begins anew again and again neither forgets it nor looks
    more often. The first interval begins with the first scheduler.
    """

    def __init__(self, settings: SweepSettings, *, prefix: str, new_id: NewId) -> None:
        self._settings = settings
        self._prefix = prefix
        self._new_id = new_id
        #: The order under way, or the last one.
        self.order_id: str | None = None

    def order(self, draft: Draft, swept_at: datetime | None) -> SweepOrder | None:
        """Return the order to abort what was found, or for a look that is due; a lost one is made up for by a next."""
        if draft.nobodys:
            return self._order(tuple(draft.nobodys))
        if swept_at is not None and self._is_recent(draft.now - swept_at):
            return None
        draft.swept_at = draft.now
        return None if swept_at is None else self._order()

    def _is_recent(self, ago: timedelta) -> bool:
        # What is still to come is of a clock that was set back, or of another scheduler's.
        return -_CLOCKS_APART <= ago < timedelta(seconds=self._settings.interval_s)

    def _order(self, nobodys: tuple[OpenUpload, ...] = ()) -> SweepOrder:
        self.order_id = self._new_id("sweep")
        return SweepOrder(
            order_id=self.order_id,
            context=JobContext(job_id="", user_id="", correlation_id=self.order_id),
            prefix=self._prefix,
            age_s_min=self._settings.age_s_min,
            rule_days=self._settings.rule_days,
            owns_prefix=self._settings.owns_prefix,
            nobodys=nobodys,
        )


def mark_strays(draft: Draft, notice: Swept) -> bool:
    """Have the uploads aborted that belong to jobs of ours and that none of their sessions accounts for.

    They become sessions that are aborting, so that an agent is asked until it confirms that the store knows them no
    more; one that is aborted stays so, also when it is told again. Jobs and sessions were read into the draft before;
    of a job that is not there nothing is known, so it is not ours.

    Under keys that callers named they are told of only where nobody else uploads: what no open session is, and no lease
    may have opened, belongs to no job. These are aborted once, without a session: what stays is found again.
    """
    for upload in notice.uploads:
        if draft.job(upload.job_id) is None or _may_be_told(draft, upload):
            continue
        if draft.session(upload.session_id) is not None or draft.knows_upload(upload.upload_id):
            continue
        log.warning("an upload is nobody's: %s", upload.key, extra={"jobId": upload.job_id})
        draft.put_session(upload, SessionState.ABORTING)
    for named in notice.named:
        if draft.knows_upload(named.upload_id) or _opened_under(draft.leases_of_key(named.key), named.initiated_at):
            continue
        log.warning("an upload is nobody's: %s", named.key)
        draft.nobodys.append(named)
        draft.count(ORPHAN_UPLOADS)
    return True


def _may_be_told(draft: Draft, upload: UploadSession) -> bool:
    return _opened_under(draft.leases_of_job(upload.job_id), upload.created_at)


def _opened_under(leases: Sequence[Lease], created_at: datetime) -> bool:
    """Whether an agent that holds one of these now may have opened an upload then, and its word is on the way."""
    return any(lease.granted_at <= created_at + _CLOCKS_APART for lease in leases)
