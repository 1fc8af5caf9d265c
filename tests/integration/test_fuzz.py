"""The API against its own document: a few hundred made-up requests; `make fuzz` makes thousands."""

import re
from pathlib import Path

import pytest
from fuzz import fuzz


@pytest.mark.drill
async def test_nothing_is_found(tmp_path: Path) -> None:
    """All checks of schemathesis, in all phases, on all operations."""
    fuzzed = await fuzz(tmp_path, examples=2)
    assert fuzzed.code == 0, fuzzed.text
    tested = re.search(r"Tested: (\d+)", fuzzed.text)
    assert tested is not None
    assert int(tested[1]) >= 30
    assert fuzzed.cases >= 300
