"""`rayhaul grafana`: what a Grafana is to show. A process of its own does it: the base package has not the code."""

import importlib.util
import os
from typing import Annotated

import typer

from rayhaul.cli.cluster import become
from rayhaul.cli.connect import Exit, UsageError
from rayhaul.cli.output import complain

app = typer.Typer(help="Dashboards and alerts in a Grafana.", no_args_is_help=True)

_TOKEN = "RAYHAUL_GRAFANA_TOKEN"  # noqa: S105 - its name


@app.callback()
def group() -> None:
    """Dashboards and alerts in a Grafana."""


@app.command()
def publish(
    *,
    url: Annotated[
        str, typer.Option(help="Where Grafana is; https unless it says http.", envvar="RAYHAUL_GRAFANA_URL")
    ],
    token: Annotated[
        str, typer.Option(help="A service account's; better in the environment.", envvar=_TOKEN, show_envvar=True)
    ] = "",
    datasource: Annotated[str, typer.Option(help="Name of the data source to use or make.")] = "Rayhaul",
    prometheus: Annotated[
        str | None, typer.Option(help="Where Grafana reaches Prometheus; makes the data source.")
    ] = None,
    ca_file: Annotated[str | None, typer.Option(help="Certificates to trust, PEM.")] = None,
    runbooks: Annotated[str | None, typer.Option(help="Where the runbook pages are, with the last slash.")] = None,
) -> None:
    """Put folder, data source, dashboards and alert rules into a Grafana; again, and nothing changes."""
    if not token:
        raise UsageError(f"a token is needed: {_TOKEN}, or --token")
    if importlib.util.find_spec("grafana_api") is None:
        complain("publishing needs more: pip install 'rayhaul[dashboards]'")
        raise typer.Exit(Exit.USAGE)
    os.environ[_TOKEN] = token
    words = ["--url", url, "--datasource", datasource]
    for name, value in (("--prometheus", prometheus), ("--ca-file", ca_file), ("--runbooks", runbooks)):
        words += [] if value is None else [name, value]
    become("dashboards.publish", words)
