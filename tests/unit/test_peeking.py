"""Which looks bring small files along, and whom leases are given to for it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from control_rig import found, rig_settings

from rayhaul.job import Job, JobSpec
from rayhaul.policy.peeking import Lookers, may_peek
from rayhaul.policy.scheduling import Load, Spread
from rayhaul.settings import SourceSettings

SETTINGS = SourceSettings(probe_timeout_s=20, peek_keep_s=30, peek_bytes=1000)


def a_job(job_id: str = "job_1", **spec: Any) -> Job:
    return Job(
        id=job_id,
        user_id="ann",
        correlation_id="corr-1234",
        spec=JobSpec(url="https://files.example/a.iso", **spec),
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("spec", "groups"),
    [
        ({"bandwidth_bytes_per_s": 10**9}, {}),
        ({"mirrors": ("https://other.example/a.iso",)}, {}),
        ({"dedupe": True}, {}),
        ({}, {"hosts": {"bandwidth_bytes_per_s_max": 10**9}}),
        ({}, {"transfer": {"bandwidth_bytes_per_s_max": 10**9}}),
        ({}, {"agent": {"bandwidth_bytes_per_s_max": 10**9}}),
        ({}, {"source": {"peek_bytes": 0}}),
    ],
    ids=str,
)
def test_which_looks_bring_nothing_along(spec: dict[str, Any], groups: dict[str, Any]) -> None:
    """Those of jobs whose bytes keep to a pace, may be a mirror's, or there already; none where it is switched off."""
    assert may_peek(a_job(headers={"Authorization": "x"}), rig_settings())
    settings = rig_settings(**{name: group for name, group in groups.items() if name != "source"})
    source = SourceSettings(**groups.get("source", {}))
    assert not may_peek(a_job(**spec), settings.model_copy(update={"source": source}))


def test_who_may_have_a_small_file() -> None:
    """The agent that was told to look last, once, and only as long as the file may wait there."""
    lookers = Lookers(SETTINGS)
    small = replace(a_job(), metadata=found(size_bytes=1000))
    lookers.note(small.id, "a", 0)
    lookers.note(small.id, "b", 10)
    assert lookers.take(a_job()) is None
    assert lookers.take(None) is None
    assert lookers.take(small) == "b"
    assert lookers.take(small) is None
    lookers.note(small.id, "a", 20)
    lookers.note("job_2", "a", 70)
    assert lookers.take(small) == "a"
    lookers.note(small.id, "a", 80)
    lookers.note("job_2", "a", 130.1)
    assert lookers.take(small) is None


@pytest.mark.parametrize("size_bytes", [1001, None])
def test_nobody_has_another_one(size_bytes: int | None) -> None:
    """A file that is large, or of unknown length, waits nowhere."""
    lookers = Lookers(SETTINGS)
    lookers.note("job_1", "a", 0)
    assert lookers.take(replace(a_job(), metadata=found(size_bytes=size_bytes))) is None


def test_a_wanted_agent_goes_first_where_it_has_a_slot() -> None:
    """However full it is; else the choice is as ever."""
    spread = Spread({"a": Load("a", 4, 2), "b": Load("b", 4, 0)})
    assert [spread.take_of("a"), spread.take_of("a"), spread.take_of("a"), spread.take_of(None)] == ["a", "a", "b", "b"]
    assert spread.free_slots == 2
    assert [spread.take_of("gone"), spread.take_of("b"), spread.take_of("b")] == ["b", "b", None]
