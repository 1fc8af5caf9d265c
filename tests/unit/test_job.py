"""The job's table: which event leads where, and what is refused."""

from datetime import UTC, datetime
from itertools import product

import pytest

from rayhaul.errors import Conflict
from rayhaul.job import FINAL, TRANSITIONS, Job, JobEvent, JobSpec, JobStatus, next_status, utc

PAIRS = list(product(JobStatus, JobEvent))


@pytest.mark.parametrize(("status", "event"), PAIRS)
def test_every_pair(status: JobStatus, event: JobEvent) -> None:
    """Each (status, event) leads where the table says, or is refused."""
    job = Job(
        id="job_1",
        user_id="u",
        correlation_id="c",
        spec=JobSpec(url="https://files.example/a"),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        status=status,
    )
    wanted = TRANSITIONS[status].get(event)
    if wanted is None:
        with pytest.raises(Conflict, match=status):
            job.after(event)
    else:
        assert job.after(event, attempt=3) == Job(
            **{name: getattr(job, name) for name in Job.__slots__} | {"status": wanted, "attempt": 3}
        )


def test_every_status_reaches_a_final_one() -> None:
    """From everywhere some way leads to a final status; completed has no way out."""
    for start in JobStatus:
        seen, pending = {start}, [start]
        while pending:
            for after in TRANSITIONS[pending.pop()].values():
                if after not in seen:
                    seen.add(after)
                    pending.append(after)
        assert seen & FINAL
    assert TRANSITIONS[JobStatus.COMPLETED] == {}


def test_contract_words() -> None:
    """The words that clients rely on."""
    assert set(JobStatus) == {"queued", "downloading", "uploading", "completed", "paused", "failed", "cancelled"}
    assert set(JobEvent) == {
        *("created", "metadata", "started", "progress", "uploading", "completed", "failed"),
        *("requeued", "paused", "resumed", "cancelled", "deadlettered"),
    }
    with pytest.raises(Conflict):
        next_status(JobStatus.COMPLETED, JobEvent.CANCELLED)


def test_utc_is_whole_milliseconds() -> None:
    """What memory holds is what the ledger gives back."""
    assert utc(1.2345678).microsecond == 234_000
