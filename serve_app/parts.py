"""The parts of a job by agent: who brought which, and who is to bring the rest."""

from collections.abc import Mapping, Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from rayhaul.job import Job
from rayhaul.lease import UploadSession
from rayhaul.parts import JobParts, PartsRun
from rayhaul.policy.planning import parts_count
from rayhaul.wire import JobPartsView, PartsBrought, PartsToCome, StripeView
from serve_app.auth import Caller
from serve_app.openapi import problems_of
from serve_app.replica import PathId, replica_of
from serve_app.views import reply

routes = APIRouter(tags=["jobs"])


@routes.get("/jobs/{job_id}/parts", response_model=JobPartsView, responses=problems_of(401, 404, 503))
async def job_parts(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Show which agent brought which parts of a job, and which is to bring the rest."""
    ledger = replica_of(request).ledger
    job = await ledger.job(caller, job_id)
    return reply(parts_view(job, await ledger.parts_of_job(caller, job_id)))


def parts_view(job: Job, found: JobParts) -> JobPartsView:
    by_agent = runs_by_agent(job, found)
    brought = [_brought(agent, runs) for agent, runs in by_agent.items()]
    return JobPartsView(
        job_id=job.id,
        parts_done=sum(one.parts for one in brought),
        parts_total=_total(found.session) if job.result is None else job.result.parts_count,
        brought=brought,
        to_come=[
            PartsToCome(agent=lease.agent, stripe=StripeView(first_part=lease.first_part, end_part=lease.end_part))
            for lease in found.leases
        ],
    )


def runs_by_agent(job: Job, found: JobParts) -> Mapping[str | None, Sequence[PartsRun]]:
    """Return the runs of each agent, by their first parts.

    An object that came whole, without an upload's parts, is of the agent that had the job at the end: there was one.
    """
    runs = found.runs
    if not runs and job.result is not None and len(job.agents) == 1:
        whole = PartsRun(
            agent=job.agents[0],
            first_part=1,
            end_part=job.result.parts_count + 1,
            bytes_count=job.result.size_bytes,
        )
        runs = [whole]
    by_agent: dict[str | None, list[PartsRun]] = {}
    for run in runs:
        by_agent.setdefault(run.agent, []).append(run)
    return by_agent


def _brought(agent: str | None, runs: Sequence[PartsRun]) -> PartsBrought:
    return PartsBrought(
        agent=agent,
        parts=sum(run.parts_count for run in runs),
        bytes=sum(run.bytes_count for run in runs),
        numbers=",".join(run.numbers for run in runs),
    )


def _total(session: UploadSession | None) -> int | None:
    if session is None or session.size_bytes is None:
        return None
    return parts_count(session.size_bytes, session.part_bytes)
