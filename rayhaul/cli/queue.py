"""`rayhaul queue`: how many jobs wait, and the valve that holds back those of a priority."""

from typing import Annotated

import typer
from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.groups import shows_alone
from rayhaul.cli.output import Json, console, facts_table, plain, print_json, table
from rayhaul.job import Priority
from rayhaul.units import duration
from rayhaul.wire import QueueReport

Wanted = Annotated[
    Priority, typer.Argument(help="Jobs of this priority.", metavar="low|normal|high", show_default=False)
]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def queue(context: typer.Context, *, as_json: Json = False) -> None:
    """The queue: how many jobs wait, by priority; hold back a priority, and let it go on.

    Without a command it is shown.
    """
    if shows_alone(context, as_json=as_json):
        _print(with_client(lambda client: client.queue()), as_json=as_json)


@app.command()
def pause(priority: Wanted, *, as_json: Json = False) -> None:
    """Start no more jobs of a priority until `resume`; those that run go on. Operators only."""
    _print(with_client(lambda client: client.pause_queue(priority)), as_json=as_json)


@app.command()
def resume(priority: Wanted, *, as_json: Json = False) -> None:
    """Go on starting the jobs of a priority. Operators only."""
    _print(with_client(lambda client: client.resume_queue(priority)), as_json=as_json)


def _print(found: QueueReport, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    rows = table("PRIORITY", "WAITING", "", right=("WAITING",))
    for priority, depth in found.depth.items():
        rows.add_row(plain(priority), str(depth), Text("paused" if priority in found.paused else "", style="yellow"))
    screen = console()
    screen.print(rows)
    screen.print()
    facts = (
        ("oldest waits", duration(found.oldest_age_seconds) if any(found.depth.values()) else ""),
        ("dead letters", str(found.dlq_depth)),
        ("nothing starts", found.parked or ""),
    )
    screen.print(facts_table(facts))
