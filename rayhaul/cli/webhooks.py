"""`rayhaul webhooks`: what became of messages, which are disabled, and a test of a receiver."""

from typing import Annotated

import typer
from rich.text import Text

from rayhaul.cli.connect import Exit, with_client
from rayhaul.cli.output import Json, console, moment, plain, print_json, say, table

app = typer.Typer(
    help="Webhooks: their deliveries, which are disabled, and a test of a receiver.", no_args_is_help=True
)


@app.command("log")
def list_deliveries(
    job: Annotated[str | None, typer.Argument(help="Of this job alone.", show_default=False)] = None,
    *,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """List deliveries that were tried, newest first."""
    page = with_client(lambda client: client.deliveries(job_id=job, limit=limit))
    if as_json:
        print_json({"deliveries": page.deliveries})
        return
    rows = table("TRIED", "JOB", "EVENT", "RECEIVER", "TRY", "RESULT", "STATUS", "AGAIN")
    for each in page.deliveries:
        rows.add_row(
            moment(each.ts),
            each.job_id,
            each.event,
            Text(plain(each.receiver)),
            str(each.attempt),
            each.result,
            "" if each.status is None else str(each.status),
            moment(each.next_attempt_at),
        )
    console().print(rows)
    # In lines of their own: they are too long for a column.
    for receiver, reason in dict.fromkeys((each.receiver, each.why) for each in page.deliveries if each.why):
        say(f"{plain(receiver)}: {plain(reason)}")


@app.command("disabled")
def list_disabled(
    *,
    limit: Annotated[int, typer.Option(help="So many, at most.", min=1, max=1000)] = 50,
    as_json: Json = False,
) -> None:
    """List webhooks that answered 410 and get no more messages; an operator sees everybody's."""
    found = with_client(lambda client: client.disabled_webhooks(limit=limit))
    if as_json:
        print_json({"webhooks": found})
        return
    if not found:
        say("no webhook is disabled")
        return
    rows = table("RECEIVER", "DISABLED", "LAST GIVEN UP", "USER")
    for each in found:
        rows.add_row(
            Text(plain(each.receiver)), moment(each.disabled_since), moment(each.last_given_up_at), plain(each.user_id)
        )
    console().print(rows)
    say("each is enabled again by its user, with `rayhaul webhooks test URL`; which jobs: `rayhaul webhooks log`")


@app.command("test")
def try_receiver(
    url: Annotated[str, typer.Argument(help="Where to.", show_default=False)],
    *,
    as_json: Json = False,
) -> None:
    """Send a receiver a test message from the cluster, once; exit code 0 only where it is taken.

    A webhook that is disabled, because it answered 410, is enabled again by it.
    """
    report = with_client(lambda client: client.try_webhook(url))
    if as_json:
        print_json(report)
    else:
        answered = "no answer" if report.status is None else f"status {report.status}"
        say(f"{report.result}: {answered} after {report.duration_ms} ms, {'signed' if report.signed else 'not signed'}")
        if report.disabled_since is not None:
            now = "enabled again" if report.enabled_again else "still disabled, until a test is delivered"
            say(f"it was disabled, for it answered 410 at {moment(report.disabled_since)}; it is {now}")
    if report.result != "delivered":
        raise typer.Exit(Exit.FAILED)
