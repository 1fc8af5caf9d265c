"""`rayhaul slo`: how the service-level objectives stand."""

from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.output import Json, console, plain, print_json, table
from rayhaul.wire import SloView


def slo(*, as_json: Json = False) -> None:
    """Show each service-level objective: target, ratio, what is left of its budget, how fast it burns."""
    found = with_client(lambda client: client.slo())
    if as_json:
        print_json(found)
        return
    right = ("TARGET", "WINDOW", "NOW", "EVENTS", "BAD", "BUDGET LEFT", "BURN RATE", "IN 1H")
    rows = table("OBJECTIVE", *right, "", right=right)
    for one in found.slos:
        rows.add_row(
            plain(one.name),
            f"{one.target:.2%}",
            plain(one.window),
            "" if one.ratio is None else _share(one.ratio),
            str(one.events),
            str(one.bad),
            f"{one.budget_left:.0%}",
            _rate(one.burn_rate),
            _rate(one.burn_rates.get("1h")),
            _state(one),
        )
    console().print(rows)


def _share(ratio: float) -> str:
    """Return a share for people, rounded down: 100 % is all of it and nothing less."""
    return f"{int(ratio * 100_000) / 1000:.3f}%"


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.2f}"


def _state(one: SloView) -> Text:
    if one.burning is not None:
        return Text(f"burning, {one.burning}", style="red")
    return Text("spent", style="yellow") if one.budget_left < 0 else Text("")
