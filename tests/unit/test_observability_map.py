"""docs/observability.md: the specification line by line, each with where it lives and a test that is really there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "observability.md").read_text()
#: A section of the specification, and how many lines it has.
LINES = {
    # Ten fields, that every line has them, where correlation ids are made, and where they go.
    "Structured log format": 1 + 10 + 2,
    "Key metrics": 5 + 6 + 3,
    "SLOs": 5,
    "Alert definitions": 7,
    # Symptoms of each, and the steps.
    "Runbooks": 4 + 5 + 5 + 4 + 5,
    "Tracing strategy": 7,
    "Where the specification contradicts itself": 7,
}


def rows(section: str) -> list[list[str]]:
    body = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    table = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


@pytest.mark.parametrize("section", LINES)
def test_no_line_is_left_out_and_no_cell_is_empty(section: str) -> None:
    """Each line of the specification has a row, with where it lives and a test."""
    found = rows(section)
    assert len(found) == LINES[section]
    for row in found:
        assert len(row) == 3, row
        assert all(row), row
        assert "`tests/" in row[2], row


def test_sections() -> None:
    """There are these sections and no others."""
    assert re.findall(r"^## (.+)$", TEXT, re.MULTILINE) == list(LINES)


def test_what_is_named_is_there() -> None:
    """Every file, every test and every page that the map names exists."""
    named = re.findall(r"`((?:rayhaul|tasks|actors|serve_app|dashboards|docs|tests)/[\w./-]+)(?:::(\w+))?`", TEXT)
    assert len(named) > 100
    for path, test in named:
        assert (ROOT / path).exists(), path
        if test:
            assert re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{test}"
    for page in re.findall(r"\]\(([\w./-]+\.md)\)", TEXT):
        assert (ROOT / "docs" / page).is_file(), page


def test_settings_are_there() -> None:
    """Every setting that the map names is one."""
    settings = (ROOT / "docs" / "settings.md").read_text()
    for name in re.findall(r"RAYHAUL_[A-Z_]+", TEXT):
        assert name in settings, name
