"""`rayhaul keys`: who may ask. Operators only."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.output import Json, console, moment, plain, print_json, say, table
from rayhaul.wire import KeyCreated

app = typer.Typer(help="API keys. Operators only.", no_args_is_help=True)


class Scope(StrEnum):
    READ = "read"
    WRITE = "write"


class Role(StrEnum):
    USER = "user"
    OPERATOR = "operator"


@app.command()
def create(
    user: Annotated[str, typer.Argument(help="Whose key it is.", show_default=False)],
    *,
    role: Annotated[Role, typer.Option(help="A user sees the own jobs, an operator all.")] = Role.USER,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may do; twice for both. Both where not given.")
    ] = None,
    expires_days: Annotated[int | None, typer.Option(help="Ends after so many days.", min=1, max=36_500)] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it: the only time that it is shown."""
    expires_at = None if expires_days is None else datetime.now(UTC) + timedelta(days=expires_days)
    scopes = [each.value for each in scope or Scope]
    made = with_client(
        lambda client: client.create_key(user, role=role.value, name=name, scopes=scopes, expires_at=expires_at)
    )
    _show(made, as_json=as_json)


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="Id of the key, not the key.", metavar="ID", show_default=False)],
    *,
    overlap_hours: Annotated[int, typer.Option(help="The old key ends after so many hours.", min=0, max=720)] = 24,
    as_json: Json = False,
) -> None:
    """Make a key in the place of another one and print it; both hold for a while."""
    made = with_client(lambda client: client.rotate_key(key_id, overlap_s=overlap_hours * 3600))
    _show(made, as_json=as_json)
    if not as_json:
        say(f"Key {key_id} ends in {overlap_hours} hours.")


def _show(made: KeyCreated, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    typer.echo(made.key)
    say(f"This is key {made.id} of {plain(made.user_id)}, a {made.role}. It is shown this once: keep it well.")


@app.command("list")
def list_keys(*, as_json: Json = False) -> None:
    """List the keys; never their secrets."""
    found = with_client(lambda client: client.keys())
    if as_json:
        print_json({"keys": found})
        return
    rows = table("ID", "USER", "ROLE", "SCOPES", "NAME", "CREATED", "LAST USED", "EXPIRES", "REVOKED")
    for key in found:
        rows.add_row(
            key.id,
            Text(plain(key.user_id)),
            key.role,
            " ".join(key.scopes),
            Text(plain(key.name)),
            moment(key.created_at),
            moment(key.last_used_at),
            moment(key.expires_at),
            moment(key.revoked_at),
        )
    console().print(rows)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, not the key.", metavar="ID", show_default=False)],
    *,
    as_json: Json = False,
) -> None:
    """End a key for good."""
    with_client(lambda client: client.revoke_key(key_id))
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        typer.echo(f"{key_id} revoked")
