"""`rayhaul import`: a list of any length becomes jobs, batch by batch; called again, it goes on where it ended."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rayhaul.cli.connect import Exit, UsageError, exit_of, with_client
from rayhaul.cli.get import Tags, pairs
from rayhaul.cli.output import Json, complain, print_json, say
from rayhaul.client.errors import BadRequest, ClientError
from rayhaul.client.fields import BATCH_JOBS, batch_idempotency_key, new_idempotency_key
from rayhaul.client.listing import Entry, ListError, ListFormat, check, fingerprint, format_of, read
from rayhaul.job import Priority

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient

#: How the API names a field of one job of a batch.
_FIELD = re.compile(r"jobs\.(\d+)\.?(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class _List:
    path: Path
    written_as: ListFormat
    #: Of every job that does not say its own.
    defaults: Mapping[str, Any]
    batch_jobs: int

    def entries(self, lines: Iterable[str]) -> Iterator[Entry]:
        for entry in read(lines, self.written_as):
            yield Entry(entry.line, {**self.defaults, **entry.fields})

    def check(self) -> int:
        """Return how many jobs it has. Raises: UsageError."""
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as lines:
                return check(self.entries(lines))
        except (ListError, UnicodeDecodeError) as error:
            raise UsageError(f"{self.path}: {error}") from error

    def idempotency_key(self) -> str:
        with self.path.open("rb") as content:
            return fingerprint(content, self.written_as, sorted(self.defaults.items()), self.batch_jobs)


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="One URL a line, or CSV or JSON lines with any field of a job.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ],
    *,
    written_as: Annotated[
        ListFormat | None, typer.Option("--format", help="How it is written; else the name's ending says.")
    ] = None,
    priority: Annotated[Priority | None, typer.Option(help="Of the jobs that do not say their own.")] = None,
    tag: Tags = None,
    batch_jobs: Annotated[int, typer.Option("--batch", help="Jobs of one request.", min=1, max=10_000)] = BATCH_JOBS,
    again: Annotated[bool, typer.Option("--again", help="Ask for all of it anew, though it was taken before.")] = False,
    only_check: Annotated[bool, typer.Option("--check", help="Check every line, and ask for nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Ask for all jobs of a list. Every line is checked before the first job is asked for.

    Where it was interrupted, call it again with the same list: for a day, what was taken is not taken twice.
    """
    said = {"priority": priority, "tags": pairs("--tag", tag, "=")}
    wanted = _List(
        path=file,
        written_as=written_as or format_of(file),
        defaults={name: value for name, value in said.items() if value},
        batch_jobs=batch_jobs,
    )
    count = wanted.check()
    if only_check:
        _tell({"checked": count}, f"{count} jobs, and every line is right", as_json=as_json)
        return
    key = new_idempotency_key() if again else wanted.idempotency_key()
    taken = [0]
    try:
        with_client(lambda client: _submit(client, wanted, key, count, taken, quiet=as_json))
    except KeyboardInterrupt:
        say(_how_far(taken[0], count))
        raise typer.Exit(Exit.INTERRUPTED) from None
    except ClientError as error:
        complain(error)
        say(_how_far(taken[0], count))
        raise typer.Exit(exit_of(error)) from error
    _tell({"submitted": count}, f"{count} jobs are taken; `rayhaul jobs` shows them", as_json=as_json)


def _tell(result: Mapping[str, int], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        typer.echo(text)


def _how_far(taken: int, count: int) -> str:
    return f"{taken} of {count} jobs were taken. The same command goes on from there."


async def _submit(client: "AsyncClient", wanted: _List, key: str, count: int, taken: list[int], *, quiet: bool) -> None:
    """`taken` holds how many jobs stand by now."""
    with wanted.path.open(encoding="utf-8-sig", newline="") as lines, _bar(count, quiet=quiet) as bar:
        entries = wanted.entries(lines)
        index = 0
        while batch := list(islice(entries, wanted.batch_jobs)):
            try:
                await client.submit_batch(
                    [entry.fields for entry in batch], idempotency_key=batch_idempotency_key(key, index)
                )
            except BadRequest as error:
                raise _with_lines(error, batch) from error
            index += 1
            taken[0] += len(batch)
            bar.advance(bar.task_ids[0], len(batch))


def _with_lines(error: BadRequest, batch: Sequence[Entry]) -> BadRequest:
    """Return the error in the words of the list: lines, not places in a batch."""
    fields = []
    for field in error.fields:
        found = _FIELD.fullmatch(str(field.get("field")))
        name = f"line {batch[int(found[1])].line} {found[2]}".rstrip() if found else field.get("field")
        fields.append({**field, "field": name})
    return BadRequest(error.code, error.status, error.detail, error.correlation_id, tuple(fields))


@contextmanager
def _bar(count: int, *, quiet: bool) -> Iterator[Progress]:
    bar = Progress(
        TextColumn("jobs taken"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
        disable=quiet or not sys.stderr.isatty(),
    )
    with bar:
        bar.add_task("", total=count)
        yield bar
