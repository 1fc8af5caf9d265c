"""For those who run the cluster: health, metrics, the queue, the agents, and the page that says what this is."""

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from rayhaul.errors import NotFound, Unavailable
from rayhaul.wire import AgentsPage, CapacityView, QueueReport
from serve_app import exposition
from serve_app.auth import Caller, Operator
from serve_app.openapi import OPEN, problems_of
from serve_app.replica import replica_of
from serve_app.views import agent_view, queue_report, reply

routes = APIRouter(tags=["operations"])

_NOT_READY_RETRY_S = 2.0

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Rayhaul</title>
<style>body{font:16px/1.5 system-ui;max-width:40em;margin:4em auto;padding:0 1em}</style>
<h1>Rayhaul</h1>
<p>A download cluster: ask for a URL, and agents fetch it in parallel ranges and stream it part by part into your
bucket, verified before it is published.</p>
<ul>
<li><a href="/docs">The API, to try out</a></li>
<li><a href="/openapi.json">Its OpenAPI document</a></li>
<li><a href="/readyz">Is it ready?</a></li>
</ul>
</html>
"""


@routes.get("/livez", openapi_extra=OPEN)
async def live() -> Response:
    """Say that this process serves."""
    return JSONResponse({"status": "alive"})


@routes.get("/readyz", responses=problems_of(503), openapi_extra=OPEN)
async def ready(request: Request) -> Response:
    """Say whether jobs can be taken and carried out."""
    if not await replica_of(request).plane.ready():
        raise Unavailable("the ledger cannot be written, or no agent is online", retry_after_s=_NOT_READY_RETRY_S)
    return JSONResponse({"status": "ready"})


@routes.get(
    "/metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus text.", "content": {"text/plain": {}}}, **problems_of(401, 503)},
)
async def metrics(request: Request, caller: Caller) -> Response:  # noqa: ARG001 - any key may read them
    """Show what the whole cluster has counted."""
    replica = replica_of(request)
    summed = await replica.plane.metrics(replica.name, replica.meter.snapshot())
    return Response(exposition.exposition(summed), media_type=exposition.MEDIA_TYPE)


@routes.get("/queue", response_model=QueueReport, responses=problems_of(401, 503))
async def queue(request: Request, caller: Caller) -> Response:  # noqa: ARG001 - any key may read it
    """Show how many jobs wait, by priority, and how long the oldest has waited."""
    return reply(queue_report(await replica_of(request).plane.queue()))


@routes.get("/agents", response_model=AgentsPage, responses=problems_of(401, 403, 503))
async def list_agents(request: Request, operator: Operator) -> Response:  # noqa: ARG001 - the check is the use
    """List the agents and how much of each is in use. Operators only."""
    agents = await replica_of(request).plane.agents()
    return reply(AgentsPage(agents=[agent_view(agent) for agent in agents]))


@routes.get("/agents/{agent}", response_model=CapacityView, responses=problems_of(401, 403, 404, 503))
async def show_agent(request: Request, operator: Operator, agent: str) -> Response:  # noqa: ARG001
    """Show one agent. Operators only."""
    for known in await replica_of(request).plane.agents():
        if known.agent == agent:
            return reply(agent_view(known))
    raise NotFound


@routes.get("/", include_in_schema=False)
async def page() -> Response:
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"})
