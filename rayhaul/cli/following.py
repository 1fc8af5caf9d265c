"""Follows many jobs to their ends, a screenful at a time."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rayhaul.client.errors import ClientError, JobCancelled, JobFailed
from rayhaul.wire import EventView, JobView

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient

#: Jobs followed at once: what fits a screen, and a small part of the streams that a cluster takes.
FOLLOWED_MAX = 20


class Display(Protocol):
    """Shows people how far the jobs are."""

    def begin(self, job_id: str) -> None: ...

    def show(self, event: EventView) -> None: ...

    def end(self, job: JobView) -> None: ...


async def follow(client: "AsyncClient", job_ids: Sequence[str], display: Display) -> Mapping[str, JobView]:
    """Return each job as it ended, completed or not.

    Jobs start about in the order they were submitted, so the first ones are the ones to look at; a later one that has
    ended meanwhile costs one question. Raises: ClientError.
    """
    pending = iter(job_ids)
    ended: dict[str, JobView] = {}

    async def follow_some() -> None:
        for job_id in pending:
            display.begin(job_id)
            ended[job_id] = await _end_of(client, job_id, display)
            display.end(ended[job_id])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(FOLLOWED_MAX, len(job_ids))):
                group.create_task(follow_some())
    except* ClientError as errors:
        # One reason is enough: mostly the cluster is gone, and they all say so.
        raise_from = errors
    else:
        return ended
    raise _first(raise_from)


def _first(errors: BaseExceptionGroup[ClientError]) -> ClientError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _end_of(client: "AsyncClient", job_id: str, display: Display) -> JobView:
    try:
        return await client.wait(job_id, on_event=display.show)
    except (JobFailed, JobCancelled) as ended:
        return ended.job
