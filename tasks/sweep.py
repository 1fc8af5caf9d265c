"""Looks for multipart uploads that no job may need any more: what a process left that died at the wrong moment.

Whose an upload is cannot be read from the store: its metadata shows only once it is an object. So only uploads under
keys of the form `{prefix}{job id}/…` are told of. A job's id is made once in the world, and the scheduler aborts none
but those of jobs that stand in its own ledger: another cluster in the same bucket, even under the same prefix, is left
alone. An upload under a key that a caller named may be anybody's. The ledger knows the ones that were told of; of one
that was not, the bucket's own rule rids us (`Sink.ensure_abort_rule`).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random

from rayhaul.ids import NewId
from rayhaul.lease import SessionState, SweepOrder, UploadSession
from rayhaul.policy.naming import job_of_key
from tasks.sink import OpenUpload, Sink

#: Told of at once. The rest comes with the next looks.
_TOLD_MAX = 1000


async def sweep(
    sink: Sink, order: SweepOrder, *, now: datetime, new_id: NewId, rng: Random
) -> tuple[UploadSession, ...]:
    """Return the old uploads under job keys; of very many a sample, so that no others stand before ours for ever.

    Raises: SinkError.
    """
    if order.rule_days is not None:
        await sink.ensure_abort_rule(order.prefix, order.rule_days)
    found = stray(await sink.list_uploads(order.prefix), order, now=now)
    told = found if len(found) <= _TOLD_MAX else rng.sample(found, _TOLD_MAX)
    return tuple(
        UploadSession(
            session_id=new_id("ses"),
            job_id=job_id,
            bucket=sink.bucket,
            key=upload.key,
            upload_id=upload.upload_id,
            part_bytes=0,
            size_bytes=None,
            state=SessionState.ABORTING,
            created_at=upload.initiated_at,
        )
        for job_id, upload in told
    )


def stray(uploads: Sequence[OpenUpload], order: SweepOrder, *, now: datetime) -> Sequence[tuple[str, OpenUpload]]:
    """Return the uploads that are old enough and under a job's own key, with that job's id."""
    before = now - timedelta(seconds=order.age_s_min)
    return [
        (job_id, upload)
        for upload in uploads
        if upload.initiated_at <= before and (job_id := job_of_key(order.prefix, upload.key)) is not None
    ]
