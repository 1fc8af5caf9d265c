"""The integrity receipt of a completed job: what was moved from where to where, and by what it was compared."""

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from rayhaul.errors import Conflict
from rayhaul.job import EventRecord, Job, JobEvent, JobStatus
from rayhaul.origins import sources_of
from rayhaul.parts import JobParts
from rayhaul.redaction import redacted
from rayhaul.wire import ReceiptAgent, ReceiptSource, ReceiptTimes, ReceiptView, ValidatorView
from serve_app.auth import Caller
from serve_app.openapi import problems_of
from serve_app.parts import runs_by_agent
from serve_app.replica import PathId, replica_of
from serve_app.views import reply

routes = APIRouter(tags=["jobs"])


@routes.get("/jobs/{job_id}/receipt", response_model=ReceiptView, responses=problems_of(401, 404, 409, 503))
async def job_receipt(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Show the integrity receipt of a completed job."""
    ledger = replica_of(request).ledger
    job = await ledger.job(caller, job_id)
    if job.result is None or job.status is not JobStatus.COMPLETED:
        raise Conflict(f"a {job.status} job has no receipt")
    found = await ledger.parts_of_job(caller, job_id)
    return reply(receipt_view(job, await ledger.history(caller, job_id), found))


def receipt_view(job: Job, history: Sequence[EventRecord], found: JobParts) -> ReceiptView:
    result, source = job.result, job.metadata
    assert result is not None, "only a completed job has a receipt"
    urls = [source.url for source in sources_of(job.spec)]
    started = [str(event.payload.get("agent", "")) for event in history if event.event is JobEvent.STARTED]
    return ReceiptView(
        job_id=job.id,
        correlation_id=job.correlation_id,
        source_url=redacted(job.spec.url),
        final_url=None if source is None else redacted(source.final_url),
        validator=None
        if source is None
        else ValidatorView(etag=source.etag, last_modified=source.last_modified, digest=source.digest),
        bucket=result.bucket,
        key=result.key,
        size_bytes=result.size_bytes,
        etag=result.etag,
        sha256=result.sha256,
        crc64nvme=result.crc64nvme,
        checksum=result.checksum or job.spec.checksum,
        parts=result.parts_count,
        copied_from=result.copied_from,
        sources=[
            ReceiptSource(url=redacted(urls[source]), bytes=bytes_count) for source, bytes_count in result.sources
        ],
        times=ReceiptTimes(created_at=job.created_at, started_at=job.started_at, completed_at=job.completed_at),
        agents=[agent for agent in dict.fromkeys([*started, *job.agents]) if agent],
        brought_by=[
            ReceiptAgent(agent=agent, bytes=sum(run.bytes_count for run in runs))
            for agent, runs in runs_by_agent(job, found).items()
        ],
        attempt=job.attempt,
        requeues=job.requeues,
    )
