"""Scaling: tables of single decisions, and what must hold of every run of them."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayhaul.capacity import Capacity
from rayhaul.policy.alert_rules import parse_rules
from rayhaul.policy.scaling import (
    UTILISATION_TARGET_PCT,
    Decision,
    Memory,
    Reason,
    Situation,
    auto_scale_rule,
    average_pct,
    beginning,
    decide,
    observe,
    pick_drain,
    remember,
)
from rayhaul.policy.scheduling import Load
from rayhaul.settings import ScalingSettings

HIGH = {
    "name": "WorkerCapacityHigh",
    "condition": "worker.capacity_pct > 90",
    "window": "3m",
    "severity": "P3",
    "action": "auto-scale",
}
RULE = auto_scale_rule(parse_rules({"alerts": [HIGH]}))
SETTINGS = ScalingSettings()
LOW_PCT = UTILISATION_TARGET_PCT - SETTINGS.scale_in_margin_pct
_STEP_S = 10.0

bounds = st.builds(
    lambda low, more, **rest: ScalingSettings(agents_min=low, agents_max=max(1, low + more), **rest),
    st.integers(0, 10),
    st.integers(0, 40),
    cooldown_s=st.integers(0, 600).map(float),
    scale_in_share_pct=st.integers(1, 50),
)


def situation(agents: int, load_pct: float | None, now_s: float = 0, **more: Any) -> Situation:
    return Situation(now_s=now_s, agents_count=agents, capacity_pct_avg=load_pct, **more)


def held(now: Situation, held_s: float, limits: ScalingSettings = SETTINGS, memory: Memory | None = None) -> Decision:
    """Return the decision after a situation has lasted, sampled as a scheduler would; it ends at `now.now_s`."""
    memory = memory or beginning(RULE, limits)
    steps = int(held_s / _STEP_S)
    for step in range(steps + 1):
        past = replace(now, now_s=now.now_s - (steps - step) * _STEP_S)
        memory = observe(memory, past, limits)
    return decide(memory, now, limits)


@pytest.mark.parametrize(
    ("now", "held_s", "wanted", "reason"),
    [
        # ceil(agents x load / 85) once the rule fires.
        (situation(2, 100.0), 180, 3, Reason.SCALE_OUT),
        (situation(4, 100.0), 180, 5, Reason.SCALE_OUT),
        (situation(6, 100.0), 180, 8, Reason.SCALE_OUT),
        (situation(4, 90.5), 180, 5, Reason.SCALE_OUT),
        (situation(4, 90.0), 180, 4, Reason.STEADY),
        (situation(4, 100.0), 170, 4, Reason.STEADY),
        # Within agents_max, draining agents included.
        (situation(8, 100.0), 180, 8, Reason.AT_MAX),
        (situation(7, 100.0), 180, 8, Reason.SCALE_OUT),
        (situation(5, 100.0, agents_draining=2), 180, 6, Reason.SCALE_OUT),
        (situation(6, 100.0, agents_draining=2), 180, 6, Reason.AT_MAX),
        (situation(7, 100.0, agents_draining=3), 180, 7, Reason.AT_MAX),
        # Pending agents are capacity already.
        (situation(4, 100.0, agents_pending=1), 180, 5, Reason.STEADY),
        (situation(6, 100.0, agents_pending=1), 180, 8, Reason.SCALE_OUT),
        (situation(0, None, agents_pending=3), 600, 3, Reason.STEADY),
        # One agent fewer once the rest would stay under 70 %.
        (situation(4, 52.0), 300, 3, Reason.SCALE_IN),
        (situation(4, 52.0), 290, 4, Reason.STEADY),
        (situation(4, 53.0), 300, 4, Reason.STEADY),
        (situation(8, 0.0), 300, 7, Reason.SCALE_IN),
        (situation(1, 0.0), 300, 1, Reason.STEADY),
        # What is pending and not needed is taken back first; it counts.
        (situation(2, 60.0, agents_pending=2), 300, 3, Reason.SCALE_IN),
        (situation(2, 60.0, agents_pending=0), 300, 2, Reason.STEADY),
        # The bounds at once.
        (situation(0, None), 0, 1, Reason.BOUNDS),
        (situation(11, 100.0), 0, 8, Reason.BOUNDS),
        (situation(7, 50.0, agents_pending=3), 0, 8, Reason.BOUNDS),
    ],
)
def test_decisions(now: Situation, held_s: float, wanted: int, reason: Reason) -> None:
    """What follows when a situation has lasted for a while, with the default settings: 1 to 8 agents."""
    decision = held(now, held_s)
    assert (decision.wanted, decision.reason) == (wanted, reason)
    assert decision.change == wanted - now.agents_current


@pytest.mark.parametrize(
    ("now", "wanted", "reason"),
    [
        (situation(1, 0.0), 0, Reason.SCALE_IN),
        (situation(1, 0.0, jobs_waiting=1), 1, Reason.STEADY),
        (situation(1, 3.0), 1, Reason.STEADY),
        (situation(2, 3.0), 1, Reason.SCALE_IN),
        (situation(0, None), 0, Reason.STEADY),
        (situation(0, None, jobs_waiting=5), 1, Reason.WAKE),
        (situation(0, None, jobs_waiting=5, agents_pending=1), 1, Reason.STEADY),
    ],
)
def test_down_to_nothing(now: Situation, wanted: int, reason: Reason) -> None:
    """With agents_min 0 the last agent goes when there is nothing to do, and the first job brings one back at once."""
    decision = held(now, 300, ScalingSettings(agents_min=0))
    assert (decision.wanted, decision.reason) == (wanted, reason)


def test_the_last_agent_goes_after_work() -> None:
    """A smoothed load never quite falls to zero; an idle agent goes all the same."""
    limits = ScalingSettings(agents_min=0)
    memory = observe(beginning(RULE, limits), situation(1, 100.0, now_s=-320), limits)
    assert held(situation(1, 0.0), 310, limits, memory).wanted == 0


def test_the_upper_bound_wins() -> None:
    """Where the bounds contradict each other, the one that limits the cost holds."""
    assert held(situation(3, 50.0), 0, ScalingSettings(agents_min=5, agents_max=2)).wanted == 2


@pytest.mark.parametrize(
    ("agents", "load_pct", "wanted"),
    [(100, 10.0, 90), (100, 60.0, 90), (100, 66.0, 95), (19, 10.0, 18), (20, 10.0, 18), (95, 0.0, 90)],
)
def test_many_agents_leave_by_share(agents: int, load_pct: float, wanted: int) -> None:
    """At most a tenth goes at once, never under what the load needs at 70 %, never under the bound."""
    limits = ScalingSettings(agents_min=10 if agents < 95 else 90, agents_max=100)
    assert held(situation(agents, load_pct), 300, limits).wanted == wanted


def test_cooldown() -> None:
    """After a change nothing changes by load until the cooldown is over; the bounds and a wake do not wait."""
    memory = replace(beginning(RULE, SETTINGS), changed_at_s=0.0)
    early = held(situation(4, 100.0, now_s=179), 180, memory=memory)
    assert (early.wanted, early.reason) == (4, Reason.COOLDOWN)
    assert held(situation(4, 100.0, now_s=180), 180, memory=memory).wanted == 5
    assert held(situation(4, 0.0, now_s=179), 300, memory=memory).reason is Reason.COOLDOWN
    assert held(situation(0, None, now_s=1), 0, memory=memory).wanted == 1
    none = ScalingSettings(agents_min=0)
    waking = held(
        situation(0, None, now_s=1, jobs_waiting=1), 0, none, replace(beginning(RULE, none), changed_at_s=0.0)
    )
    assert waking.reason is Reason.WAKE


def test_what_starts_the_cooldown() -> None:
    """A change by load does; no change and a repair by the bounds do not."""
    memory = beginning(RULE, SETTINGS)
    assert remember(memory, held(situation(4, 100.0, now_s=7), 180)).changed_at_s == 7
    assert remember(memory, held(situation(4, 80.0, now_s=7), 180)).changed_at_s is None
    assert remember(memory, held(situation(0, None, now_s=7), 0)).changed_at_s is None


def test_low_load_is_judged_anew_for_each_number() -> None:
    """Five agents at 50 % may become four; whether four may become three takes a window of its own."""
    memory, cooled = beginning(RULE, SETTINGS), ScalingSettings(cooldown_s=0)
    decision = held(situation(5, 40.0), 300, cooled, memory)
    assert decision.wanted == 4
    for step in range(30):
        memory = observe(memory, situation(5, 40.0, now_s=-300 + step * _STEP_S), cooled)
    for step in range(30):
        now = situation(4, 50.0, now_s=step * _STEP_S)
        memory = observe(memory, now, cooled)
        assert decide(memory, now, cooled).wanted == 4
    now = situation(4, 50.0, now_s=300)
    assert decide(observe(memory, now, cooled), now, cooled).wanted == 3


def test_readings_that_stop_do_not_scale() -> None:
    """The rule does not fire on what is older than two scrapes, nor across a gap."""
    memory = beginning(RULE, SETTINGS)
    for step in range(19):
        memory = observe(memory, situation(4, 100.0, now_s=step * _STEP_S), SETTINGS)
    assert decide(memory, situation(4, 100.0, now_s=210), SETTINGS).wanted == 5
    assert decide(memory, situation(4, 100.0, now_s=211), SETTINGS).wanted == 4
    late = situation(4, 100.0, now_s=220)
    assert decide(observe(memory, late, SETTINGS), late, SETTINGS).wanted == 4


def test_a_short_dip_does_not_hide_a_full_cluster() -> None:
    """One sample of free slots within the window is smoothed away; without smoothing it would begin the window anew."""
    for smoothing_s, wanted in ((15.0, 5), (0.0, 4)):
        limits = ScalingSettings(smoothing_s=smoothing_s)
        memory, now = beginning(RULE, limits), situation(4, 100.0)
        for second in range(181):
            now = situation(4, 75.0 if second == 90 else 100.0, now_s=second)
            memory = observe(memory, now, limits)
        assert decide(memory, now, limits).wanted == wanted


def test_what_the_log_says() -> None:
    """A decision tells what it was made from."""
    assert str(held(situation(4, 100.0, agents_draining=1), 180)) == (
        "scale_out: 5 agents wanted; 4 online, 0 pending, 1 draining, load 100.0 %"
    )
    assert "load unknown" in str(held(situation(0, None), 0))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"action": None}, "one alert with action auto-scale; there are 0"),
        ({"condition": "queue.depth > 2000"}, "needs a condition like"),
        ({"condition": "worker.capacity_pct < 90"}, "needs a condition like"),
        ({"condition": "worker.capacity_pct / queue.depth > 90"}, "needs a condition like"),
        ({"condition": "worker.capacity_pct > 80"}, "under 85 would have no agents to add"),
    ],
)
def test_rules_that_cannot_scale(changes: dict[str, Any], sentence: str) -> None:
    """An auto-scale rule that would never add an agent, or none at all, is refused."""
    entry = {key: text for key, text in {**HIGH, **changes}.items() if text is not None}
    with pytest.raises(ValueError, match=sentence):
        auto_scale_rule(parse_rules({"alerts": [entry]}))


def test_two_rules_that_scale() -> None:
    """Two rules with the action would be two deciders."""
    with pytest.raises(ValueError, match="there are 2"):
        auto_scale_rule([RULE, replace(RULE, name="Another")])


@pytest.mark.parametrize(
    ("loads", "picked"),
    [
        ([], None),
        ([Load("b", 8, 2), Load("a", 8, 3)], "b"),
        ([Load("b", 8, 2), Load("a", 8, 2)], "a"),
        ([Load("a", 8, 0), Load("new", 0, 0)], "new"),
        ([Load("a", 4, 2), Load("b", 32, 3)], "a"),
        ([Load("a", 32, 2), Load("b", 4, 2)], "b"),
    ],
)
def test_pick_drain(loads: list[Load], picked: str | None) -> None:
    """Who has the fewest leases is done soonest; then the smaller one goes, then by name."""
    assert pick_drain(loads) == picked
    assert pick_drain(reversed(loads)) == picked


@pytest.mark.parametrize(
    ("readings", "average"),
    [
        ([], None),
        ([(Capacity(slots=8, slots_used=4), 0)], 50.0),
        ([(Capacity(slots=8, slots_used=4), 8)], 100.0),
        ([(Capacity(slots=8, slots_used=8), 4)], 100.0),
        ([(Capacity(slots=8, slots_used=8), 8), (Capacity(slots=8, slots_used=0), 0)], 50.0),
        ([(Capacity(slots=8, slots_used=1, memory_bytes=90, memory_bytes_max=100), 2)], 90.0),
        ([(Capacity(slots=0, slots_used=0), 0)], 100.0),
    ],
)
def test_average(readings: list[tuple[Capacity, int]], average: float | None) -> None:
    """Slots count by the larger of what was reported and what was given out; the rest as reported."""
    assert average_pct(readings) == average


situations = st.builds(
    Situation,
    now_s=st.just(0.0),
    agents_count=st.integers(0, 60),
    agents_pending=st.integers(0, 20),
    agents_draining=st.integers(0, 20),
    capacity_pct_avg=st.none() | st.floats(0, 100),
    jobs_waiting=st.integers(0, 2),
)


@given(limits=bounds, now=situations, held_s=st.sampled_from([0, 180, 300]))
@settings(deadline=None)
def test_never_outside_the_bounds(limits: ScalingSettings, now: Situation, held_s: float) -> None:
    """Whatever the situation, what is wanted lies within agents_min and agents_max."""
    decision = held(now, held_s, limits)
    assert limits.agents_min <= decision.wanted <= limits.agents_max
    if decision.reason is Reason.SCALE_OUT:
        assert decision.wanted + now.agents_draining <= limits.agents_max


@given(agents=st.integers(1, 60), pending=st.integers(0, 20), load=st.floats(90.01, 100))
@settings(deadline=None)
def test_scaling_out_reaches_the_target(agents: int, pending: int, load: float) -> None:
    """Where the bounds allow it, the load that was read is at most 85 % of the agents wanted, with none to spare."""
    limits = ScalingSettings(agents_max=200)
    wanted = held(situation(agents, load, agents_pending=pending), 180, limits).wanted
    assert agents * load / wanted <= UTILISATION_TARGET_PCT + 1e-4
    if wanted > agents + pending:
        assert agents * load / (wanted - 1) > UTILISATION_TARGET_PCT


@given(agents=st.integers(2, 100), pending=st.integers(0, 20), load=st.floats(0, 100))
@settings(deadline=None)
def test_scaling_in_keeps_the_margin(agents: int, pending: int, load: float) -> None:
    """After scaling in, the load that was read is still a margin under 85 %."""
    limits = ScalingSettings(agents_min=0, agents_max=200)
    decision = held(situation(agents, load, agents_pending=pending), 300, limits)
    if decision.reason is Reason.SCALE_IN:
        assert agents * load <= LOW_PCT * decision.wanted + 1e-3


@given(limits=bounds, agents=st.integers(1, 50), loads=st.lists(st.floats(0, 100), min_size=2, max_size=2).map(sorted))
@settings(deadline=None)
def test_more_load_never_wants_fewer(limits: ScalingSettings, agents: int, loads: list[float]) -> None:
    """Of two loads held equally long, the higher one wants at least as many agents."""
    lower, higher = (held(situation(agents, load), 300, limits).wanted for load in loads)
    assert lower <= higher


def run(
    limits: ScalingSettings, agents: int, demand: Callable[[float], float], hours: float
) -> list[tuple[float, int]]:
    """Return (when, by how many) the number of agents changed, agents coming and going at once.

    `demand` is in agents that it keeps fully busy; more than there are shows as 100 %.
    """
    memory, changes = beginning(RULE, limits), list[tuple[float, int]]()
    for step in range(int(hours * 3600 / _STEP_S)):
        now_s = step * _STEP_S
        load = min(100.0, 100.0 * demand(now_s) / agents) if agents else None
        now = situation(agents, load, now_s=now_s, jobs_waiting=int(demand(now_s) > 0))
        memory = observe(memory, now, limits)
        decision = decide(memory, now, limits)
        memory = remember(memory, decision)
        if decision.change:
            changes.append((now_s, decision.change))
            agents = decision.wanted
        assert limits.agents_min <= agents <= limits.agents_max or step == 0
    return changes


@given(limits=bounds, agents=st.integers(0, 50), demand=st.floats(0, 60))
@settings(deadline=None, max_examples=60)
def test_constant_load_does_not_flap(limits: ScalingSettings, agents: int, demand: float) -> None:
    """Under a load that stays the same the number of agents goes one way only, and comes to rest."""
    changes = run(limits, agents, lambda _: demand, hours=3)
    # The first tick may repair the bounds or wake the first agent; from then on the load alone moves it.
    directions = {change > 0 for at_s, change in changes if at_s > 0}
    assert len(directions) <= 1, changes


@given(limits=bounds, agents=st.integers(1, 20), levels=st.lists(st.floats(0, 30), min_size=6, max_size=6))
@settings(deadline=None, max_examples=60)
def test_no_change_within_the_cooldown(limits: ScalingSettings, agents: int, levels: list[float]) -> None:
    """Whatever the load does, two changes by load are at least the cooldown apart."""
    changes = run(replace_min(limits), agents, lambda at_s: levels[int(at_s // 1200) % 6], hours=2)
    by_load = [at_s for at_s, _ in changes if at_s > 0]
    assert all(later - earlier >= limits.cooldown_s for earlier, later in pairwise(by_load))


def replace_min(limits: ScalingSettings) -> ScalingSettings:
    """Return the bounds without zero: waking the first agent does not wait."""
    return limits.model_copy(update={"agents_min": max(1, limits.agents_min)})


@pytest.mark.parametrize(("demand", "rests_at"), [(0.5, 1), (1.6, 2), (3.0, 4), (6.7, 8), (20.0, 8)])
def test_where_it_comes_to_rest(demand: float, rests_at: int) -> None:
    """From one agent, a load is given as many as carry it at no more than 90 %, within the bounds."""
    changes = run(SETTINGS, 1, lambda _: demand, hours=2)
    assert 1 + sum(change for _, change in changes) == rests_at
    assert rests_at == 8 or 100 * demand / rests_at <= 90
    assert math.isclose(changes[0][0], 180) if changes else rests_at == 1
