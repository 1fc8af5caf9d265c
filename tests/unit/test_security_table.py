"""SECURITY.md says which test stands behind each control: they exist, and every risk has one."""

import re
from pathlib import Path

from addresses import VECTORS, WRITTEN

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
#: The lists of null tests that are about this document.
CONTROLS = ("callers", "limits", "egress")


def test_every_risk_has_a_test_that_exists() -> None:
    """All ten of OWASP's list of 2023, and each row's test is a function in its file."""
    rows = re.findall(r"^\| API(\d+) [^|]+\| [^|]+ \| `([\w/]+\.py)::(test_\w+)` \|$", TEXT, re.MULTILINE)
    assert {int(number) for number, _, _ in rows} == set(range(1, 11))
    assert len(rows) == len(re.findall(r"^\| API", TEXT, re.MULTILINE))
    for _, path, name in rows:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_every_control_is_switched_off_somewhere() -> None:
    """The test of each row is one that `make nulls` has seen fail; the document tells how many controls there are."""
    lists = {path.stem: path.read_text() for path in (ROOT / "tests").glob("null_*.py")}
    watched = set(re.findall(r'"(tests/[\w/]+\.py::\w+)"', "".join(lists.values())))
    rows = re.findall(r"^\| API.* `([\w/.]+::test_\w+)` \|$", TEXT, re.MULTILINE)
    assert [row for row in rows if row not in watched] == []
    controls = sum(len(re.findall(r"^    .*Null\($", lists[f"null_{name}"], re.MULTILINE)) for name in CONTROLS)
    assert f"{controls} of {controls} controls" in TEXT


def test_its_files_exist() -> None:
    """What the document links to or names is there."""
    named = set(re.findall(r"\]\(([\w/.]+)\)", TEXT)) | set(re.findall(r"`(tests/[\w/.]+\.py)[:`]", TEXT))
    assert len(named) > 15
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_the_figures_of_vectors_are_true() -> None:
    """As many address vectors as the document says, asked for by as many requests."""
    assert f"{len(VECTORS)} of {len(VECTORS)} address vectors" in TEXT
    # By name and by address, and these and other spellings by themselves and by a redirect.
    assert f"{2 * (2 * len(VECTORS) + len(WRITTEN))} requests for the vectors" in TEXT
