"""Replays the traces against the policies, writes figures and pictures: `python -m bench.scaling` (make simulate)."""

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from bench.scaling.figures import Figures, as_data, as_markdown, figures
from bench.scaling.model import Plant, simulate
from bench.scaling.picture import draw
from bench.scaling.policies import ByBacklog, ByRule, Naive, Policy
from bench.scaling.traces import traces
from rayhaul.policy.alert_rules import AlertRule, parse_rules
from rayhaul.policy.scaling import auto_scale_rule
from rayhaul.settings import ScalingSettings

_ROOT = Path(__file__).parents[2]
_RESULTS = _ROOT / "bench" / "results" / "scaling"
_SEED = 1
#: As long as a node takes to boot: a shorter one would decide again before the last decision shows.
_COOLDOWN_SHORT_S = 60

_HEAD = """# Scaling, simulated

Written by `make simulate`. Agents have {slots} slots, a node boots in {boot_s:.0f} s, there may be {agents_min} to
{agents_max} agents. What the model leaves out is said in `bench/scaling/model.py`.

- **rule**: what Rayhaul does (`rayhaul/policy/scaling.py`), default settings: {condition} for {window_s} s.
- **rule, cooldown {short_s} s**: the same with `RAYHAUL_SCALING__COOLDOWN_S={short_s}`.
- **naive**: the rule's formula at every tick, with no window, cooldown or margin.
- **backlog**: backlog bytes over bytes/s, the queue to be empty in {goal_s:.0f} s; it knows all sizes and rates.

"""


def main() -> None:
    rule, settings, plant = _rule(), ScalingSettings(), Plant()
    rows: list[Figures] = []
    for trace in traces(_SEED):
        outcomes = [simulate(trace, policy, plant) for policy in _policies(rule, settings)]
        runs = [(outcome, figures(outcome, plant.slots)) for outcome in outcomes]
        draw(trace, runs, _RESULTS / f"{trace.name}.png")
        rows += [row for _, row in runs]
    head = _HEAD.format(
        slots=plant.slots,
        boot_s=plant.boot_s,
        agents_min=settings.agents_min,
        agents_max=settings.agents_max,
        condition=rule.condition,
        window_s=rule.window_s,
        short_s=_COOLDOWN_SHORT_S,
        goal_s=ByBacklog.GOAL_S,
    )
    table = as_markdown(rows)
    (_RESULTS / "README.md").write_text(head + table + _pictures({row.trace: None for row in rows}))
    (_RESULTS / "figures.json").write_text(json.dumps(as_data(rows), indent=1) + "\n")
    print(table, end="")


def _policies(rule: AlertRule, settings: ScalingSettings) -> Sequence[Policy]:
    """Return the policies anew: each run begins with an empty memory."""
    short = settings.model_copy(update={"cooldown_s": _COOLDOWN_SHORT_S})
    return (
        ByRule(rule, settings),
        ByRule(rule, short, name=f"rule, cooldown {_COOLDOWN_SHORT_S} s"),
        Naive(settings),
        ByBacklog(settings),
    )


def _rule() -> AlertRule:
    return auto_scale_rule(parse_rules(yaml.safe_load((_ROOT / "dashboards" / "alerts.yaml").read_text())))


def _pictures(names: dict[str, None]) -> str:
    return "".join(f"\n![{name}]({name}.png)\n" for name in names)


if __name__ == "__main__":
    main()
