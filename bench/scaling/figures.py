"""What a run cost and what it gave, in figures, and the tables made of them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from bench.scaling.model import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    trace: str
    policy: str
    jobs: int
    wait_p50_s: float
    wait_p95_s: float
    wait_max_s: float
    #: All nodes together, booting and draining included.
    agent_s: int
    agents_max: int
    #: Share of the agents' slot time that was in use.
    busy_pct: float
    #: Times the number of agents was changed.
    changes: int
    #: Changes that went against the one before: the flapping.
    reversals: int


def figures(outcome: Outcome, slots: int) -> Figures:
    """Return a run's figures; `slots` is what one agent has."""
    signs = [change > 0 for _, change in outcome.changes]
    return Figures(
        trace=outcome.trace,
        policy=outcome.policy,
        jobs=len(outcome.waits_s),
        wait_p50_s=round(percentile(outcome.waits_s, 50), 1),
        wait_p95_s=round(percentile(outcome.waits_s, 95), 1),
        wait_max_s=round(max(outcome.waits_s), 1),
        agent_s=round(outcome.agent_s),
        agents_max=max(sample.agents_online for sample in outcome.samples),
        busy_pct=round(100 * outcome.slot_busy_s / (outcome.agent_s * slots), 1),
        changes=len(signs),
        reversals=sum(before != after for before, after in pairwise(signs)),
    )


def percentile(values: Sequence[float], pct: int) -> float:
    """Return the smallest value that `pct` percent of the values do not exceed (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * pct / 100) - 1)]


def as_data(rows: Iterable[Figures]) -> list[dict[str, Any]]:
    return [asdict(row) for row in rows]


def as_markdown(rows: Iterable[Figures]) -> str:
    """Return the table, one row a run."""
    head = "| trace | policy | wait p50 / p95 / max, s | agent-hours | slots busy | most agents | changes | reversals |"
    lines = [head, "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row.trace} | {row.policy} | {row.wait_p50_s:g} / {row.wait_p95_s:g} / {row.wait_max_s:g} "
        f"| {row.agent_s / 3600:.1f} | {row.busy_pct:.0f} % | {row.agents_max} | {row.changes} | {row.reversals} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
