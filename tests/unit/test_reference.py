"""The pages of reference that are made from the code are those that are committed."""

from pathlib import Path

from rayhaul.cli.connect import EXIT_CODES, Exit
from rayhaul.cli.main import app
from rayhaul.cli.reference import cli_doc
from rayhaul.errors import codes
from rayhaul.errors_doc import errors_doc
from serve_app.api_doc import api_doc
from serve_app.app import document

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_error_codes() -> None:
    """`make docs` was run; every code has one row."""
    text = errors_doc()
    assert (REFERENCE / "errors.md").read_text() == text
    for code in codes():
        assert text.count(f"\n| `{code}` |") == 1


def test_command_line() -> None:
    """`make docs` was run; every command and every exit code is there."""
    text = cli_doc()
    assert (REFERENCE / "cli.md").read_text() == text
    assert set(EXIT_CODES) == set(Exit)
    for group in app.registered_groups:
        assert f"### `rayhaul {group.name}`" in text
    for command in app.registered_commands:
        name = command.name or getattr(command.callback, "__name__", "").replace("_", "-")
        assert f"### `rayhaul {name}`" in text


def test_http_api() -> None:
    """`make docs` was run; every operation and every schema is there."""
    text = api_doc()
    assert (REFERENCE / "api.md").read_text() == text
    found = document()
    for path, methods in found["paths"].items():
        for method in methods:
            assert f"### {method.upper()} {path}\n" in text
    for name in found["components"]["schemas"]:
        assert f"### {name}\n" in text
