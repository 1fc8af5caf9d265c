"""Groups of commands that show something when they stand alone: `rayhaul queue`, `rayhaul queue pause low`."""

import typer

from rayhaul.cli.connect import UsageError


def shows_alone(context: typer.Context, *, as_json: bool) -> bool:
    """Tell whether the group stands alone.

    Raises: UsageError where `--json` stands before a command, which would not see it.
    """
    if context.invoked_subcommand is None:
        return True
    if as_json:
        command = f"rayhaul {context.info_name} {context.invoked_subcommand}"
        raise UsageError(f"--json stands after the command: {command} --json")
    return False
