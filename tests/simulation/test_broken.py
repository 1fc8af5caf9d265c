"""Null tests: with one protection taken out, the simulation goes red. A harness that can not fail proves nothing."""

import asyncio
import logging
from typing import Any

import pytest
from broken import EpochsForgotten, Fenceless, Halves, Leaderless, Sure, Undecided
from history import live
from setups import Setup
from violations import Violation
from weather import Odds

#: Histories until one of them must have shown it.
SEEDS_MAX = 40
SEEDS_GREEN = 4

PROTECTIONS: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "fencing": ({"agent_cut_off": 0.02, "agent_fenceless": 0.1, "agent_frozen": 0.02}, {"scheduler": Fenceless}),
    "late reports fenced": ({"report_late": 0.2, "job_stopped": 0.2}, {"scheduler": Fenceless}),
    "rebuild after a failed commit": ({"commit_stands_but_fails": 0.05}, {"scheduler": Sure}),
    "epochs in the ledger": ({"scheduler_dies": 0.03}, {"reference": EpochsForgotten}),
    "leadership and versions": ({"scheduler_rivalled": 0.05, "command": 0.3}, {"reference": Leaderless}),
    "leadership": ({"scheduler_rivalled": 0.05, "answer_lost": 0.2, "command": 0.3}, {"reference": Undecided}),
    "whole transactions": ({}, {"reference": Halves}),
    "durable commits": ({}, {"ledger_lies": 0.02}),
    "the watchdog": ({"transfer_stalls": 0.02}, {"stalled_s": 1e9}),
}


def _first_red(seeds: range, weather: dict[str, float], **taken_out: Any) -> str | None:
    logging.disable()
    try:
        for seed in seeds:
            try:
                asyncio.run(live(Setup(seed=seed, odds=Odds.only(**weather), **taken_out)))
            except Violation as violation:
                return f"seed {seed}, {violation}"
    finally:
        logging.disable(logging.NOTSET)
    return None


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_goes_red(protection: str) -> None:
    """Without this protection a history breaks soon; with it the same weather is harmless."""
    weather, taken_out = PROTECTIONS[protection]
    found = _first_red(range(1, 1 + SEEDS_MAX), weather, **taken_out)
    assert found is not None, f"without {protection}, {SEEDS_MAX} histories saw nothing wrong"
    print(f"without {protection}: {found[:200]}")
    assert _first_red(range(1, 1 + SEEDS_GREEN), weather) is None
