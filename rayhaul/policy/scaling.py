"""How many agents there should be, by the rule whose action is auto-scale, and which one to drain.

Each tick: `observe` takes the situation into the memory, `decide` says how many agents are wanted, `remember` notes
that it was acted on. Growing: while the rule fires, as many as bring the average down to UTILISATION_TARGET_PCT.
Shrinking: when for a whole window one agent fewer would have stayed a margin under that target.

Laws of this file:
1. Pending agents count as capacity, in both directions: what was asked for is neither asked for twice nor forgotten.
2. What the bounds demand is done at once, and so is the first agent for jobs that wait; everything else waits until
   the cooldown since the last change is over.
3. Load that stays the same leads to a number of agents that stays the same: with one agent fewer than growing chose,
   the load would be over the target, and shrinking needs it to be a margin under.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from rayhaul.capacity import Capacity
from rayhaul.policy.alert_rules import Action, AlertRule, Comparison, Operator
from rayhaul.policy.scheduling import Load
from rayhaul.policy.windows import Smoothed, Window, is_firing, smooth
from rayhaul.policy.windows import observe as observed
from rayhaul.settings import ScalingSettings

#: What scaling out aims at. Source: the observability specification, worker.capacity_pct: "> 85% -> scale-out".
UTILISATION_TARGET_PCT = 85.0
#: The metric that an auto-scale rule must be about.
CAPACITY_METRIC = "worker.capacity_pct"
#: Two scrapes of Prometheus at its usual 15 s: a rule must not fire on what nobody has seen for longer.
SAMPLE_GAP_S_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    now_s: float
    #: Online, able to take leases.
    agents_count: int
    #: Asked for, not here yet.
    agents_pending: int = 0
    #: Finishing their leases; still there, but no capacity any more.
    agents_draining: int = 0
    #: As `average_pct` says.
    capacity_pct_avg: float | None
    #: Jobs that could start now. Only asked when there is no agent, or only one and that may go.
    jobs_waiting: int = 0
    #: How many more there may be, beside those of no use (unfit for long, say goodbye); None: as the bounds say.
    room: int | None = None

    @property
    def agents_current(self) -> int:
        return self.agents_count + self.agents_pending


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the next decision needs to know of the ones before. It may be lost: then the windows begin anew."""

    high: Window
    #: Over what the average would be with one agent fewer.
    low: Window
    load: Smoothed = field(default_factory=Smoothed)
    #: The `agents_current` that `low` is about.
    agents: int = 0
    #: When the number was last changed by load; None: not in this life.
    changed_at_s: float | None = None


class Reason(StrEnum):
    #: Nothing speaks for a change.
    STEADY = "steady"
    #: Fewer than `agents_min` or more than `agents_max`.
    BOUNDS = "bounds"
    #: Jobs wait and there is no agent.
    WAKE = "wake"
    SCALE_OUT = "scale_out"
    SCALE_IN = "scale_in"
    #: A change is due, but the last one is too fresh.
    COOLDOWN = "cooldown"
    #: The rule fires, and `agents_max` is reached.
    AT_MAX = "at_max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many agents there should be, pending ones included. Fewer than now: withdraw pending ones, drain the rest."""

    wanted: int
    reason: Reason
    situation: Situation
    #: The smoothed average the decision was made from; None when nothing is known.
    load_pct: float | None

    @property
    def change(self) -> int:
        return self.wanted - self.situation.agents_current

    def __str__(self) -> str:
        now, load = self.situation, "unknown" if self.load_pct is None else f"{self.load_pct:.1f} %"
        return (
            f"{self.reason}: {self.wanted} agents wanted; {now.agents_count} online, {now.agents_pending} pending, "
            f"{now.agents_draining} draining, load {load}"
        )


def auto_scale_rule(rules: Iterable[AlertRule]) -> AlertRule:
    """Return the one rule whose action is auto-scale.

    Raises: ValueError, one sentence, where there is none or more than one, or where it is no rule about high load.
    """
    found = [rule for rule in rules if rule.action is Action.AUTO_SCALE]
    if len(found) != 1:
        raise ValueError(f"There must be one alert with action auto-scale; there are {len(found)}.")
    rule = found[0]
    about_load = rule.condition.metric == CAPACITY_METRIC and rule.condition.divisor is None
    if not about_load or rule.condition.operator not in {Operator.ABOVE, Operator.AT_LEAST}:
        raise ValueError(f"Alert {rule.name}: action auto-scale needs a condition like '{CAPACITY_METRIC} > 90'.")
    if rule.condition.threshold < UTILISATION_TARGET_PCT:
        raise ValueError(
            f"Alert {rule.name}: action auto-scale under {UTILISATION_TARGET_PCT:g} would have no agents to add."
        )
    return rule


def beginning(rule: AlertRule, settings: ScalingSettings) -> Memory:
    """Return the memory of a scheduler that has seen nothing yet."""
    low = Comparison(metric=CAPACITY_METRIC, operator=Operator.BELOW, threshold=_low_pct(settings))
    return Memory(
        high=Window(condition=rule.condition, window_s=rule.window_s, gap_s_max=SAMPLE_GAP_S_MAX),
        low=Window(condition=low, window_s=settings.scale_in_window_s, gap_s_max=SAMPLE_GAP_S_MAX),
    )


def observe(memory: Memory, situation: Situation, settings: ScalingSettings) -> Memory:
    """Return the memory after a tick's reading."""
    now_s = situation.now_s
    # With another number of agents the question is another one: its window begins anew.
    low = memory.low if situation.agents_current == memory.agents else replace(memory.low, since_s=None)
    load = smooth(memory.load, situation.capacity_pct_avg, now_s, smoothing_s=settings.smoothing_s)
    return replace(
        memory,
        load=load,
        high=observed(memory.high, load.value, now_s),
        low=observed(low, _pct_with_one_fewer(situation, load.value), now_s),
        agents=situation.agents_current,
    )


def decide(memory: Memory, situation: Situation, settings: ScalingSettings) -> Decision:
    """Say how many agents there should be. `memory` has observed this situation."""
    current, load_pct = situation.agents_current, memory.load.value
    wanted, reason = current, Reason.STEADY
    if (bounded := _within_bounds(current, settings)) != current:
        wanted, reason = bounded, Reason.BOUNDS
    elif current == 0:
        if situation.jobs_waiting > 0:
            wanted, reason = 1, Reason.WAKE
    elif is_firing(memory.high, situation.now_s) and load_pct is not None:
        wanted, reason = _grown(situation, load_pct, settings)
    elif is_firing(memory.low, situation.now_s) and load_pct is not None:
        wanted, reason = _shrunk(situation, load_pct, settings)
    if reason in {Reason.SCALE_OUT, Reason.SCALE_IN} and _is_cooling(memory, situation.now_s, settings):
        wanted, reason = current, Reason.COOLDOWN
    if situation.room is not None and wanted > current + situation.room:
        wanted = current + max(0, situation.room)
        reason = Reason.AT_MAX if wanted == current else reason
    return Decision(wanted=wanted, reason=reason, situation=situation, load_pct=load_pct)


def remember(memory: Memory, decision: Decision) -> Memory:
    """Return the memory after a decision was acted on.

    Repairs by the bounds start no cooldown: an agent that is lost again and again must not keep the rule from acting.
    """
    if decision.change == 0 or decision.reason is Reason.BOUNDS:
        return memory
    return replace(memory, changed_at_s=decision.situation.now_s)


def shifted(memory: Memory, by_s: float) -> Memory:
    """Return the memory on a clock that was set. The windows see the step themselves, and begin anew."""
    return replace(memory, changed_at_s=None if memory.changed_at_s is None else memory.changed_at_s + by_s)


def average_pct(readings: Iterable[tuple[Capacity, int]]) -> float | None:
    """Return the average load of the online agents; None without any.

    A reading is what an agent reported and how many leases the scheduler has given it, this tick's included. The larger
    count stands, for a report shows slots free that were filled again since: simulated on reports alone, a saturated
    cluster of three-second jobs read 75 %, and the rule never fired.
    """
    loads = [
        replace(reported, slots_used=max(reported.slots_used, leases_count)).capacity_pct
        for reported, leases_count in readings
    ]
    return sum(loads) / len(loads) if loads else None


def pick_drain(loads: Iterable[Load]) -> str | None:
    """Return the agent that is done soonest: fewest leases, then fewest slots, then by name; None without any."""
    first = min(loads, key=lambda load: (load.used, load.slots, load.agent), default=None)
    return None if first is None else first.agent


def _within_bounds(agents: int, settings: ScalingSettings) -> int:
    return min(max(agents, settings.agents_min), settings.agents_max)


def _grown(situation: Situation, load_pct: float, settings: ScalingSettings) -> tuple[int, Reason]:
    """Return as many agents as bring the average down to the target; draining ones still take their room."""
    current = situation.agents_current
    needed = _needed(situation, load_pct, UTILISATION_TARGET_PCT)
    room = max(current, settings.agents_max - situation.agents_draining)
    wanted = min(max(needed, current), room)
    if wanted > current:
        return wanted, Reason.SCALE_OUT
    return current, Reason.AT_MAX if needed > current else Reason.STEADY


def _shrunk(situation: Situation, load_pct: float, settings: ScalingSettings) -> tuple[int, Reason]:
    """Return fewer agents: one, or a share of many, and never so few that the load would pass the low mark."""
    current = situation.agents_current
    step = max(1, current * settings.scale_in_share_pct // 100)
    wanted = max(current - step, _needed(situation, load_pct, _low_pct(settings)), settings.agents_min)
    return (wanted, Reason.SCALE_IN) if wanted < current else (current, Reason.STEADY)


def _needed(situation: Situation, load_pct: float, pct: float) -> int:
    """Return how many agents carry the load at an average of at most `pct`.

    Rounded first: an average that was smoothed never quite falls to zero, and such dust needs no agent.
    """
    return math.ceil(round(situation.agents_count * load_pct / pct, 6))


def _pct_with_one_fewer(situation: Situation, load_pct: float | None) -> float | None:
    """Return what the average would be with one agent fewer; None when that cannot be, or nobody may go.

    The last agent may go when it has nothing to do and nothing waits.
    """
    left = situation.agents_current - 1
    if load_pct is None or left < 0:
        return None
    if left == 0:
        return 0.0 if situation.capacity_pct_avg == 0 and situation.jobs_waiting == 0 else None
    return situation.agents_count * load_pct / left


def _low_pct(settings: ScalingSettings) -> float:
    return UTILISATION_TARGET_PCT - settings.scale_in_margin_pct


def _is_cooling(memory: Memory, now_s: float, settings: ScalingSettings) -> bool:
    return memory.changed_at_s is not None and now_s - memory.changed_at_s < settings.cooldown_s
