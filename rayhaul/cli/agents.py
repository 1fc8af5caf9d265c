"""`rayhaul agents`: who moves the bytes, what they do for a job, and how to make them stop. Operators only."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.groups import shows_alone
from rayhaul.cli.leases import leases_table
from rayhaul.cli.output import Json, console, plain, print_json, say, status_text, table
from rayhaul.units import duration, size
from rayhaul.wire import CapacityView

Agent = Annotated[str, typer.Argument(help="Name of the agent.", metavar="NAME", show_default=False)]
JobId = Annotated[str, typer.Argument(help="Id of the job.", metavar="JOB", show_default=False)]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def agents(context: typer.Context, *, as_json: Json = False) -> None:
    """The agents, with their load. Operators only.

    Without a command they are listed.
    """
    if shows_alone(context, as_json=as_json):
        list_agents(as_json=as_json)


@app.command("list")
def list_agents(*, as_json: Json = False) -> None:
    """List the agents with their load."""
    found = with_client(lambda client: client.agents())
    if as_json:
        print_json({"agents": found})
    else:
        _print(found)


def _print(agents: Sequence[CapacityView]) -> None:
    numbers = ("BUSY", "SLOTS", "SPEED", "LEASES", "LAST HEARD")
    rows = table("AGENT", "STATE", *numbers, "WHY UNFIT", right=numbers)
    for agent in agents:
        rows.add_row(
            Text(plain(agent.agent)),
            Text(plain(agent.state)),
            f"{agent.capacity_pct:.0f}%",
            f"{agent.slots_used}/{agent.slots}",
            f"{size(agent.bytes_per_second)}/s",
            str(agent.leases),
            f"{duration(agent.heartbeat_age_seconds)} ago",
            Text(plain(agent.unfit or "")),
        )
    console().print(rows)


@app.command()
def status(agent: Agent, job_id: JobId, *, as_json: Json = False) -> None:
    """Show what an agent does for a job: its stripes, how far they are, since when nothing moved."""
    found = with_client(lambda client: client.agent_status(agent, job_id))
    if as_json:
        print_json(found)
        return
    screen = console()
    screen.print(Text(f"{plain(found.agent)} {found.job_id} ").append(status_text(found.status)))
    screen.print(leases_table(found.leases))


@app.command()
def stop(agent: Agent, job_id: JobId, *, as_json: Json = False) -> None:
    """Stop what an agent does for a job; the job goes back to the queue and is not charged for it."""
    job = with_client(lambda client: client.stop_job(agent, job_id))
    if as_json:
        print_json(job)
    else:
        typer.echo(f"{job.id} {job.status}")


@app.command()
def drain(agent: Agent, *, as_json: Json = False) -> None:
    """Let an agent finish what it holds and exit. Where the cluster would be too small, another one takes its place."""
    found = with_client(lambda client: client.drain(agent))
    if as_json:
        print_json(found)
        return
    typer.echo(f"{plain(found.agent)} {plain(found.state)}")
    if found.leases:
        say(f"It finishes {found.leases} leases first.")
