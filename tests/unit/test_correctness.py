"""The table of correctness details is complete; it and the tables of the kinds of source name tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "correctness.md").read_text()
#: What comes after the two tables is measured, not promised.
PROMISED = TABLE.partition("## With a check switched off")[0]
ROWS = dict(re.findall(r"^\| (\d+|F\d\d|R\d) \| (.*) \|$", PROMISED, re.MULTILINE))
SOURCES = (ROOT / "docs" / "sources.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE + SOURCES)))


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def test_every_detail_and_fault_has_a_row_with_a_test() -> None:
    """The twenty details, F01 to F29, R1 to R5, and behind each at least one test."""
    wanted = [str(number) for number in range(1, 21)] + [f"F{number:02}" for number in range(1, 30)]
    wanted += [f"R{number}" for number in range(1, 6)]
    assert list(ROWS) == wanted
    assert all(re.search(r"`tests/[\w/]+\.py::test_\w+`", row) for row in ROWS.values())
    what, figures, tests = zip(*(row.split(" | ") for row in ROWS.values()), strict=True)
    assert all(what)
    # Numbers; or, where there is none to tell, what became of it.
    untold = [
        figure for figure in figures if not re.search(r"\d|exactly|all vectors|told as|tried again|session", figure)
    ]
    assert untold == []
    assert not any("::" in figure for figure in figures)
    assert all(tests)


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_named_test_exists(path: str, name: str) -> None:
    """A test that was renamed or taken away is missed here."""
    assert name in names_in(path)


def test_the_number_of_checks_switched_off_is_told() -> None:
    """The document tells as many checks as there are."""
    checks = re.findall(r'^    "[\w-]+": Null\(', (ROOT / "tests" / "null_checks.py").read_text(), re.MULTILINE)
    assert f"{len(checks)} of {len(checks)} do." in TABLE
