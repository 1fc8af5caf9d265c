"""`rayhaul`: the commands, put together; every error that is expected ends here as one sentence and an exit code.

No module of the command line imports the HTTP client at its top: it takes longest of all, and help, completion and
what is refused need none.
"""

import sys
from typing import Annotated

import typer

import rayhaul
from rayhaul.cli import agents, cluster, dlq, grafana, keys, queue, webhooks
from rayhaul.cli.alerts import alerts
from rayhaul.cli.connect import Exit, UsageError, exit_of
from rayhaul.cli.get import get
from rayhaul.cli.hosts import hosts
from rayhaul.cli.importing import import_
from rayhaul.cli.jobs import cancel, job, jobs, pause, requeue, resume, retry
from rayhaul.cli.logs import logs
from rayhaul.cli.output import complain
from rayhaul.cli.slo import slo
from rayhaul.cli.top import top
from rayhaul.cli.trace import trace
from rayhaul.client.errors import ClientError

app = typer.Typer(
    name="rayhaul",
    no_args_is_help=True,
    # A trace shows local variables, keys among them; and ours are said in one sentence.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer's signature
    if asked:
        typer.echo(f"rayhaul {rayhaul.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Rayhaul: from a URL to your bucket, over many machines.

    The cluster is where RAYHAUL_URL says (with RAYHAUL_API_KEY), else the one that `rayhaul up` started here.
    """
    del version


for command in (
    cluster.up,
    cluster.down,
    cluster.deploy,
    cluster.undeploy,
    cluster.storage_check,
    get,
    jobs,
    job,
    cancel,
    pause,
    resume,
    retry,
    requeue,
    logs,
    trace,
    top,
    alerts,
    slo,
    hosts,
):
    app.command()(command)
app.command("import")(import_)
app.add_typer(queue.app, name="queue")
app.add_typer(dlq.app, name="dlq")
app.add_typer(agents.app, name="agents")
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(grafana.app, name="grafana")


def main() -> None:
    try:
        app()
    except ClientError as err:
        complain(err)
        sys.exit(exit_of(err))
    except UsageError as err:
        complain(err)
        sys.exit(Exit.USAGE)
    except KeyboardInterrupt:
        # Before or after the command itself; typer sees to the rest.
        sys.exit(Exit.INTERRUPTED)


if __name__ == "__main__":
    main()
