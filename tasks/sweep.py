"""Looks for multipart uploads that no job may need any more: left by a process that died at the wrong moment, or by a
store whose answer was lost.

Whose an upload is cannot be read from the store: its metadata shows only once it is an object. Those under keys of the
form `{prefix}{job id}/…` are told of with that job. A job's id is made once in the world, and the scheduler aborts none
but those of jobs that stand in its own ledger: another cluster in the same bucket, even under the same prefix, is left
alone.

An upload under a key that a caller named may be anybody's. Neither its time nor its age nor its parts tell: somebody
else may have begun one in the second in which the answer to ours was lost. Only who runs the bucket can know that
nobody else uploads there (`sweep.owns_prefix`); then what the ledger does not know is nobody's. Without that word the
bucket's own rule rids us of them (`Sink.ensure_abort_rule`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import TypeVar

from rayhaul.errors import SinkError
from rayhaul.ids import NewId
from rayhaul.lease import OpenUpload, SessionState, SweepOrder, UploadSession
from rayhaul.policy.naming import job_of_key
from tasks.sink import Sink

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Told of at once, of each kind. The rest comes with the next looks.
_TOLD_MAX = 1000


@dataclass(frozen=True, slots=True)
class Strays:
    """Old uploads; of very many a sample, so that no others stand before ours for ever."""

    of_jobs: tuple[UploadSession, ...]
    named: tuple[OpenUpload, ...]


async def sweep(sink: Sink, order: SweepOrder, *, now: datetime, new_id: NewId, rng: Random) -> Strays:
    """Return the old uploads under job keys, and under others where those are ours alone. Raises: SinkError."""
    if order.rule_days is not None:
        await sink.ensure_abort_rule(order.prefix, order.rule_days)
    of_jobs, named = stray(await sink.list_uploads(order.prefix), order, now=now)
    return Strays(
        of_jobs=tuple(
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
            for job_id, upload in _sample(of_jobs, rng)
        ),
        named=tuple(_sample(named, rng)),
    )


async def abort_nobodys(sink: Sink, uploads: Sequence[OpenUpload]) -> None:
    """Abort uploads that are nobody's. One that does not go is found again by the next look."""
    for upload in uploads:
        try:
            await sink.abort(upload.key, upload.upload_id)
        except SinkError as error:
            _log.warning("an upload that is nobody's stays: %s (%s)", upload.key, error.code)


def stray(
    uploads: Sequence[OpenUpload], order: SweepOrder, *, now: datetime
) -> tuple[Sequence[tuple[str, OpenUpload]], Sequence[OpenUpload]]:
    """Return the old uploads: those under a job's own key, with its id, and the others, where those are ours alone."""
    before = now - timedelta(seconds=order.age_s_min)
    old = [(job_of_key(order.prefix, upload.key), upload) for upload in uploads if upload.initiated_at <= before]
    of_jobs = [(job_id, upload) for job_id, upload in old if job_id is not None]
    return of_jobs, [upload for job_id, upload in old if job_id is None and order.owns_prefix]


def _sample(found: Sequence[T], rng: Random) -> Sequence[T]:
    return found if len(found) <= _TOLD_MAX else rng.sample(found, _TOLD_MAX)
