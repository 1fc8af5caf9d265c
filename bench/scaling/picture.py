"""One picture a trace: a column a policy, and below each other agents, load and queue wait."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bench.scaling.figures import Figures
from bench.scaling.model import Outcome
from bench.scaling.traces import Trace

_ONLINE, _PENDING, _DRAINING, _LOAD, _WAIT = "#2b6cb0", "#f6ad55", "#a0aec0", "#2f855a", "#c53030"
#: The rule's threshold and what it aims at, as lines through the load.
_MARKS_PCT = ((90, "#c53030", "90 %: the rule"), (85, "#718096", "85 %: the target"))
#: Points of the load's line: its jumps from sample to sample would be a solid block.
_LOAD_POINTS = 140
_COLOURS = 128
_TITLES = {
    "rule": "rule (as shipped)",
    "naive": "naive: formula at every tick",
    "backlog": "backlog bytes / bytes per s",
}


def draw(trace: Trace, runs: Sequence[tuple[Outcome, Figures]], path: Path) -> None:
    """Write the picture of all policies on one trace."""
    figure = Figure(figsize=(3.6 * len(runs), 7.2), layout="constrained")
    rows = figure.subplots(3, len(runs), sharex=True, sharey="row", squeeze=False)
    figure.suptitle(f"{trace.name}: {trace.title}", fontsize=13)
    for column, (outcome, row) in enumerate(runs):
        agents, load, wait = rows[0][column], rows[1][column], rows[2][column]
        agents.set_title(
            f"{_TITLES.get(outcome.policy, outcome.policy)}\n"
            f"{row.changes} changes, {row.agent_s / 3600:.1f} agent-hours\n"
            f"wait p50 {row.wait_p50_s:.0f} s, p95 {row.wait_p95_s:.0f} s",
            fontsize=10,
        )
        _draw_column(outcome, agents, load, wait)
        wait.set_xlabel("hours")
    for axes, label in zip(rows[:, 0], ("agents", "load of the agents, %", "wait of the oldest job, s"), strict=True):
        axes.set_ylabel(label)
    longest_s = max(sample.oldest_wait_s for outcome, _ in runs for sample in outcome.samples)
    rows[2][0].set_ylim(0, 1.05 * max(1.0, longest_s))
    marks = [handle for axes in (rows[0][0], rows[1][0]) for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=9, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=80)
    # Few colours and no metadata: a third of the bytes, and the same figures give the same file.
    Image.open(drawn).convert("RGB").quantize(_COLOURS).save(path, optimize=True)


def _draw_column(outcome: Outcome, agents: Axes, load: Axes, wait: Axes) -> None:
    samples = outcome.samples
    hours = [sample.at_s / 3600 for sample in samples]
    agents.stackplot(
        hours,
        [sample.agents_online for sample in samples],
        [sample.agents_pending for sample in samples],
        [sample.agents_draining for sample in samples],
        labels=["online", "pending", "draining"],
        colors=[_ONLINE, _PENDING, _DRAINING],
        step="post",
        linewidth=0,
    )
    loads = [sample.capacity_pct_avg for sample in samples]
    width = max(1, len(loads) // _LOAD_POINTS)
    groups = range(0, len(loads) - width + 1, width)
    means = [sum(loads[index : index + width]) / width for index in groups]
    load.plot([hours[index] for index in groups], means, color=_LOAD, linewidth=1, label="load, averaged")
    for level_pct, colour, label in _MARKS_PCT:
        load.axhline(level_pct, color=colour, linewidth=0.8, linestyle="--", label=label)
    load.set_ylim(0, 105)
    wait.fill_between(hours, [sample.oldest_wait_s for sample in samples], color=_WAIT, linewidth=0.6, alpha=0.85)
    for axes in (agents, load, wait):
        axes.grid(visible=True, linewidth=0.3)
        axes.set_axisbelow(True)
        axes.margins(x=0)
