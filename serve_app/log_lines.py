"""The log lines of the whole cluster, for operators: users' lines tell of other users."""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from starlette.responses import Response

from actors.log_files import ClusterLines
from rayhaul.errors import NotFound
from rayhaul.log_lines import Wanted
from rayhaul.wire import LogsPage
from serve_app.auth import Operator
from serve_app.openapi import problems_of
from serve_app.replica import Replica, replica_of
from serve_app.views import reply

routes = APIRouter(tags=["operations"])

LINES_MAX = 10_000

_Level = Literal["debug", "info", "warn", "error"]


def _id(whose: str) -> FieldInfo:
    told: FieldInfo = Query(
        description=f"Lines of this {whose} alone.", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$"
    )
    return told


def _written_as_a_time(text: str) -> str:
    """Raises: ValueError for what is no date and time; pydantic alone would take a number for seconds."""
    if not _TIME.match(text):
        raise ValueError("a time is written as in RFC 3339")
    return text


_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:")
_Since = Annotated[datetime, BeforeValidator(_written_as_a_time)]


@routes.get("/logs", response_model=LogsPage, responses=problems_of(401, 403, 422, 503))
async def logs(
    request: Request,
    operator: Operator,
    *,
    job_id: Annotated[str | None, Query(alias="jobId"), _id("job")] = None,
    correlation_id: Annotated[str | None, Query(alias="correlationId"), _id("correlation id")] = None,
    agent_id: Annotated[str | None, Query(alias="agentId"), _id("agent")] = None,
    level: Annotated[_Level, Query(description="From this one up.")] = "debug",
    ray: Annotated[_Level, Query(description="Lines of Ray's own, from this one up.")] = "warn",
    since: Annotated[_Since | None, Query(description="Lines from then on; RFC 3339.")] = None,
    limit: Annotated[int, Query(ge=1, le=LINES_MAX, description="The newest of them, at most.")] = 1000,
) -> Response:
    """Gather log lines from all nodes: the newest `limit` that fit, oldest first. Operators only.

    With a job also those of the request that asked for it.
    """
    replica = replica_of(request)
    if job_id is not None and correlation_id is None:
        correlation_id = await _correlation_of(replica, operator, job_id)
    wanted = Wanted(
        job_id=job_id,
        correlation_id=correlation_id,
        agent_id=agent_id,
        level=level,
        ray_level=ray,
        # Without a zone it is UTC, as all times here.
        since=since.replace(tzinfo=since.tzinfo or UTC) if since else None,
    )
    return reply(_page(await replica.logs.read(wanted, limit)))


async def _correlation_of(replica: Replica, operator: Operator, job_id: str) -> str | None:
    """Return the job's correlation id; None where the ledger does not know the job any more."""
    try:
        return (await replica.ledger.job(operator, job_id)).correlation_id
    except NotFound:
        return None


def _page(found: ClusterLines) -> LogsPage:
    return LogsPage(
        lines=list(found.lines),
        is_cut=found.is_cut,
        nodes_count=found.nodes_count,
        nodes_silent=found.nodes_silent,
    )
