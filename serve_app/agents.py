"""The agents, for operators: how much they carry, what they do for a job, and how to make them stop."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from rayhaul.errors import NotFound
from rayhaul.wire import AgentJobReport, AgentsPage, CapacityView, JobView, StopRequest
from serve_app.auth import Operator
from serve_app.bodies import parsed
from serve_app.openapi import json_body, problems_of
from serve_app.replica import PathId, replica_of
from serve_app.views import agent_job_report, agent_view, job_view, reply

routes = APIRouter(tags=["agents"])


@routes.get("/agents", response_model=AgentsPage, responses=problems_of(401, 403, 503))
async def list_agents(request: Request, operator: Operator) -> Response:  # noqa: ARG001 - the check is the use
    """List the agents and how much of each is in use. Operators only."""
    agents = await replica_of(request).plane.agents()
    return reply(AgentsPage(agents=[agent_view(agent) for agent in agents]))


@routes.get("/agents/{agent}", response_model=CapacityView, responses=problems_of(401, 403, 404, 503))
async def show_agent(request: Request, operator: Operator, agent: PathId) -> Response:  # noqa: ARG001
    """Show one agent. Operators only."""
    for known in await replica_of(request).plane.agents():
        if known.agent == agent:
            return reply(agent_view(known))
    raise NotFound


@routes.get("/agents/{agent}/status/{job_id}", response_model=AgentJobReport, responses=problems_of(401, 403, 404, 503))
async def show_agent_job(request: Request, operator: Operator, agent: PathId, job_id: PathId) -> Response:  # noqa: ARG001
    """Show what an agent does for a job; 404 where it holds no lease of it. Operators only."""
    report = agent_job_report(agent, await replica_of(request).plane.job_state(job_id))
    if report is None:
        raise NotFound
    return reply(report)


@routes.post(
    "/agents/{agent}/stop",
    response_model=JobView,
    responses=problems_of(400, 401, 403, 404, 413, 422, 503),
    openapi_extra=json_body(StopRequest),
)
async def stop_agent_job(request: Request, operator: Operator, agent: PathId) -> Response:  # noqa: ARG001
    """Stop what an agent does for a job and hand the job back to the queue, uncharged. Operators only."""
    replica = replica_of(request)
    asked = await parsed(request, StopRequest)
    job = await replica.finish(replica.plane.stop_job(agent, asked.job_id))
    return reply(job_view(job, replica.live.of(job.id), bucket=replica.links.bucket))


@routes.post("/agents/{agent}/drain", response_model=CapacityView, responses=problems_of(401, 403, 404, 503))
async def drain_agent(request: Request, operator: Operator, agent: PathId) -> Response:  # noqa: ARG001
    """Let an agent finish what it holds and exit; doing it again changes nothing. Operators only."""
    replica = replica_of(request)
    return reply(agent_view(await replica.finish(replica.plane.drain(agent))))
