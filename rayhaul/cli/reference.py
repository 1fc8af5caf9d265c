"""Writes docs/reference/cli.md from the commands themselves: `python -m rayhaul.cli.reference`."""

import html
import re
import sys
from collections.abc import Iterator

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from rayhaul.cli.connect import EXIT_CODES
from rayhaul.cli.main import app

_NAME = "rayhaul"
_HEAD = """# Command line

Generated from `rayhaul/cli/` by `make docs`. `rayhaul COMMAND --help` says the same.

Results go to stdout, everything said to people besides to stderr. With `--json` there is nothing on stdout but JSON in
the API's own shape. The cluster is where `RAYHAUL_URL` says, with `RAYHAUL_API_KEY`; else the one that `rayhaul up`
started here.

## Exit codes

| code | when |
| --- | --- |
"""
_COMPLETION = """
## Completion

`rayhaul --install-completion` teaches your shell (bash, zsh, fish, PowerShell) the commands, options and their values;
`rayhaul --show-completion` prints what it would install. In zsh the first Tab of a shell
only loads it; press it again.

## Commands

"""
_USAGE = re.compile(r"\*\*Usage\*\*:\n\n```console\n\$ (.*)\n```")
_HEADING = re.compile(r"^(#+) ", re.MULTILINE)


def cli_doc() -> str:
    """Return the document: the exit codes, then every command with its arguments and options."""
    return _HEAD + "".join(_exit_codes()) + _COMPLETION + _commands()


def _exit_codes() -> Iterator[str]:
    for code, told in EXIT_CODES.items():
        yield f"| {code.value} | {told} |\n"


def _commands() -> str:
    command = get_command(app)
    context = typer.Context(command, info_name=_NAME, **command.context_settings)
    written = get_docs_for_click(obj=command, ctx=context, name=_NAME)
    # The first part lists the commands with their help cut short; each is told in full below.
    _, _, each = written.partition("\n## ")
    text = html.unescape(_USAGE.sub(r"`\1`", f"## {each}"))
    return _HEADING.sub(r"#\1 ", text).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(cli_doc())
