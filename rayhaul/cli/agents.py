"""`rayhaul agents`: who moves the bytes."""

from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.output import Json, console, duration, plain, print_json, size, table


def agents(*, as_json: Json = False) -> None:
    """List the agents with their load. Operators only."""
    found = with_client(lambda client: client.agents())
    if as_json:
        print_json({"agents": found})
        return
    numbers = ("BUSY", "SLOTS", "SPEED", "LEASES", "LAST HEARD")
    rows = table("AGENT", "STATE", *numbers, right=numbers)
    for agent in found:
        rows.add_row(
            Text(plain(agent.agent)),
            Text(plain(agent.state)),
            f"{agent.capacity_pct:.0f}%",
            f"{agent.slots_used}/{agent.slots}",
            f"{size(agent.bytes_per_second)}/s",
            str(agent.leases),
            f"{duration(agent.heartbeat_age_seconds)} ago",
        )
    console().print(rows)
