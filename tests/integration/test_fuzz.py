"""The API against its own document, with made-up requests: some in each run of tests, thousands by `make fuzz`."""

import re
import tomllib
from pathlib import Path

import pytest
from fuzz import Fuzzed, fuzz

from serve_app import app

_CONFIG = Path(__file__).parents[1] / "schemathesis.toml"


async def test_nothing_is_found(tmp_path: Path) -> None:
    """All checks on all operations: every boundary of every parameter and field, and one walk along the links.

    The seed is fixed, so that it makes the same requests each time.
    """
    check(await fuzz(tmp_path, examples=1, seed=1, phases="coverage,stateful"), cases_min=900)


@pytest.mark.drill
async def test_nothing_is_found_by_chance(tmp_path: Path) -> None:
    """The same in all phases, with other requests each time."""
    check(await fuzz(tmp_path, examples=2), cases_min=1000)


@pytest.mark.drill
async def test_nothing_is_found_on_longer_walks(tmp_path: Path) -> None:
    """So many along the links that jobs are cancelled and then asked for; the same each time."""
    fuzzed = await fuzz(tmp_path, examples=300, seed=1, phases="stateful")
    assert fuzzed.code == 0, fuzzed.text
    assert fuzzed.cases >= 1000


def test_what_may_be_read_after_a_delete() -> None:
    """Of all reads at or below what can be deleted four are allowed afterwards; schemathesis looks at the others."""
    paths = app.document()["paths"]
    deleted = [path for path, methods in paths.items() if "delete" in methods and "{" in path]
    reads = {
        methods["get"]["operationId"]
        for path, methods in paths.items()
        if "get" in methods and any(f"{path}/".startswith(f"{above}/") for above in deleted)
    }
    allowed = {
        name
        for operations in tomllib.loads(_CONFIG.read_text())["operations"]
        if "use_after_free" in operations["checks"]
        for name in operations["include-operation-id"]
    }
    assert allowed == {"show_job", "job_history", "job_events", "job_parts"}
    assert reads - allowed == {"job_receipt", "download_job"}


def check(fuzzed: Fuzzed, *, cases_min: int) -> None:
    assert fuzzed.code == 0, fuzzed.text
    selected = re.search(r"Selected: (\d+)/(\d+)", fuzzed.text)
    tested = re.search(r"Tested: (\d+)", fuzzed.text)
    assert selected is not None
    assert tested is not None
    assert tested[1] == selected[1] == selected[2], "every operation was asked"
    assert fuzzed.cases >= cases_min
