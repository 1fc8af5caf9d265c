"""Jobs over HTTP: asking for them, looking at them, steering them, fetching what they made."""

import asyncio
import hashlib
import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, BeforeValidator, FailFast, Field
from starlette.responses import RedirectResponse, Response

from actors.ports import Accepted, Command, Submission
from rayhaul import tracing
from rayhaul.errors import Conflict
from rayhaul.job import Job, JobSpec, JobStatus
from rayhaul.ledger.base import JobFilter, Viewer
from rayhaul.policy.admission import InvalidField, admit
from rayhaul.wire import BatchAccepted, BatchRequest, DownloadLink, EventPage, JobPage, JobRef, JobRequest, JobView
from serve_app.auth import Caller, Operator
from serve_app.bodies import VALUES_MAX, parsed
from serve_app.openapi import header, json_body, problems_of
from serve_app.paging import Cursor, Limit
from serve_app.replica import PathId, Replica, replica_of
from serve_app.urls import check_source, check_url, counting_denials
from serve_app.views import MOVING, event_view, job_view, reply
from serve_app.visit import visit_of

routes = APIRouter(tags=["jobs"])

#: Values of one job in a batch, on average.
_BATCH_VALUES_MAX = 64
#: RFC 9110's visible characters; the quotes of a Structured Fields string (RFC 8941 3.3.3) may stand around them.
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TAG = re.compile(r"([^\x00-\x20\x7f:=]{1,64})[:=]([^\x00-\x1f\x7f]{0,256})")
_STATUS_TOLD = Query(
    description="Only jobs in this state.",
    json_schema_extra=lambda schema: schema["anyOf"].append({"const": "", "type": "string"}),
)
_TAG_TOLD = Query(description="`name:value` or `name=value`.", json_schema_extra={"pattern": f"^({_TAG.pattern})?$"})

#: A form sends what was left empty: `?status=&tag=`.
_EMPTY_IS_NONE = BeforeValidator(lambda text: text or None)

_IDEMPOTENCY = {
    "parameters": [header("Idempotency-Key", "The same key and body give the same job; another body gives 422.")]
}


class _Batch(BatchRequest):
    # The first wrong job ends the validation: an error for each of a million would fill the memory.
    jobs: Annotated[list[JobRequest], FailFast()] = Field(min_length=1)


@routes.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    responses=problems_of(400, 401, 413, 422, 429, 503),
    openapi_extra=json_body(JobRequest) | _IDEMPOTENCY,
)
async def create_job(request: Request, caller: Caller) -> Response:
    """Ask for one job. It is on disk when this answers."""
    replica = replica_of(request)
    asked = await parsed(request, JobRequest)
    with counting_denials(replica):
        spec = _admitted(asked, replica)
    submission = _submission(request, caller, (spec,), asked)
    accepted = await _submitted(replica, submission)
    # One that an earlier request has made may be anywhere by now.
    job = accepted.job or await replica.ledger.job(caller, accepted.job_ids[0])
    visit_of(request.scope).job_id = job.id
    headers = _replayed(accepted) | {"Location": f"/jobs/{job.id}"}
    return reply(await _view(replica, job), status=201, headers=headers)


@routes.post(
    "/jobs/batch",
    status_code=201,
    response_model=BatchAccepted,
    responses=problems_of(400, 401, 413, 422, 429, 503),
    openapi_extra=json_body(BatchRequest) | _IDEMPOTENCY,
)
async def create_batch(request: Request, caller: Caller) -> Response:
    """Ask for many jobs, all or none. They are on disk when this answers."""
    replica = replica_of(request)
    limits = replica.settings.api
    most = limits.batch_jobs_max
    asked = await parsed(
        request, _Batch, bytes_max=limits.body_bytes_max, values_max=VALUES_MAX + _BATCH_VALUES_MAX * most
    )
    if len(asked.jobs) > most:
        raise InvalidField("jobs", f"a batch has at most {most} jobs")
    with counting_denials(replica):
        # Thousands of URLs take a while: not on the event loop.
        submission = await asyncio.to_thread(_batch_submission, request, caller, asked, replica)
    accepted = await _submitted(replica, submission)
    refs = BatchAccepted(jobs=[JobRef(id=job_id) for job_id in accepted.job_ids])
    return reply(refs, status=201, headers=_replayed(accepted))


@routes.get("/jobs", response_model=JobPage, responses=problems_of(401, 422, 503))
async def list_jobs(
    request: Request,
    caller: Caller,
    *,
    status: Annotated[JobStatus | None, _EMPTY_IS_NONE, _STATUS_TOLD] = None,
    tag: Annotated[str | None, _EMPTY_IS_NONE, _TAG_TOLD] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """List jobs, newest first."""
    replica = replica_of(request)
    wanted = JobFilter(status=status, tag=_tag(tag), before_id=cursor, limit=limit + 1)
    found = await replica.ledger.jobs(caller, wanted)
    page = found[:limit]
    if any(job.status in MOVING for job in page):
        await replica.live.refresh()
    views = [job_view(job, replica.live.of(job.id), bucket=replica.links.bucket) for job in page]
    return reply(JobPage(jobs=views, next_cursor=page[-1].id if len(found) > limit else None))


@routes.get("/jobs/{job_id}", response_model=JobView, responses=problems_of(401, 404, 503))
async def show_job(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Show one job, with its progress as it is now."""
    replica = replica_of(request)
    return reply(await _view(replica, await replica.ledger.job(caller, job_id)))


@routes.delete("/jobs/{job_id}", response_model=JobView, responses=problems_of(401, 404, 409, 503))
async def cancel_job(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Cancel for good; the upload is aborted. Doing it again changes nothing."""
    return await _commanded(request, caller, job_id, Command.CANCEL)


@routes.post("/jobs/{job_id}/pause", response_model=JobView, responses=problems_of(401, 404, 409, 503))
async def pause_job(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Stop for now; what is in the bucket stays."""
    return await _commanded(request, caller, job_id, Command.PAUSE)


@routes.post("/jobs/{job_id}/resume", response_model=JobView, responses=problems_of(401, 404, 409, 503))
async def resume_job(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Go on with a paused job from where it was."""
    return await _commanded(request, caller, job_id, Command.RESUME)


@routes.post("/jobs/{job_id}/retry", response_model=JobView, responses=problems_of(401, 404, 409, 503))
async def retry_job(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Begin a failed or cancelled job again."""
    return await _commanded(request, caller, job_id, Command.RETRY)


@routes.put("/jobs/{job_id}/requeue", response_model=JobView, responses=problems_of(401, 403, 404, 409, 503))
async def requeue_job(request: Request, operator: Operator, job_id: PathId) -> Response:
    """Hand a job back to the queue. Operators only."""
    return await _commanded(request, operator, job_id, Command.REQUEUE)


@routes.get("/jobs/{job_id}/history", response_model=EventPage, responses=problems_of(401, 404, 503))
async def job_history(request: Request, caller: Caller, job_id: PathId) -> Response:
    """List what happened to a job, oldest first."""
    records = await replica_of(request).ledger.history(caller, job_id)
    return reply(EventPage(events=[event_view(record) for record in records]))


@routes.get(
    "/jobs/{job_id}/download",
    status_code=307,
    response_class=RedirectResponse,
    responses={
        200: {"model": DownloadLink, "description": "With `json=1`: the link."},
        307: {"description": "To a link that holds for a short time."},
        **problems_of(401, 404, 409, 422, 503),
    },
)
async def download_job(
    request: Request,
    caller: Caller,
    job_id: PathId,
    *,
    json: Annotated[bool, Query(description="Show the link.")] = False,
) -> Response:
    """Fetch the object that a completed job made."""
    replica = replica_of(request)
    job = await replica.ledger.job(caller, job_id)
    if job.result is None or job.status is not JobStatus.COMPLETED:
        raise Conflict(f"a {job.status} job has no object to download")
    expires_s = replica.settings.s3.presign_expires_s
    expires_at = replica.now + timedelta(seconds=expires_s)
    url = replica.links.presign_get(job.result.key, filename=_filename(job), expires_s=expires_s)
    if json:
        return reply(DownloadLink(url=url, expires_at=expires_at))
    # Sent as signed: RedirectResponse would quote it anew.
    return Response(status_code=307, headers={"Location": url})


def _admitted(asked: JobRequest, replica: Replica, place: str = "") -> JobSpec:
    """Return the job to be done; `place` stands before the names of wrong fields.

    Raises: InvalidField, EgressDenied.
    """
    try:
        spec = admit(asked)
    except InvalidField as err:
        raise InvalidField(f"{place}{err.field}", err.reason) from None
    mirrors = [(f"mirrors.{index}", url) for index, url in enumerate(spec.mirrors)]
    for name, url in [("url", spec.url), *mirrors]:
        check_source(replica, f"{place}{name}", url)
    for name, receiver in [("webhook", spec.webhook), ("refreshWebhook", spec.refresh_webhook)]:
        if receiver is not None:
            check_url(replica, f"{place}{name}", receiver)
    return spec


def _batch_submission(request: Request, caller: Viewer, asked: _Batch, replica: Replica) -> Submission:
    specs = tuple(_admitted(job, replica, f"jobs.{index}.") for index, job in enumerate(asked.jobs))
    return _submission(request, caller, specs, asked)


def _submission(request: Request, caller: Viewer, specs: tuple[JobSpec, ...], asked: BaseModel) -> Submission:
    visit = visit_of(request.scope)
    key = _idempotency_key(request.headers.get("idempotency-key"))
    return Submission(
        user_id=caller.user_id,
        correlation_id=visit.correlation_id,
        specs=specs,
        traceparent=visit.trace.traceparent,
        idempotency=None if key is None else (key, fingerprint(asked)),
    )


async def _submitted(replica: Replica, submission: Submission) -> Accepted:
    """Hand a submission over, in the span that its jobs will follow from."""
    count = len(submission.specs)
    facts = {
        "messaging.system": "rayhaul",
        "messaging.destination.name": "jobs",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": count if count > 1 else None,
        "correlationId": submission.correlation_id,
        "userId": submission.user_id,
    }
    with tracing.child("submit jobs", tracing.Kind.PRODUCER, facts) as span:
        if span.context is not None:
            submission = replace(submission, traceparent=span.context.traceparent)
        accepted = await replica.finish(replica.plane.submit(submission))
        if count == 1:
            span.set({"jobId": accepted.job_ids[0]})
        return accepted


def _idempotency_key(text: str | None) -> str | None:
    """Raises: InvalidField where it has no or too many characters, or some that are not visible ASCII."""
    if text is None:
        return None
    quoted = len(text) >= 2 and text[0] == text[-1] == '"'
    key = text[1:-1] if quoted else text
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidField("Idempotency-Key", "it has 1 to 255 visible ASCII characters")
    return key


def fingerprint(asked: BaseModel) -> str:
    """Return the SHA-256 of the request's canonical JSON: what means the same has the same, however it was written."""
    canonical = asked.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _replayed(accepted: Accepted) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if accepted.replayed else {}


async def _view(replica: Replica, job: Job) -> JobView:
    if job.status in MOVING:
        await replica.live.refresh()
    return job_view(job, replica.live.of(job.id), bucket=replica.links.bucket)


async def _commanded(request: Request, viewer: Viewer, job_id: PathId, command: Command) -> Response:
    replica = replica_of(request)
    job = await replica.finish(replica.plane.command(viewer, job_id, command))
    return reply(await _view(replica, job))


def _tag(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    match = _TAG.fullmatch(text)
    if match is None:
        raise InvalidField("tag", "it is written name:value")
    return match[1], match[2]


def _filename(job: Job) -> str:
    found = job.spec.filename or (job.metadata.filename if job.metadata else None)
    return found or (job.result.key if job.result else job.id).rpartition("/")[2]
