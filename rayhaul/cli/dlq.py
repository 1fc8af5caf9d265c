"""`rayhaul dlq`: the jobs that ran out of deliveries."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from rayhaul.cli.connect import Exit, UsageError, exit_of, with_client
from rayhaul.cli.groups import shows_alone
from rayhaul.cli.jobs import Ids, act_on_jobs
from rayhaul.cli.output import Json, complain, console, name_of, plain, print_json, say, table, why
from rayhaul.client.errors import ClientError, Conflict, ConnectionFailed, NotFound
from rayhaul.client.fields import PAGE_JOBS
from rayhaul.units import duration
from rayhaul.wire import DeadLetterView, JobView

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient

#: Replays asked for at once: the scheduler takes them in one turn, and a turn costs one write to disk.
_REPLAYS_AT_ONCE = 20

#: Somebody else replayed it, or deleted it, between our look and our word.
_GONE = (Conflict, NotFound)

Limit = Annotated[int, typer.Option(help="The newest so many.", min=1)]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def dlq(context: typer.Context, *, limit: Limit = 20, as_json: Json = False) -> None:
    """Dead letters: jobs that ran out of deliveries; an operator sees everybody's.

    Without a command they are listed, newest first.
    """
    if shows_alone(context, as_json=as_json):
        list_dead_letters(limit=limit, as_json=as_json)


@app.command("list")
def list_dead_letters(*, limit: Limit = 20, as_json: Json = False) -> None:
    """List dead letters, newest first, and why each was given up."""
    found = with_client(lambda client: _newest(client, limit))
    if as_json:
        print_json({"jobs": found})
    else:
        _print(found, datetime.now(UTC))


async def _newest(client: "AsyncClient", limit: int) -> Sequence[DeadLetterView]:
    found: list[DeadLetterView] = []
    async with aclosing(client.iter_dead_letters(page_size=min(limit, PAGE_JOBS))) as listed:
        async for job in listed:
            found.append(job)
            if len(found) == limit:
                break
    return found


def _print(jobs: Sequence[DeadLetterView], now: datetime) -> None:
    numbers = ("SINCE", "ATTEMPTS", "REQUEUES")
    rows = table("ID", *numbers, "USER", "NAME", "WHY", right=numbers)
    rows.columns[0].min_width = max((len(job.id) for job in jobs), default=0)
    for job in jobs:
        since = job.dead_lettered_at
        rows.add_row(
            job.id,
            f"{duration(max(0.0, (now - since).total_seconds()))} ago" if since else "",
            str(job.attempt),
            str(job.requeues),
            Text(plain(job.user_id)),
            Text(name_of(job)),
            Text(why(job.error) if job.error else ""),
        )
    console().print(rows)


@app.command()
def replay(
    job_ids: Annotated[list[str] | None, typer.Argument(help="Ids of jobs.", metavar="ID", show_default=False)] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that you may see, instead of ids.")] = False,
    as_json: Json = False,
) -> None:
    """Give dead letters another life: they go back to the queue with all their attempts."""
    if bool(job_ids) == every:
        raise UsageError("give the ids of jobs, or --all")
    if job_ids:
        act_on_jobs(job_ids, lambda client, job_id: client.replay(job_id), as_json=as_json)
    else:
        raise typer.Exit(with_client(lambda client: _replay_all(client, as_json=as_json)))


async def _replay_all(client: "AsyncClient", *, as_json: bool) -> Exit:
    """Replay page by page, down the ids: a job that dies again meanwhile is not met a second time."""
    done: list[JobView] = []
    refused: list[ClientError] = []
    try:
        async for job_ids in _pages(client):
            answers = await _replay_some(client, job_ids)
            for job_id, answer in zip(job_ids, answers, strict=True):
                if isinstance(answer, JobView):
                    done.append(answer)
                    if not as_json:
                        typer.echo(f"{job_id} {answer.status}")
                elif not isinstance(answer, _GONE):
                    refused.append(answer)
                    complain(f"{job_id}: {answer}")
            _raise_lost(answers)
    finally:
        # Whatever ends it: what was done is told.
        if as_json and done:
            print_json({"jobs": done})
    if as_json and not done:
        print_json({"jobs": []})
    if not as_json:
        say(f"{len(done)} replayed.")
    return exit_of(refused[0]) if refused else Exit.OK


async def _pages(client: "AsyncClient") -> AsyncIterator[Sequence[str]]:
    """Yield the ids of all dead letters, as many at once as are replayed at once."""
    cursor: str | None = None
    while True:
        page = await client.dead_letters(limit=_REPLAYS_AT_ONCE, cursor=cursor)
        yield [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            return


async def _replay_some(client: "AsyncClient", job_ids: Sequence[str]) -> Sequence[JobView | ClientError]:
    async def replay(job_id: str) -> JobView | ClientError:
        try:
            return await client.replay(job_id)
        except ClientError as err:
            return err

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(replay(job_id)) for job_id in job_ids]
    return [task.result() for task in tasks]


def _raise_lost(answers: Sequence[JobView | ClientError]) -> None:
    """Raises: ConnectionFailed where the cluster is gone: it is of no use to go on."""
    for answer in answers:
        if isinstance(answer, ConnectionFailed):
            raise answer


@app.command()
def delete(job_ids: Ids, *, as_json: Json = False) -> None:
    """Take jobs out of the dead letters; they stay failed."""
    act_on_jobs(job_ids, lambda client, job_id: client.discard(job_id), as_json=as_json)
