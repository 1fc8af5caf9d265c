"""The cluster's sum: it never jumps, never falls while its scheduler lives, and shows no gauge of the dead."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.counts import Counts
from rayhaul.metrics import HTTP_DURATION, JOBS_FINISHED, SINK_BYTES, SSE_CONNECTIONS, Meter, Snapshot

BYTES = (SINK_BYTES.name, ())


def total(counts: Counts, now_s: float = 0.0) -> float:
    return counts.sum(now_s).counters.get(BYTES, 0)


def test_what_is_told_again_or_late_changes_nothing() -> None:
    """Snapshots are cumulative and numbered."""
    counts, meter = Counts(), Meter()
    meter.inc(SINK_BYTES, by=5)
    first = meter.snapshot()
    meter.inc(SINK_BYTES, by=7)
    second = meter.snapshot()
    for told in (first, second, second, first):
        counts.hear("agent-1/a", told, 0.0)
    assert total(counts) == 12


def test_a_new_scheduler_hears_an_old_process_from_where_it_stands() -> None:
    """What was counted under the old scheduler is not counted at once under the new one."""
    meter = Meter()
    meter.inc(SINK_BYTES, by=1_000_000)
    meter.observe(HTTP_DURATION, 0.3, "GET", "/jobs")
    before = Counts()
    before.hear("api_1", meter.snapshot(), 0.0)
    assert total(before) == 1_000_000
    after = Counts()
    after.hear("api_1", meter.snapshot(), 0.0)
    assert total(after) == 0
    meter.inc(SINK_BYTES, by=3)
    meter.observe(HTTP_DURATION, 0.2, "GET", "/jobs")
    after.hear("api_1", meter.snapshot(), 0.0)
    assert total(after) == 3
    histogram = after.sum(0.0).histograms[HTTP_DURATION.name, ("GET", "/jobs")]
    assert (sum(histogram.counts), round(histogram.total, 6)) == (1, 0.2)


def test_an_agent_of_an_earlier_release_is_heard() -> None:
    """Its snapshots have no number; they count from the first one heard."""
    counts = Counts()
    old = Snapshot(counters={BYTES: 10})
    object.__delattr__(old, "number")
    newer = Snapshot(counters={BYTES: 12})
    object.__delattr__(newer, "number")
    counts.hear("agent-1/a", old, 0.0)
    counts.hear("agent-1/a", newer, 1.0)
    assert total(counts) == 2


def test_counts_of_the_gone_stay_and_their_gauges_go() -> None:
    """A replica that falls silent has no open streams; what it had counted is not lost, also when it comes back."""
    counts, meter = Counts(), Meter()
    meter.inc(SINK_BYTES, by=5)
    meter.set(SSE_CONNECTIONS, 3)
    counts.hear("api_1", meter.snapshot(), 0.0)
    gauge = (SSE_CONNECTIONS.name, ())
    assert counts.sum(60.0).gauges == {gauge: 3}
    assert counts.sum(61.0).gauges == {}
    assert total(counts, 61.0) == 5
    meter.inc(SINK_BYTES, by=2)
    counts.hear("api_1", meter.snapshot(), 70.0)
    assert counts.sum(70.0).gauges == {gauge: 3}
    assert total(counts, 70.0) == 7
    assert total(counts, 9_000.0) == 7
    counts.part_with("api_1")
    counts.part_with("nobody")
    assert total(counts, 9_000.0) == 7


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.sampled_from(["tell", "lose", "die", "wait"])), max_size=40
)


@settings(deadline=None)
@given(STEPS)
def test_the_sum_never_falls_and_never_exceeds_what_was_counted(steps: list[tuple[str, int, str]]) -> None:
    """Whatever is lost on the way, and whoever dies."""
    counts, meters = Counts(), {name: Meter() for name in "abc"}
    counted, last, now_s = 0, 0.0, 0.0
    lives = dict.fromkeys("abc", 0)
    for name, amount, what in steps:
        meters[name].inc(JOBS_FINISHED, "failed", "source", "source_busy", by=amount)
        counted += amount
        told = meters[name].snapshot()
        if what == "tell":
            counts.hear(f"{name}/{lives[name]}", told, now_s)
        elif what == "die":
            meters[name], lives[name] = Meter(), lives[name] + 1
        elif what == "wait":
            now_s += 2_000
        total_now = sum(counts.sum(now_s).counters.values())
        assert last <= total_now <= counted
        last = total_now


def test_a_sum_is_no_process() -> None:
    """The sum carries no number of its own."""
    counts = Counts()
    counts.hear("a", replace(Meter().snapshot(), gauges={}), 0.0)
    assert counts.sum(0.0) == Snapshot()
