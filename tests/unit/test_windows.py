"""Windows fire when the condition held at every sample, all along, and the samples are fresh."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.policy.alert_rules import parse_condition
from rayhaul.policy.windows import Smoothed, Window, held_s, is_firing, observe, smooth

HIGH = Window(condition=parse_condition("worker.capacity_pct > 90"), window_s=180, gap_s_max=30)

Samples = list[tuple[float, float | None]]


def seen(samples: Samples) -> Window:
    window = HIGH
    for at_s, value in samples:
        window = observe(window, value, at_s)
    return window


def every(step_s: float, until_s: float, value: float = 95.0) -> Samples:
    return [(number * step_s, value) for number in range(int(until_s / step_s) + 1)]


@pytest.mark.parametrize(
    ("samples", "now_s", "fires"),
    [
        pytest.param(every(10, 180), 180, True, id="the whole window"),
        pytest.param(every(10, 170), 170, False, id="not yet"),
        pytest.param(every(10, 170), 180, False, id="time alone does not complete a window"),
        pytest.param(every(10, 500), 500, True, id="and on"),
        pytest.param(every(10, 180, value=90.0), 180, False, id="at the threshold is not above"),
        pytest.param([*every(10, 170), (180, 90.0)], 180, False, id="the last sample breaks it"),
        pytest.param([(0, 89.0), *every(10, 180)[1:]], 180, False, id="counted from the first that held"),
        pytest.param([*every(10, 90), (95, 50.0), *every(10, 280)[10:]], 280, True, id="anew after a dip"),
        pytest.param([*every(10, 90), (95, 50.0), *every(10, 270)[10:]], 270, False, id="a dip in the middle"),
        pytest.param([*every(10, 90), (95, None), *every(10, 270)[10:]], 270, False, id="nothing known"),
        pytest.param([*every(10, 90), (95, math.nan), *every(10, 270)[10:]], 270, False, id="no number"),
        pytest.param(every(30, 180), 180, True, id="as sparse as may be"),
        pytest.param(every(31, 500), 496, False, id="too sparse"),
        pytest.param(every(10, 180), 210, True, id="still fresh"),
        pytest.param(every(10, 180), 211, False, id="stale"),
        pytest.param([*every(10, 90), *every(10, 250)[13:]], 250, False, id="a gap begins it anew"),
        pytest.param([*every(10, 180), (20, 95.0)], 20, False, id="the clock stepped back"),
        pytest.param(every(10, 180), 179, False, id="read before its last sample"),
        pytest.param([], 0, False, id="no sample"),
    ],
)
def test_firing(samples: Samples, now_s: float, fires: bool) -> None:  # noqa: FBT001 - a table
    """Above 90 for three minutes, and all that is not."""
    assert is_firing(seen(samples), now_s) is fires


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([50.0, 90.0, 91.0, 100.0, None, math.nan])),
        min_size=1,
        max_size=60,
    )
)
def test_like_the_definition(steps: list[tuple[int, float | None]]) -> None:
    """Step by step it says what looking back over all samples says."""
    window, history, now_s = HIGH, Samples(), 0.0
    for elapsed_s, value in steps:
        now_s += elapsed_s
        window = observe(window, value, now_s)
        history.append((now_s, value))
        unbroken, later_s = list[float](), now_s
        for at_s, past in reversed(history):
            if past is None or not past > 90 or later_s - at_s > 30:
                break
            unbroken.append(at_s)
            later_s = at_s
        assert held_s(window) == (now_s - unbroken[-1] if unbroken else 0)
        assert is_firing(window, now_s) == (bool(unbroken) and now_s - unbroken[-1] >= 180)


def test_a_window_of_no_length() -> None:
    """With a window of zero seconds one sample is enough."""
    window = Window(condition=HIGH.condition, window_s=0, gap_s_max=30)
    assert is_firing(observe(window, 91, 5), 5)
    assert not is_firing(observe(window, 90, 5), 5)


values = st.floats(0, 100)


@given(steps=st.lists(st.tuples(st.floats(0, 100), values), min_size=1, max_size=20), smoothing_s=st.floats(0, 600))
def test_smoothed_stays_between(steps: list[tuple[float, float]], smoothing_s: float) -> None:
    """The average never leaves the range of its samples."""
    smoothed, now_s = Smoothed(), 0.0
    for elapsed_s, value in steps:
        now_s += elapsed_s
        smoothed = smooth(smoothed, value, now_s, smoothing_s=smoothing_s)
    seen_values = [value for _, value in steps]
    assert smoothed.value is not None
    assert min(seen_values) - 1e-9 <= smoothed.value <= max(seen_values) + 1e-9
    if smoothing_s == 0:
        assert smoothed.value == seen_values[-1]


@given(start=values, end=values, steps=st.integers(1, 30))
def test_smoothing_does_not_depend_on_the_step(start: float, end: float, steps: int) -> None:
    """A minute at a new level weighs the same whether it was sampled once or thirty times: 1 - e^-2 at 30 s."""
    smoothed = smooth(Smoothed(), start, 0.0, smoothing_s=30)
    for number in range(1, steps + 1):
        smoothed = smooth(smoothed, end, 60 * number / steps, smoothing_s=30)
    assert smoothed.value == pytest.approx(end + (start - end) * math.exp(-2), abs=1e-9)


@pytest.mark.parametrize("unknown", [None, math.nan])
def test_what_is_not_known_ends_the_average(unknown: float | None) -> None:
    """After a reading that is missing the next one stands alone."""
    smoothed = smooth(Smoothed(), 100.0, 0.0, smoothing_s=30)
    smoothed = smooth(smoothed, unknown, 1.0, smoothing_s=30)
    assert smoothed.value is None
    assert smooth(smoothed, 10.0, 2.0, smoothing_s=30).value == 10.0


def test_a_clock_that_steps_back_ends_the_average() -> None:
    """A sample from before the last one stands alone."""
    smoothed = smooth(Smoothed(), 100.0, 50.0, smoothing_s=30)
    assert smooth(smoothed, 10.0, 40.0, smoothing_s=30).value == 10.0
