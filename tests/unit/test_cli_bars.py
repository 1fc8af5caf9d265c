"""The bars of many jobs on terminals of some widths."""

import io

import pytest
from rich.console import Console

from rayhaul.cli.progress import Bars, bars_on
from rayhaul.wire import EventView
from serve_app import examples

NAMES = {f"job_{number}": f"a-name-longer-than-most-terminals-can-show-{number}.tar.zst" for number in range(3)}
PROGRESS = {"bytes": 800_000_000, "bytesTotal": 1_500_000_000, "bytesPerSecond": 48e6, "etaSeconds": 5025}


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_figures_and_a_bar_are_seen(columns: int) -> None:
    """A line each, with all its figures whole, a bar, and the beginning of the name."""
    screen = Console(file=io.StringIO(), width=columns, force_terminal=True, color_system=None)
    progress = bars_on(screen)
    bars = Bars(progress, NAMES)
    for job_id in NAMES:
        bars.begin(job_id)
        event = {**examples.BY_MODEL["EventView"], "jobId": job_id, "event": "progress", "status": "downloading"}
        bars.show(EventView.model_validate({**event, "payload": {**PROGRESS, "partsDone": 3, "partsTotal": 9}}))
    with screen.capture() as captured:
        screen.print(progress)
    total, *lines = captured.get().splitlines()
    assert "0 of 3 jobs" in total
    assert len(lines) == len(NAMES)
    for line in lines:
        assert len(line) <= columns
        assert line.startswith("a-name-longer-")
        for figure in ("━━━━", " 53% ", "762.9 MiB of 1.4 GiB", "45.8 MiB/s", "1:23:45"):
            assert figure in line
