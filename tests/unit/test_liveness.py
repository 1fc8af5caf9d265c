"""When a lease counts as stuck, and whom the loss of an agent is charged to."""

import pytest

from rayhaul.policy.liveness import APART_S, AtRisk, Symptom, Watch, blamed, hear, shifted, symptom
from rayhaul.report import COMMITTING, LeaseProgress
from rayhaul.settings import LivenessSettings

SETTINGS = LivenessSettings(stalled_s=120, commit_stalled_s=600, overdue_floor_s=300)


def told(idle_s: float, doing: str = "moving bytes") -> LeaseProgress:
    return LeaseProgress(lease_id="l", job_id="j", bytes_done=1, bytes_per_s=1.0, doing=doing, idle_s=idle_s)


@pytest.mark.parametrize(
    ("watch", "now_s", "found"),
    [
        (Watch(0.0), 120.0, None),
        (Watch(0.0), 120.1, Symptom.SILENT),
        (Watch(0.0, COMMITTING), 600.0, None),
        (Watch(0.0, COMMITTING), 600.1, Symptom.COMMIT_SILENT),
        (Watch(0.0, overdue_at_s=10.0), 30.0, None),
        (Watch(0.0, overdue_at_s=10.0), 30.1, Symptom.OVERDUE),
        (Watch(50.0, overdue_at_s=10.0), 60.0, None),
    ],
)
def test_symptoms(watch: Watch, now_s: float, found: Symptom | None) -> None:
    """Silence is borne for its time, less of it by what is overdue, more while the bucket completes."""
    assert symptom(watch, now_s, SETTINGS) is found


@pytest.mark.parametrize(
    ("eta_s", "overdue_at_s"), [(None, None), (10.0, 1000.0 + 300.0), (150.0, 1000.0 + 300.0), (400.0, 1000.0 + 800.0)]
)
def test_twice_the_first_estimate_but_never_below_the_floor(eta_s: float | None, overdue_at_s: float | None) -> None:
    """A job is overdue after twice what was first estimated; short estimates have a floor."""
    heard = hear(Watch(0.0), told(0.0), eta_s, 1000.0, SETTINGS)
    assert heard == Watch(1000.0, "moving bytes", overdue_at_s)
    later = hear(heard, told(0.0), 9999.0, 1001.0, SETTINGS).overdue_at_s
    assert later == (1001.0 + 2 * 9999.0 if overdue_at_s is None else overdue_at_s), "the first estimate stands"


def test_an_estimate_that_was_wrong_is_made_anew() -> None:
    """Asked after it was overdue, a lease that moves gets another estimate; one that does not keeps the old one."""
    overdue = Watch(0.0, overdue_at_s=300.0)
    assert hear(overdue, told(0.0), 200.0, 400.0, SETTINGS).overdue_at_s == 400.0 + 400.0
    assert hear(overdue, told(31.0), 200.0, 400.0, SETTINGS).overdue_at_s == 300.0


def test_idleness_never_moves_the_past() -> None:
    """An old report, heard late, does not undo what was known of a newer one."""
    assert hear(Watch(90.0), told(50.0), None, 100.0, SETTINGS).moved_at_s == 90.0


def test_a_clock_that_was_set() -> None:
    """All times move together, so nothing is due earlier or later."""
    assert shifted(Watch(10.0, "x", 20.0), -7.0) == Watch(3.0, "x", 13.0)
    assert shifted(Watch(10.0), 5.0) == Watch(15.0)


YOUNG, OLD = APART_S - 1, APART_S + 1


@pytest.mark.parametrize(
    ("lost", "charged"),
    [
        ([], set()),
        ([("a", 0, OLD), ("b", 0, OLD)], {"a", "b"}),
        ([("a", 0, YOUNG), ("b", 0, OLD)], {"a"}),
        ([("a", 2, OLD), ("b", 0, OLD)], {"a"}),
        ([("a", 2, OLD), ("b", 0, YOUNG)], {"b"}),
        ([("a", 2, YOUNG), ("b", 0, YOUNG)], {"a"}),
    ],
)
def test_whom_a_loss_is_charged_to(lost: list[tuple[str, int, float]], charged: set[str]) -> None:
    """A suspect that has just begun; else those that have just begun; else the suspects; else all."""
    assert blamed(AtRisk(*facts) for facts in lost) == charged
