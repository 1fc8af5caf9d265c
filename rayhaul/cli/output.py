"""What is printed, and where: results on stdout, everything said to people besides on stderr.

Laws of this file:
1. With `--json` there is nothing on stdout but JSON in the wire's own shape.
2. Names and messages come from strangers: what could steer a terminal is taken out before it is shown.
3. Without a terminal nothing is cut, wrapped or coloured.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayhaul import units
from rayhaul.units import duration, size
from rayhaul.wire import ErrorView, JobView, ProgressView

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

#: Wide enough that no row is wrapped where no terminal says how wide it is.
_PIPE_COLUMNS = 1000

#: With all its facts a job needs this many columns, and some for its name.
_WIDE_COLUMNS = 120

_STYLES = {
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
    "paused": "yellow",
    "downloading": "cyan",
    "uploading": "cyan",
}


def plain(text: object) -> str:
    r"""Return the text without what could steer a terminal.

    >>> plain("a\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(character if character.isprintable() else "\ufffd" for character in str(text))


def percent(progress: ProgressView) -> str:
    """Return how far it is, rounded down: 100% is the end and nothing else."""
    return units.percent(progress.bytes, progress.bytes_total)


def moment(when: datetime | None) -> str:
    """Return a time in this machine's zone."""
    return when.astimezone().isoformat(sep=" ", timespec="seconds") if when else ""


def status_text(status: str) -> Text:
    return Text(status, style=_STYLES.get(status, ""))


def name_of(job: JobView) -> str:
    """Return what people know the file by."""
    return plain(job.filename or job.url.rstrip("/").rpartition("/")[2] or job.url)


def why(error: ErrorView) -> str:
    return plain(f"{error.code}: {error.message}")


def print_json(value: BaseModel | Mapping[str, Any]) -> None:
    """Print one JSON document on one line."""
    typer.echo(json.dumps(jsonable(value), ensure_ascii=False))


def jsonable(value: Any) -> Any:
    """Return the value as the wire has it."""
    match value:
        case BaseModel():
            return value.model_dump(mode="json", by_alias=True)
        case Mapping():
            return {name: jsonable(inner) for name, inner in value.items()}
        case str():
            return value
        case Sequence():
            return [jsonable(inner) for inner in value]
    return value


def console() -> Console:
    """Return the console for results."""
    return (
        Console(highlight=False, markup=False)
        if sys.stdout.isatty()
        else Console(highlight=False, markup=False, width=_PIPE_COLUMNS, no_color=True)
    )


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table; the columns named in `right` hold numbers.

    Where it is too wide for a terminal the last column goes over several lines; the others, ids among them, stay whole.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    made.columns[-1].no_wrap = False
    made.columns[-1].overflow = "fold"
    return made


def facts_table(facts: Sequence[tuple[str, str]]) -> Table:
    """Return names and values without a header; what has no value is left out."""
    made = table("", "")
    made.show_header = False
    for name, value in facts:
        if value:
            made.add_row(name, Text(plain(value)))
    return made


def jobs_table(jobs: Sequence[JobView], now: datetime, columns_max: int) -> Table:
    """Return the table of jobs, with fewer facts where the terminal has fewer columns."""
    is_wide = columns_max >= _WIDE_COLUMNS
    names = ["ID", "STATUS", "DONE", "SIZE", *(["SPEED"] if is_wide else []), "LEFT", *(["AGE"] if is_wide else [])]
    made = table(*names, "NAME", right=("DONE", "SIZE", "SPEED", "LEFT"))
    made.columns[0].min_width = max((len(job.id) for job in jobs), default=0)
    for job in jobs:
        progress = job.progress
        cells: dict[str, str | Text] = {
            "ID": job.id,
            "STATUS": status_text(job.status),
            "DONE": percent(progress),
            "SIZE": size(progress.bytes_total),
            "SPEED": f"{size(progress.bytes_per_second)}/s" if progress.bytes_per_second else "",
            "LEFT": duration(progress.eta_seconds),
            "AGE": duration(max(0.0, (now - job.created_at).total_seconds())),
        }
        made.add_row(*(cells[name] for name in names), Text(name_of(job)))
    return made


def print_jobs(jobs: Sequence[JobView]) -> None:
    screen = console()
    screen.print(jobs_table(jobs, datetime.now(UTC), screen.width))


def say(text: str) -> None:
    """Tell people something that is no result."""
    typer.echo(text, err=True)


def complain(text: object) -> None:
    say(f"rayhaul: {plain(text)}")
