"""The dead-letter queue: jobs that ran out of deliveries, for their owners and for operators."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from rayhaul.errors import Conflict
from rayhaul.job import JobStatus
from rayhaul.ledger.base import JobFilter
from rayhaul.wire import DeadLetterPage, JobView
from serve_app.auth import Caller
from serve_app.openapi import problems_of
from serve_app.paging import Cursor, Limit
from serve_app.replica import PathId, replica_of
from serve_app.views import dead_letter_view, job_view, reply

routes = APIRouter(tags=["dead letters"])


@routes.get("/dlq", response_model=DeadLetterPage, responses=problems_of(401, 422, 503))
async def list_dead_letters(
    request: Request,
    caller: Caller,
    *,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """List dead-lettered jobs, newest first."""
    replica = replica_of(request)
    wanted = JobFilter(dead_lettered=True, before_id=cursor, limit=limit + 1)
    found = await replica.ledger.jobs(caller, wanted)
    page = found[:limit]
    views = [dead_letter_view(job, bucket=replica.links.bucket) for job in page]
    return reply(DeadLetterPage(jobs=views, next_cursor=page[-1].id if len(found) > limit else None))


@routes.post("/dlq/{job_id}/replay", response_model=JobView, responses=problems_of(401, 404, 409, 503))
async def replay_dead_letter(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Give a dead-lettered job another life; 409 where it is not in the queue of dead letters, or no longer."""
    replica = replica_of(request)
    # The plane does not ask whose job it is.
    await replica.ledger.job(caller, job_id)
    job = await replica.finish(replica.plane.replay(job_id))
    return reply(job_view(job, replica.live.of(job.id), bucket=replica.links.bucket))


@routes.delete("/dlq/{job_id}", response_model=JobView, responses=problems_of(401, 404, 409, 503))
async def delete_dead_letter(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Take a job out of the dead letters; it stays failed. Doing it again changes nothing."""
    replica = replica_of(request)
    await replica.ledger.job(caller, job_id)
    try:
        job = await replica.finish(replica.plane.discard(job_id))
    except Conflict:
        # Sent again after a lost answer it must not tell of a failure (RFC 9110 9.2.2): what was wanted is so.
        job = await replica.ledger.job(caller, job_id)
        if job.status is not JobStatus.FAILED or job.dead_lettered_at is not None:
            raise
    return reply(job_view(job, replica.live.of(job.id), bucket=replica.links.bucket))
