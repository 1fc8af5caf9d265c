"""`rayhaul trace`: where a job's time went, drawn from its history."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.output import Json, complain, console, plain, print_json, status_text, table
from rayhaul.units import duration
from rayhaul.waterfall import Stage, StageName, Waterfall, waterfall
from rayhaul.wire import timestamp

#: Of the bars: where no terminal says how wide it is, and at least.
_PIPE_BAR_COLUMNS = 60
_BAR_COLUMNS_MIN = 10
_BAR_STYLES = {
    StageName.DOWNLOADING: "cyan",
    StageName.UPLOADING: "green",
    StageName.METADATA: "blue",
    StageName.QUEUED: "yellow",
    StageName.WAITING: "magenta",
}


def trace(
    job_id: Annotated[str, typer.Argument(help="Id of the job.", metavar="ID", show_default=False)],
    *,
    as_json: Json = False,
) -> None:
    """Show where a job's time went: its stages and attempts, one below the other."""
    history = with_client(lambda client: client.history(job_id))
    # The cluster's clock may be ahead of this one's.
    now = max([datetime.now(UTC), *(event.ts for event in history)])
    found = waterfall(history, now)
    if found is None:
        complain(f"{job_id} has no history")
        raise typer.Exit(1)
    if as_json:
        print_json(_document(job_id, found, now))
    else:
        draw(console(), job_id, found, now)


def draw(screen: Console, job_id: str, found: Waterfall, now: datetime) -> None:
    """Print the waterfall as wide as the screen is."""
    total_s = found.seconds(now)
    attempts = max((stage.attempt or 0 for stage in found.stages), default=0)
    tries = f", {attempts} attempts" if attempts > 1 else ""
    said = f" {plain(job_id)}: {'in' if found.ended_at else 'for'} {span(total_s)}{tries}"
    screen.print(Text.assemble(status_text(found.status), said))
    screen.print()
    rows = [(_who(stage), span(stage.seconds(now)), _outcome(stage)) for stage in found.stages]
    screen.print(_table(found, rows, now, _bar_columns(screen, rows), block="#" if screen.options.ascii_only else "█"))


def _table(
    found: Waterfall, rows: Sequence[tuple[str, str, str]], now: datetime, bar_columns: int, *, block: str
) -> Table:
    made = table("STAGE", "TOOK", "", "", right=("TOOK",))
    for stage, (who, took, outcome) in zip(found.stages, rows, strict=True):
        before, length = place(found, stage, now, bar_columns)
        bar = Text(" " * before + block * length, style=_BAR_STYLES.get(stage.name, "dim"))
        made.add_row(Text(who), took, bar, Text(outcome))
    return made


def _bar_columns(screen: Console, rows: Sequence[tuple[str, str, str]]) -> int:
    """Return how wide bars may be so that no row is wrapped."""
    if not screen.is_terminal:
        return _PIPE_BAR_COLUMNS
    taken = sum(max((len(row[index]) for row in rows), default=0) + 2 for index in range(3))
    return max(_BAR_COLUMNS_MIN, screen.width - taken - 1)


def place(found: Waterfall, stage: Stage, now: datetime, columns: int) -> tuple[int, int]:
    """Return where a stage's bar begins and how long it is, in whole columns; every stage has one at least."""
    total_s = found.seconds(now)
    if total_s == 0:
        return 0, 1
    first = round(columns * max(0.0, (stage.began_at - found.began_at).total_seconds()) / total_s)
    first = min(first, columns - 1)
    return first, min(max(1, round(columns * stage.seconds(now) / total_s)), columns - first)


def span(seconds: float) -> str:
    """Return a time span for people who look for what was slow.

    >>> span(0.0042), span(0.34), span(7.25), span(61), span(7205)
    ('4 ms', '340 ms', '7.2 s', '1:01', '2:00:05')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)


def _who(stage: Stage) -> str:
    return plain(" ".join(word for word in (stage.name, stage.agent) if word))


def _outcome(stage: Stage) -> str:
    if stage.ended_at is None:
        return "goes on"
    if stage.cut_by is None:
        return ""
    return plain(f"{stage.cut_by}: {stage.code}" if stage.code else stage.cut_by)


def _document(job_id: str, found: Waterfall, now: datetime) -> Mapping[str, Any]:
    return {
        "jobId": job_id,
        "status": found.status,
        "beganAt": timestamp(found.began_at),
        "endedAt": timestamp(found.ended_at) if found.ended_at else None,
        "totalSeconds": round(found.seconds(now), 3),
        "stages": [
            {
                "stage": stage.name,
                "attempt": stage.attempt,
                "agent": stage.agent,
                "beganAt": timestamp(stage.began_at),
                "endedAt": timestamp(stage.ended_at) if stage.ended_at else None,
                "seconds": round(stage.seconds(now), 3),
                "endedBy": stage.cut_by,
                "code": stage.code,
            }
            for stage in found.stages
        ],
    }
