"""`rayhaul get`: from URLs to objects in the bucket, followed to the end."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayhaul.cli.connect import Exit, UsageError, exit_of, with_client
from rayhaul.cli.following import follow
from rayhaul.cli.output import Json, complain, jsonable, moment, plain, print_json, say, why
from rayhaul.cli.progress import display
from rayhaul.client.errors import ClientError
from rayhaul.client.torrent_files import each_file
from rayhaul.job import JobStatus, Priority
from rayhaul.redaction import redacted
from rayhaul.units import size
from rayhaul.wire import DownloadLink, JobView

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient

_ONE_URL_ONLY = ("key", "checksum", "filename", "mirrors")

Urls = Annotated[
    list[str],
    typer.Argument(
        help="What to fetch; so=0,2-4 in the link of a torrent is a job for each of these files.",
        metavar="URL",
        show_default=False,
    ),
]
Key = Annotated[str | None, typer.Option("-o", "--key", help="Object key wanted in the bucket.")]
Checksum = Annotated[
    str | None,
    typer.Option(
        help="Of the bytes: sha256, sha512, md5 (hex), crc64nvme, crc32c (base64).", metavar="ALGORITHM:VALUE"
    ),
]
ComputeSha256 = Annotated[
    bool, typer.Option("--compute-sha256", help="Have the SHA-256 in the receipt, also where none is given to compare.")
]
Mirrors = Annotated[list[str] | None, typer.Option("--mirror", help="The same file elsewhere; may be repeated.")]
Headers = Annotated[
    list[str] | None, typer.Option("--header", help="Sent to the source; may be repeated.", metavar="'NAME: VALUE'")
]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", help="Kept with a job; may be repeated.", metavar="NAME=VALUE")
]


def get(
    urls: Urls,
    *,
    key: Key = None,
    checksum: Checksum = None,
    compute_sha256: ComputeSha256 = False,
    mirror: Mirrors = None,
    priority: Annotated[Priority | None, typer.Option(help="Which jobs come first.")] = None,
    header: Headers = None,
    filename: Annotated[str | None, typer.Option(help="Name of the file, instead of the source's.")] = None,
    connections: Annotated[int | None, typer.Option(help="Connections to the source.", min=1, max=64)] = None,
    tag: Tags = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the jobs to their ends.")] = True,
    as_json: Json = False,
) -> None:
    """Fetch files into the bucket. Exits with 0 only when all of them are there."""
    fields = {
        "key": key,
        "checksum": checksum,
        "compute_sha256": compute_sha256 or None,
        "filename": filename,
        "mirrors": mirror,
        "priority": priority,
        "headers": pairs("--header", header, ":"),
        "connections": connections,
        "tags": pairs("--tag", tag, "="),
    }
    said = [name for name in _ONE_URL_ONLY if fields[name]]
    files = [file for url in urls for file in each_file(url)]
    if len(files) > 1 and said:
        raise UsageError(f"{', '.join(said)}: this is about one file, so give one URL")
    sources = [{**fields, "url": url} for url in files]
    known: list[str] = []
    try:
        code = with_client(lambda client: _get(client, sources, known, wait=wait, as_json=as_json))
    except KeyboardInterrupt:
        if known:
            say(f"The jobs go on. To stop them: rayhaul cancel {' '.join(known)}")
        raise typer.Exit(Exit.INTERRUPTED) from None
    except ClientError as err:
        if known:
            complain(err)
            say(f"The jobs go on: {' '.join(known)}")
            raise typer.Exit(exit_of(err)) from err
        raise
    raise typer.Exit(code)


def pairs(option: str, texts: Sequence[str] | None, separator: str) -> Mapping[str, str] | None:
    """Return what was said with an option that may be repeated; None where it was not. Raises: UsageError."""
    pairs: dict[str, str] = {}
    for text in texts or ():
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            # Not the text itself: a header's value may be secret.
            raise UsageError(f"{option} is written NAME{separator}VALUE")
        pairs[name.strip()] = value.strip()
    return pairs or None


async def _get(
    client: "AsyncClient", sources: Sequence[Mapping[str, Any]], known: list[str], *, wait: bool, as_json: bool
) -> Exit:
    """`known` is filled with the jobs' ids once there are any."""
    known += await _submit(client, sources)
    if not wait:
        if as_json:
            print_json({"jobs": [{"id": job_id} for job_id in known]})
        else:
            typer.echo("\n".join(known))
        return Exit.OK
    names = {job_id: _name(source["url"]) for job_id, source in zip(known, sources, strict=True)}
    with display(names, quiet=as_json) as shown:
        ended = await follow(client, known, shown)
    jobs = [ended[job_id] for job_id in known]
    _print(jobs, await _links(client, jobs), as_json=as_json)
    return _exit(jobs)


async def _submit(client: "AsyncClient", sources: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    if len(sources) > 1:
        return await client.submit_many(sources)
    return [(await client.submit(**sources[0])).id]


async def _links(client: "AsyncClient", jobs: Sequence[JobView]) -> Mapping[str, DownloadLink]:
    links = {}
    for job in jobs:
        if job.status is JobStatus.COMPLETED:
            # The object is there, whether or not a link to it can be had now.
            with suppress(ClientError):
                links[job.id] = await client.download_link(job.id)
    return links


def _name(url: str) -> str:
    bare = redacted(url)
    return bare.rstrip("/").rpartition("/")[2] or bare


def _print(jobs: Sequence[JobView], links: Mapping[str, DownloadLink], *, as_json: bool) -> None:
    if as_json:
        print_json({"jobs": [{**jsonable(job), "download": links.get(job.id)} for job in jobs]})
    for job in jobs:
        if job.status is not JobStatus.COMPLETED:
            complain(f"{job.id} {job.status}" + (f": {why(job.error)}" if job.error else ""))
        elif not as_json and job.result is not None:
            typer.echo(f"{plain(job.result.bucket)}/{plain(job.result.key)}  {size(job.result.size_bytes)}")
            if link := links.get(job.id):
                typer.echo(f"  {plain(link.url)}  (until {moment(link.expires_at)})")


def _exit(jobs: Sequence[JobView]) -> Exit:
    statuses = {job.status for job in jobs}
    if JobStatus.FAILED in statuses:
        return Exit.FAILED
    return Exit.CANCELLED if JobStatus.CANCELLED in statuses else Exit.OK
