"""`rayhaul jobs`, `job`, and what is done to jobs: cancel, pause, resume, retry."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from rayhaul.cli.connect import Exit, exit_of, with_client
from rayhaul.cli.leases import print_state
from rayhaul.cli.output import (
    Json,
    complain,
    console,
    facts_table,
    jobs_table,
    moment,
    percent,
    plain,
    print_jobs,
    print_json,
    table,
    why,
)
from rayhaul.client.errors import ApiError
from rayhaul.client.fields import PAGE_JOBS
from rayhaul.job import JobStatus
from rayhaul.units import duration, size
from rayhaul.wire import EventView, JobView, ReceiptView

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient

REFRESH_S = 1.0

Ids = Annotated[list[str], typer.Argument(help="Ids of jobs.", metavar="ID", show_default=False)]


def jobs(
    *,
    status: Annotated[JobStatus | None, typer.Option(help="Only those in this state.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only those with this tag.", metavar="NAME=VALUE")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1)] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on showing them until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """List jobs, newest first, with their progress as it is now."""

    async def newest(client: "AsyncClient") -> Sequence[JobView]:
        return await _newest(client, status, tag, limit)

    if follow:
        with_client(lambda client: _follow(lambda: newest(client), as_json=as_json))
        return
    found = with_client(newest)
    if as_json:
        print_json({"jobs": found})
    else:
        print_jobs(found)


async def _newest(client: "AsyncClient", status: JobStatus | None, tag: str | None, limit: int) -> Sequence[JobView]:
    found: list[JobView] = []
    async with aclosing(client.iter_jobs(status=status, tag=tag, page_size=min(limit, PAGE_JOBS))) as listed:
        async for job in listed:
            found.append(job)
            if len(found) == limit:
                break
    return found


async def _follow(newest: Callable[[], Awaitable[Sequence[JobView]]], *, as_json: bool) -> None:
    """Show the jobs again and again: all of them on a terminal, what has changed without one."""
    screen = console()
    if screen.is_terminal and not as_json:
        with Live(console=screen, auto_refresh=False) as live:
            while True:
                live.update(jobs_table(await newest(), datetime.now(UTC), screen.width), refresh=True)
                await asyncio.sleep(REFRESH_S)
    told: dict[str, tuple[str, str]] = {}
    while True:
        found = await newest()
        changed = [job for job in found if told.get(job.id) != _state(job)]
        told = {job.id: _state(job) for job in found}
        for job in reversed(changed):
            if as_json:
                print_json(job)
            else:
                typer.echo(" ".join(word for word in (job.id, *_state(job), plain(job.filename or "")) if word))
        await asyncio.sleep(REFRESH_S)


def _state(job: JobView) -> tuple[str, str]:
    return job.status.value, percent(job.progress)


def job(
    job_id: Annotated[str, typer.Argument(help="Id of the job.", metavar="ID", show_default=False)],
    *,
    state: Annotated[
        bool, typer.Option("--state", help="As the scheduler sees it: leases, upload, why it waits. Operators only.")
    ] = False,
    receipt: Annotated[
        bool, typer.Option("--receipt", help="What a completed job moved, and by what it was compared.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one job and what happened to it."""
    if receipt:
        kept = with_client(lambda client: client.receipt(job_id))
        print_json(kept) if as_json else console().print(facts_table(_receipt_facts(kept)))
        return
    if state:
        seen = with_client(lambda client: client.job_state(job_id))
        print_json(seen) if as_json else print_state(seen)
        return
    if as_json:
        print_json(with_client(lambda client: client.get(job_id)))
        return

    async def look(client: "AsyncClient") -> tuple[JobView, Sequence[EventView]]:
        return await client.get(job_id), await client.history(job_id)

    found, history = with_client(look)
    events = table("WHEN", "EVENT", "WHAT")
    for event in history:
        events.add_row(moment(event.ts), event.event, Text(_what(event)))
    screen = console()
    screen.print(facts_table(_facts(found)))
    screen.print()
    screen.print(events)


def _receipt_facts(kept: ReceiptView) -> Sequence[tuple[str, str]]:
    validator = kept.validator
    shown = () if validator is None else (validator.etag, validator.last_modified, validator.digest)
    return (
        ("job", kept.job_id),
        ("source", kept.source_url),
        ("fetched from", kept.final_url or ""),
        ("read from", ", ".join(f"{source.url} ({source.bytes} bytes)" for source in kept.sources)),
        ("copied from", kept.copied_from or ""),
        ("version", ", ".join(text for text in shown if text)),
        ("object", f"{kept.bucket}/{kept.key}"),
        ("size", f"{kept.size_bytes} bytes in {kept.parts} parts"),
        ("etag", kept.etag),
        ("sha256", kept.sha256 or ""),
        ("crc64nvme", kept.crc64nvme or ""),
        ("compared with", kept.checksum or ""),
        ("created", moment(kept.times.created_at)),
        ("started", moment(kept.times.started_at)),
        ("completed", moment(kept.times.completed_at)),
        ("agents", ", ".join(kept.agents)),
        ("brought by", ", ".join(f"{one.agent or 'not known'} ({one.bytes} bytes)" for one in kept.brought_by)),
        ("attempt", f"{kept.attempt}, requeued {kept.requeues} times"),
    )


def _facts(job: JobView) -> Sequence[tuple[str, str]]:
    progress = job.progress
    done = (f"{size(progress.bytes)} of {size(progress.bytes_total)}", percent(progress))
    rate = f"{size(progress.bytes_per_second)}/s" if progress.bytes_per_second else ""
    left = duration(progress.eta_seconds)
    return (
        ("id", job.id),
        ("status", job.status),
        ("why", why(job.error) if job.error else ""),
        ("url", job.url),
        ("file", job.filename or ""),
        ("object", f"{job.destination.bucket}/{job.destination.key}" if job.destination.key else ""),
        ("done", ", ".join(word for word in (*done, rate, f"{left} left" if left else "") if word)),
        ("parts", f"{progress.parts_done} of {progress.parts_total}" if progress.parts_total else ""),
        ("priority", job.priority),
        ("tags", ", ".join(f"{name}={value}" for name, value in job.tags.items())),
        ("checksum", job.checksum or ""),
        ("sha256", (job.result.sha256 or "") if job.result else ""),
        ("crc64nvme", (job.result.crc64nvme or "") if job.result else ""),
        ("attempt", str(job.attempt)),
        ("requeues", str(job.requeues) if job.requeues else ""),
        ("agents", ", ".join(job.agents)),
        ("user", job.user_id),
        ("correlation id", job.correlation_id),
        ("created", moment(job.created_at)),
        ("started", moment(job.started_at)),
        ("ended", moment(job.completed_at)),
        ("next attempt", moment(job.next_attempt_at)),
    )


def _what(event: EventView) -> str:
    """Return an event's payload on one line, without what stands on every event."""
    told = {name: value for name, value in event.payload.items() if name != "correlationId" and value is not None}
    return plain(", ".join(f"{name}={value}" for name, value in told.items()))


def cancel(job_ids: Ids, *, as_json: Json = False) -> None:
    """Stop jobs for good."""
    act_on_jobs(job_ids, lambda client, job_id: client.cancel(job_id), as_json=as_json)


def pause(job_ids: Ids, *, as_json: Json = False) -> None:
    """Stop jobs for now; what is in the bucket stays."""
    act_on_jobs(job_ids, lambda client, job_id: client.pause(job_id), as_json=as_json)


def resume(job_ids: Ids, *, as_json: Json = False) -> None:
    """Let paused jobs go on from where they were."""
    act_on_jobs(job_ids, lambda client, job_id: client.resume(job_id), as_json=as_json)


def retry(job_ids: Ids, *, as_json: Json = False) -> None:
    """Queue failed or cancelled jobs again."""
    act_on_jobs(job_ids, lambda client, job_id: client.retry(job_id), as_json=as_json)


def requeue(job_ids: Ids, *, as_json: Json = False) -> None:
    """Hand jobs back to the queue, whoever works on them; what is in the bucket stays. Operators only."""
    act_on_jobs(job_ids, lambda client, job_id: client.requeue(job_id), as_json=as_json)


def act_on_jobs(
    job_ids: Sequence[str], act: Callable[["AsyncClient", str], Awaitable[JobView]], *, as_json: bool
) -> None:
    """Do it to each job; one that refuses keeps none of the others from it."""

    async def act_on_all(client: "AsyncClient") -> tuple[Sequence[JobView], Sequence[tuple[str, ApiError]]]:
        done, refused = [], []
        for job_id in job_ids:
            try:
                done.append(await act(client, job_id))
            except ApiError as err:
                refused.append((job_id, err))
        return done, refused

    done, refused = with_client(act_on_all)
    if as_json:
        print_json({"jobs": done})
    else:
        for changed in done:
            typer.echo(f"{changed.id} {changed.status}")
    for job_id, err in refused:
        complain(f"{job_id}: {err}")
    raise typer.Exit(exit_of(refused[0][1]) if refused else Exit.OK)
