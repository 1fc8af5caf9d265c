"""What orders say: made of the job's row, of what the ledger has of it, and of what the agent may use.

Laws of this file:
1. Whom an order goes to, and when, is not decided here (dispatch.py).
2. A transfer is ordered by what stands after the commit, so it is made again for each lease, and never kept.
"""

from contextlib import suppress
from dataclasses import replace

from actors import sources, stripes
from actors.book import Book
from rayhaul.contents import has_file_of
from rayhaul.errors import ChecksumMismatch, RayhaulError
from rayhaul.ids import NewId
from rayhaul.job import Job, JobStatus
from rayhaul.lease import (
    AbortOrder,
    JobContext,
    Lease,
    PartDone,
    ProbeOrder,
    StandingCopy,
    TransferOrder,
    UploadSession,
)
from rayhaul.ledger.base import Ledger, Role, Viewer
from rayhaul.origins import host_of, host_of_job, sources_from
from rayhaul.policy import peeking
from rayhaul.policy.planning import expected_checksum, plan_parts
from rayhaul.settings import Settings

#: As whom the scheduler itself looks at jobs.
EVERYTHING = Viewer("scheduler", Role.OPERATOR)


class Orders:
    def __init__(self, *, ledger: Ledger, settings: Settings, bucket: str, new_id: NewId) -> None:
        self._ledger = ledger
        self._settings = settings
        self._bucket = bucket
        self._new_id = new_id

    def look(self, job: Job) -> ProbeOrder:
        """Return the order to fetch a job's metadata; what its agent may use of the hosts is still to be put in."""
        first, *others = sources.to_look_at(job)
        return ProbeOrder(
            order_id=self._new_id("probe"),
            context=_context(job),
            url=first.url,
            headers=first.headers,
            source=first.index,
            mirrors=tuple(others),
            filename=job.spec.filename,
            size_bytes_max=job.spec.size_bytes_max,
            refresh_webhook=job.spec.refresh_webhook,
            may_peek=peeking.may_peek(job, self._settings),
        )

    def abort(self, session: UploadSession) -> AbortOrder:
        """Return the order to abort a session's upload, under the session's own name until `under_its_job`."""
        return AbortOrder(
            session_id=session.session_id,
            context=JobContext(job_id=session.job_id, user_id="", correlation_id=session.session_id),
            bucket=session.bucket or self._bucket,
            key=session.key,
            upload_id=session.upload_id,
        )

    async def under_its_job(self, order: AbortOrder, book: Book) -> AbortOrder:
        """Return the order with its job's correlation id and epoch; a job that is over is known to the ledger alone."""
        job = book.jobs.get(order.context.job_id)
        if job is None:
            with suppress(RayhaulError):
                job = await self._ledger.job(EVERYTHING, order.context.job_id)
        if job is None:
            return order
        is_given_up = job.status in (JobStatus.CANCELLED, JobStatus.FAILED)
        return replace(order, context=_context(job), epoch=job.epoch if is_given_up else None)

    async def transfer(self, book: Book, lease: Lease, now_s: float) -> TransferOrder:
        """Return the order to move a stripe that is leased. Raises: RayhaulError where the ledger can not be asked."""
        job = book.jobs[lease.job_id]
        assert job.metadata is not None
        assert job.key is not None
        session = book.open_session(job.id)
        main, *mirrors = sources_from(job.spec, job.metadata.source)
        plan = plan_parts(job.metadata.size_bytes, part_bytes_min=self._settings.transfer.part_bytes_min)
        return TransferOrder(
            lease_id=lease.lease_id,
            epoch=lease.epoch,
            context=_context(job),
            url=main.url,
            headers=main.headers,
            pin=job.metadata,
            bucket=self._bucket,
            key=job.key,
            part_bytes=plan.part_bytes if session is None else session.part_bytes,
            first_part=lease.first_part,
            end_part=lease.end_part,
            connections=job.spec.connections,
            checksum=expected_checksum(
                job.spec, job.metadata, digest_bytes_max=self._settings.transfer.digest_bytes_max
            ),
            compute_sha256=job.spec.compute_sha256,
            size_bytes_max=job.spec.size_bytes_max,
            session=session,
            parts_done=() if session is None else await self._parts_of(lease, session),
            refresh_webhook=job.spec.refresh_webhook,
            grant=book.hosts.grant(lease.agent, host_of_job(job), now_s),
            rates=book.rates.grants_of_lease(lease.lease_id, now_s),
            mirrors=tuple(
                replace(source, grant=book.hosts.grant(lease.agent, host_of(source.url), now_s)) for source in mirrors
            ),
            other_grants=tuple(book.hosts.grant(lease.agent, host, now_s) for host in job.metadata.other_hosts),
            is_apart=job.error is not None and job.error.code == ChecksumMismatch.code,
            is_twin=stripes.is_twin(book, lease),
            copy=await self._copy_for(job, lease, session),
        )

    async def _copy_for(self, job: Job, lease: Lease, session: UploadSession | None) -> StandingCopy | None:
        """Return the object of an earlier job that has this job's file; None where it is to be fetched.

        After any failure it is: the copy may be what failed.
        """
        if not job.spec.dedupe or job.error is not None or session is not None or lease.first_part > 1:
            return None
        for earlier in await self._ledger.with_file_of(job):
            if has_file_of(earlier, job) and earlier.result is not None:
                result = earlier.result
                return StandingCopy(
                    job_id=earlier.id,
                    bucket=result.bucket,
                    key=result.key,
                    size_bytes=result.size_bytes,
                    etag=result.etag,
                    sha256=result.sha256,
                    crc64nvme=result.crc64nvme,
                    parts_count=result.parts_count,
                )
        return None

    async def _parts_of(self, lease: Lease, session: UploadSession) -> tuple[PartDone, ...]:
        parts = await self._ledger.parts(session.session_id)
        return tuple(part for part in parts if lease.first_part <= part.number < lease.end_part)


def _context(job: Job) -> JobContext:
    return JobContext(
        job_id=job.id,
        user_id=job.user_id,
        correlation_id=job.correlation_id,
        attempt=job.attempt,
        traceparent=job.traceparent,
    )
