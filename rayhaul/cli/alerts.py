"""`rayhaul alerts`: every alert rule, and how it stands."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.output import Json, console, plain, print_json, table
from rayhaul.units import duration
from rayhaul.wire import AlertView

_STYLES = {"firing": "red", "pending": "yellow", "inactive": "dim"}
#: What is wrong first, the worst of it on top.
_ORDER = ("firing", "pending", "inactive")

All = Annotated[bool, typer.Option("--all", help="Show the inactive ones too.")]


def alerts(*, show_all: All = False, as_json: Json = False) -> None:
    """Show the alerts that fire or may soon, since when, and the runbook's page; exit 1 where one fires."""
    found = with_client(lambda client: client.alerts())
    if as_json:
        print_json(found)
    else:
        _print([alert for alert in found.alerts if show_all or alert.state != "inactive"])
    if any(alert.state == "firing" for alert in found.alerts):
        raise typer.Exit(1)


def _print(found: list[AlertView]) -> None:
    if not found:
        console().print("no alert fires")
        return
    rows = table("ALERT", "STATE", "SEVERITY", "SINCE", "VALUE", "CONDITION", "RUNBOOK", right=("SINCE", "VALUE"))
    now = datetime.now(UTC)
    for alert in sorted(found, key=lambda alert: (_ORDER.index(alert.state), alert.severity, alert.name)):
        rows.add_row(
            plain(alert.name),
            Text(alert.state, style=_STYLES[alert.state]),
            plain(alert.severity),
            "" if alert.since is None else duration((now - alert.since).total_seconds()),
            "" if alert.value is None else f"{alert.value:.4g}",
            plain(f"{alert.condition} for {alert.window}"),
            plain(alert.runbook or ""),
        )
    console().print(rows)
