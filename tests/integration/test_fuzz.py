"""The API against its own document, with made-up requests: some in each run of tests, thousands by `make fuzz`."""

import re
from pathlib import Path

import pytest
from fuzz import Fuzzed, fuzz


async def test_nothing_is_found(tmp_path: Path) -> None:
    """All checks on all operations: every boundary of every parameter and field, and one walk along the links.

    The seed is fixed, so that it makes the same requests each time.
    """
    check(await fuzz(tmp_path, examples=1, seed=1, phases="coverage,stateful"), cases_min=900)


@pytest.mark.drill
async def test_nothing_is_found_by_chance(tmp_path: Path) -> None:
    """The same in all phases, with other requests each time."""
    check(await fuzz(tmp_path, examples=2), cases_min=1000)


def check(fuzzed: Fuzzed, *, cases_min: int) -> None:
    assert fuzzed.code == 0, fuzzed.text
    selected = re.search(r"Selected: (\d+)/(\d+)", fuzzed.text)
    tested = re.search(r"Tested: (\d+)", fuzzed.text)
    assert selected is not None
    assert tested is not None
    assert tested[1] == selected[1] == selected[2], "every operation was asked"
    assert fuzzed.cases >= cases_min
