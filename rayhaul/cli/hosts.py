"""`rayhaul hosts`: what the cluster knows of the hosts that files come from."""

from collections.abc import Sequence
from datetime import UTC, datetime

import typer
from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.output import Json, console, plain, print_json, table
from rayhaul.units import duration, size
from rayhaul.wire import HostView


def hosts(*, as_json: Json = False) -> None:
    """Show the origin hosts in use, with their connections, and which of them ask to be left alone.

    Operators see all of them, users those that their running jobs use.
    """
    found = with_client(lambda client: client.hosts())
    if as_json:
        print_json({"hosts": found})
    elif not found:
        typer.echo("no origin is in use")
    else:
        _print(found)


def _print(found: Sequence[HostView]) -> None:
    numbers = ("CONNECTIONS", "SPEED", "JOBS WAITING", "BACKS OFF FOR")
    rows = table("HOST", *numbers, right=numbers)
    now = datetime.now(UTC)
    for host in found:
        until = host.backing_off_until
        rows.add_row(
            Text(plain(host.host)),
            f"{host.connections}/{host.connections_max}",
            f"{size(host.bytes_per_second)}/s",
            str(host.jobs_waiting),
            "" if until is None else duration(max(0.0, (until - now).total_seconds())),
        )
    console().print(rows)
