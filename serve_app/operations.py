"""For those who run the cluster: health, metrics, the queue and its valve, and the live state of a job."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from rayhaul.errors import Unavailable
from rayhaul.wire import AlertList, HostsPage, JobStateReport, PriorityRequest, QueueReport, ScalingPage
from serve_app import exposition
from serve_app.auth import Caller, Operator
from serve_app.bodies import parsed
from serve_app.examples import METRICS_TEXT
from serve_app.openapi import OPEN, json_body, problems_of, told
from serve_app.paging import Limit
from serve_app.replica import PathId, replica_of
from serve_app.views import alert_list, host_view, job_state_report, queue_report, reply, scaling_view

routes = APIRouter(tags=["operations"])

_NOT_READY_RETRY_S = 2.0


@routes.get("/livez", responses=told("It serves.", application_json={"status": "alive"}), openapi_extra=OPEN)
async def live() -> Response:
    """Say that this process serves."""
    return JSONResponse({"status": "alive"})


@routes.get(
    "/readyz",
    responses=told("Jobs can be taken and carried out.", application_json={"status": "ready"}) | problems_of(503),
    openapi_extra=OPEN,
)
async def ready(request: Request) -> Response:
    """Say whether jobs can be taken and carried out."""
    if not await replica_of(request).plane.ready():
        raise Unavailable("the ledger cannot be written, or no agent is online", retry_after_s=_NOT_READY_RETRY_S)
    return JSONResponse({"status": "ready"})


@routes.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text, or OpenMetrics with exemplars where `Accept` asks for it.",
            "content": {
                "text/plain": {"example": METRICS_TEXT},
                "application/openmetrics-text": {"example": f"{METRICS_TEXT}# EOF\n"},
            },
        },
        **problems_of(401, 503),
    },
)
async def metrics(request: Request, caller: Caller) -> Response:  # noqa: ARG001 - any key may read them
    """Show what the whole cluster has counted."""
    replica = replica_of(request)
    summed = await replica.plane.metrics(replica.name, replica.meter.snapshot())
    media = exposition.media_type(request.headers.get("accept", ""))
    # Not as `media_type`: Starlette would add a charset to what has one.
    return Response(exposition.exposition(summed, media), headers={"Content-Type": media, "Vary": "Accept"})


@routes.get("/alerts", response_model=AlertList, responses=problems_of(401, 503))
async def alerts(request: Request, caller: Caller) -> Response:  # noqa: ARG001 - any key may read them
    """Show every alert rule with its state: what holds now, since when, and what to do about it."""
    return reply(alert_list(await replica_of(request).plane.alerts()))


@routes.get("/scaling", response_model=ScalingPage, responses=problems_of(401, 403, 422, 503))
async def scaling(request: Request, operator: Operator, *, limit: Limit = 50) -> Response:  # noqa: ARG001
    """Show the newest decisions about the number of agents, and what each was made from. Operators only."""
    found = await replica_of(request).ledger.scaling(limit)
    return reply(ScalingPage(decisions=[scaling_view(record) for record in found]))


@routes.get("/hosts", response_model=HostsPage, responses=problems_of(401, 503))
async def hosts(request: Request, caller: Caller) -> Response:
    """Show the origin hosts in use, how many connections the cluster may have there, and which ask to be left alone.

    Operators see all of them, users those that their running jobs use.
    """
    found = await replica_of(request).plane.hosts(caller)
    return reply(HostsPage(hosts=[host_view(host) for host in found]))


@routes.get("/queue", response_model=QueueReport, responses=problems_of(401, 503))
async def queue(request: Request, caller: Caller) -> Response:  # noqa: ARG001 - any key may read it
    """Show how many jobs wait, by priority, and how long the oldest has waited."""
    return reply(queue_report(await replica_of(request).plane.queue()))


@routes.post(
    "/queue/pause",
    response_model=QueueReport,
    responses=problems_of(400, 401, 403, 413, 422, 503),
    openapi_extra=json_body(PriorityRequest),
)
async def pause_queue(request: Request, operator: Operator) -> Response:  # noqa: ARG001 - the check is the use
    """Start no more jobs of a priority; those that run go on. It holds until it is resumed. Operators only."""
    return await _set_paused(request, paused=True)


@routes.post(
    "/queue/resume",
    response_model=QueueReport,
    responses=problems_of(400, 401, 403, 413, 422, 503),
    openapi_extra=json_body(PriorityRequest),
)
async def resume_queue(request: Request, operator: Operator) -> Response:  # noqa: ARG001 - the check is the use
    """Go on starting the jobs of a priority. Operators only."""
    return await _set_paused(request, paused=False)


async def _set_paused(request: Request, *, paused: bool) -> Response:
    replica = replica_of(request)
    asked = await parsed(request, PriorityRequest)
    return reply(queue_report(await replica.finish(replica.plane.set_paused(asked.priority, paused=paused))))


@routes.get("/internal/jobs/{job_id}/state", response_model=JobStateReport, responses=problems_of(401, 403, 404, 503))
async def job_state(request: Request, operator: Operator, job_id: PathId) -> Response:  # noqa: ARG001
    """Show a job as the scheduler sees it: its leases, its upload, why it does not run. Operators only."""
    replica = replica_of(request)
    state = await replica.plane.job_state(job_id)
    await replica.live.refresh()
    return reply(job_state_report(state, replica.live.of(job_id), bucket=replica.links.bucket))
