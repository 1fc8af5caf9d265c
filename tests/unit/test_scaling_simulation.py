"""The simulator, and what it shows: the policy as shipped serves the load and changes its mind rarely."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.scaling.figures import as_markdown, figures, percentile
from bench.scaling.model import Outcome, Plant, simulate
from bench.scaling.policies import ByBacklog, ByRule, Naive, Policy
from bench.scaling.traces import SLOT_BYTES_PER_S, Arrival, Trace, burst, daily, flapping, steady, traces
from rayhaul.policy.alert_rules import parse_rules
from rayhaul.policy.scaling import Situation, auto_scale_rule
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
PLANT = Plant(slots=2, boot_s=60, exit_s=15)


class Script:
    """Wants what a list says, by time."""

    name = "script"

    def __init__(self, steps: Sequence[tuple[float, int]]) -> None:
        self._steps = steps

    def wanted(self, situation: Situation, slots: int, backlog_bytes: int) -> int:
        return [wanted for at_s, wanted in self._steps if at_s <= situation.now_s][-1]


def jobs(*arrivals: tuple[float, float], duration_s: float = 400, agents_first: int = 1) -> Trace:
    """Return a trace of jobs that arrive at a time and fill a slot for so many seconds."""
    return Trace(
        name="jobs",
        title="",
        duration_s=duration_s,
        agents_first=agents_first,
        arrivals=tuple(Arrival(at_s, int(service_s * SLOT_BYTES_PER_S)) for at_s, service_s in arrivals),
    )


def policies() -> dict[str, Policy]:
    return {"rule": ByRule(RULE, SETTINGS), "naive": Naive(SETTINGS), "backlog": ByBacklog(SETTINGS)}


@pytest.fixture(scope="module")
def flapped() -> dict[str, Outcome]:
    return {name: simulate(flapping(7), policy) for name, policy in policies().items()}


def test_jobs_wait_for_slots() -> None:
    """Of three jobs for two slots the third waits until the first slot is free; each fills its slot for its time."""
    outcome = simulate(jobs((0, 30), (0, 50), (5, 10)), Script([(0, 1)]), PLANT)
    assert list(outcome.waits_s) == [0, 0, 25]
    assert outcome.slot_busy_s == 90
    assert outcome.agent_s == 400


def test_a_node_boots_before_it_works() -> None:
    """An agent asked for at 10 s takes jobs from 70 s on, and its node is paid for from the start."""
    outcome = simulate(jobs((0, 300), (0, 300), (0, 20)), Script([(0, 1), (10, 2)]), PLANT)
    assert list(outcome.waits_s) == [0, 0, 70]
    assert list(outcome.changes) == [(10, 1)]
    assert outcome.agent_s == 400 + 390
    pending = [sample.at_s for sample in outcome.samples if sample.agents_pending]
    assert (pending[0], pending[-1]) == (20, 60)


def test_a_drained_agent_finishes_and_goes() -> None:
    """The agent with the fewest leases takes no more, ends the one it has, and its node stays a moment longer."""
    trace = jobs((0, 100), (0, 80), (0, 100), (50, 10), agents_first=2)
    outcome = simulate(trace, Script([(0, 2), (20, 1)]), PLANT)
    assert list(outcome.changes) == [(20, -1)]
    # agent-2 has one lease, until 80 s; the job of 50 s waits for agent-1, which is full until 100 s.
    assert list(outcome.waits_s) == [0, 0, 0, 50]
    assert outcome.agent_s == 400 + 95
    draining = [sample.at_s for sample in outcome.samples if sample.agents_draining]
    assert (draining[0], draining[-1]) == (30, 90)


def test_pending_agents_are_withdrawn_first() -> None:
    """Whoever is not here yet goes before anyone is drained."""
    outcome = simulate(jobs((0, 10)), Script([(0, 1), (10, 3), (20, 1)]), PLANT)
    assert list(outcome.changes) == [(10, 2), (20, -2)]
    assert outcome.agent_s == 400 + 2 * 10
    assert all(sample.agents_draining == 0 for sample in outcome.samples)


def test_a_run_that_does_not_end_is_no_result() -> None:
    """Figures of a run whose queue never emptied would leave the longest waits out."""
    with pytest.raises(RuntimeError, match="1 jobs still wait"):
        simulate(jobs((0, 900), (0, 900), (1, 10)), Script([(0, 1)]), PLANT)


def test_the_same_seed_is_the_same_run() -> None:
    """A trace and a run repeat exactly; another seed gives other jobs."""
    assert burst(3) == burst(3)
    assert burst(3) != burst(4)
    assert simulate(burst(3), ByRule(RULE, SETTINGS)) == simulate(burst(3), ByRule(RULE, SETTINGS))


def test_traces_load_what_they_say() -> None:
    """The jobs of the steady trace fill 20 slots on average, within what chance allows."""
    trace = steady(1)
    busy_s = sum(arrival.size_bytes for arrival in trace.arrivals) / SLOT_BYTES_PER_S
    assert busy_s / (trace.duration_s - 1200) == pytest.approx(20, rel=0.1)
    assert [trace.name for trace in traces(1)] == ["steady", "burst", "daily", "flapping"]
    assert list(trace.arrivals) == sorted(trace.arrivals, key=lambda arrival: arrival.at_s)


def test_the_rule_does_not_flap(flapped: dict[str, Outcome]) -> None:
    """On a load made to flap, the rule changes not a fiftieth as often as the naive formula; waits are shorter."""
    rows = {name: figures(outcome, Plant().slots) for name, outcome in flapped.items()}
    assert rows["rule"].changes * 50 < rows["naive"].changes
    assert rows["rule"].reversals <= 1
    assert rows["rule"].changes < rows["backlog"].changes
    assert rows["rule"].wait_p95_s < rows["naive"].wait_p95_s
    assert rows["rule"].agent_s < rows["backlog"].agent_s


def test_the_rule_ends_a_burst() -> None:
    """A burst brings all agents the bounds allow, and quiet takes them away again, each in one sweep."""
    trace = burst(7)
    outcome = simulate(trace, ByRule(RULE, SETTINGS))
    row = figures(outcome, Plant().slots)
    assert row.agents_max == SETTINGS.agents_max
    assert outcome.samples[-1].agents_online <= 2
    assert row.reversals <= 3
    faster = figures(simulate(trace, ByBacklog(SETTINGS)), Plant().slots)
    assert faster.wait_p95_s < row.wait_p95_s, "the price of waiting for three minutes of high load"


def test_a_shorter_cooldown_shortens_a_burst() -> None:
    """With 60 s instead of 180 s between changes a burst waits less, for a few changes more at most."""
    trace, short = burst(7), SETTINGS.model_copy(update={"cooldown_s": 60.0})
    shipped, eager = (figures(simulate(trace, ByRule(RULE, limits)), Plant().slots) for limits in (SETTINGS, short))
    assert eager.wait_p95_s < 0.75 * shipped.wait_p95_s
    assert eager.changes <= shipped.changes + 4


def test_a_day() -> None:
    """Six hours of the day's rise: the number of agents only rises, and jobs hardly wait."""
    whole = daily(7)
    morning = replace(
        whole, duration_s=6 * 3600.0, arrivals=tuple(a for a in whole.arrivals if a.at_s < 6 * 3600.0 - 600)
    )
    outcome = simulate(morning, ByRule(RULE, SETTINGS))
    assert all(change > 0 for at_s, change in outcome.changes if at_s < 5 * 3600)
    assert percentile(outcome.waits_s, 95) < 30


def test_no_run_passes_the_bounds(flapped: dict[str, Outcome]) -> None:
    """The rule's nodes, draining ones included, stay within 1 and 8."""
    for sample in flapped["rule"].samples:
        assert sample.agents_online + sample.agents_pending >= 1
        assert sample.agents_online + sample.agents_pending + sample.agents_draining <= SETTINGS.agents_max


def test_percentiles_and_tables() -> None:
    """The nearest rank, and one row a run."""
    assert [percentile([3.0, 1.0, 2.0, 4.0], pct) for pct in (1, 50, 75, 95, 100)] == [1.0, 2.0, 3.0, 4.0, 4.0]
    row = figures(simulate(jobs((0, 30), (0, 50), (5, 10)), Script([(0, 1), (200, 2), (300, 1)]), PLANT), 2)
    assert as_markdown([row]).splitlines()[2] == "| jobs | script | 0 / 25 / 25 | 0.1 | 9 % | 2 | 2 | 1 |"
