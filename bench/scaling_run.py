"""Draws the run that tests/cluster/test_scaling_run.py recorded, real raylets and all: `python -m bench.scaling_run`.

The recording is made by `RAYHAUL_SCALING_RUN=bench/results/scaling-run.json pytest tests/cluster/test_scaling_run.py`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_ROOT = Path(__file__).parents[1]
_RECORDED = _ROOT / "bench" / "results" / "scaling-run.json"
_PICTURE = _ROOT / "docs" / "scaling-run.png"

_ONLINE, _PENDING, _DRAINING, _NODES = "#2b6cb0", "#f6ad55", "#a0aec0", "#1a202c"
_LOAD, _QUEUE, _OUT, _IN = "#2f855a", "#c53030", "#dd6b20", "#6b46c1"
_MARKS_PCT = ((90, "#c53030", "the rule: 90 %"), (85, "#718096", "the target: 85 %"))


def main() -> None:
    run = json.loads(_RECORDED.read_text())
    figure = Figure(figsize=(9, 8), layout="constrained")
    agents, load, queue, leases = figure.subplots(4, 1, sharex=True, height_ratios=(3, 2, 2, 2))
    figure.suptitle(_title(run["setup"]), fontsize=11)
    _draw_agents(agents, run["samples"])
    _draw_load(load, run["samples"])
    _draw_queue(queue, run["samples"])
    _draw_jobs(leases, run["jobs"])
    for axes in (agents, load, queue, leases):
        _draw_decisions(axes, run["decisions"])
        axes.grid(visible=True, linewidth=0.3)
        axes.set_axisbelow(True)
        axes.margins(x=0)
    agents.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8, ncols=4, frameon=False)
    load.legend(loc="lower left", fontsize=8)
    leases.set_xlabel("seconds since the jobs came")
    _PICTURE.parent.mkdir(exist_ok=True)
    # No metadata: the same recording gives the same file.
    figure.savefig(_PICTURE, dpi=100, metadata={"Software": None})
    print(f"{_PICTURE.relative_to(_ROOT)} from {_RECORDED.relative_to(_ROOT)}")


def _title(setup: Mapping[str, Any]) -> str:
    return (
        f"{setup['burst_jobs']} jobs at once, then {setup['tail_jobs']} long ones; {setup['slots']} slots an agent, "
        f"one agent a node\nRay {setup['ray']}, autoscaler v2; rule window {setup['window_s']} s, "
        f"cooldown {setup['cooldown_s']:g} s, scale-in window {setup['scale_in_window_s']:g} s, "
        f"node idle timeout {setup['node_idle_timeout_s']:g} s"
    )


def _times(samples: Sequence[Mapping[str, Any]]) -> Sequence[float]:
    return [sample["at_s"] for sample in samples]


def _draw_agents(axes: Axes, samples: Sequence[Mapping[str, Any]]) -> None:
    states = {"online": _ONLINE, "pending": _PENDING, "draining": _DRAINING}
    axes.stackplot(
        _times(samples),
        [[sample[f"agents_{state}"] for sample in samples] for state in states],
        labels=[f"agents {state}" for state in states],
        colors=list(states.values()),
        step="post",
        linewidth=0,
    )
    nodes = [sample["nodes"] for sample in samples]
    axes.step(_times(samples), nodes, where="post", color=_NODES, linewidth=1.6, label="nodes (Ray's GCS), head aside")
    axes.set_ylim(0, max(nodes) + 1.2)
    axes.set_ylabel("agents, nodes")


def _draw_load(axes: Axes, samples: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(_times(samples), [sample["capacity_pct_avg"] for sample in samples], color=_LOAD, linewidth=1.2)
    for level_pct, colour, label in _MARKS_PCT:
        axes.axhline(level_pct, color=colour, linewidth=0.8, linestyle="--", label=label)
    axes.set_ylim(0, 105)
    axes.set_ylabel("capacity used, %")


def _draw_queue(axes: Axes, samples: Sequence[Mapping[str, Any]]) -> None:
    depth = [sample["queue_depth"] for sample in samples]
    axes.fill_between(_times(samples), depth, step="post", color=_QUEUE, linewidth=0, alpha=0.85)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("jobs waiting")


def _draw_jobs(axes: Axes, jobs: Sequence[Mapping[str, Any]]) -> None:
    """Draw each job as a bar from its start to its end, in a band of its agent."""
    names = sorted({job["agent"] for job in jobs})
    for band, name in enumerate(names):
        ends_s: list[float] = []
        for job in sorted((job for job in jobs if job["agent"] == name), key=lambda job: job["started_s"]):
            # The lowest line of the band that is free again; times are rounded.
            line = next((n for n, end_s in enumerate(ends_s) if end_s <= job["started_s"] + 0.01), len(ends_s))
            ends_s[line : line + 1] = [job["completed_s"]]
            width_s = job["completed_s"] - job["started_s"]
            axes.barh(5 * band + line, width_s, left=job["started_s"], height=0.8, color=_ONLINE, edgecolor="white")
    axes.set_yticks([5 * band + 1.5 for band in range(len(names))], names)
    axes.set_ylabel("jobs")


def _draw_decisions(axes: Axes, decisions: Sequence[Mapping[str, Any]]) -> None:
    top = axes.get_ylim()[1]
    for decision in decisions:
        is_out = decision["reason"] == "scale_out"
        axes.axvline(decision["at_s"], color=_OUT if is_out else _IN, linewidth=1, linestyle=":")
        if axes.get_subplotspec().is_first_row():  # type: ignore[union-attr]
            text = f"{'out' if is_out else 'in'} to {decision['wanted']}"
            axes.text(decision["at_s"] + 0.4, 0.96 * top, text, rotation=90, va="top", fontsize=8)


if __name__ == "__main__":
    main()
