"""Events of objectives, on both databases."""

from datetime import datetime, timedelta

from ledger_samples import NOW, a_full_job, a_job

from rayhaul.job import JobStatus
from rayhaul.ledger.base import Batch, SloCount
from rayhaul.ledger.store import SqlLedger

DAY = timedelta(days=1)


def count(slo: str, at: datetime, total: int, bad: int = 0) -> SloCount:
    return SloCount(slo=slo, starts_at=at, total=total, bad=bad)


async def test_events_are_added(ledger: SqlLedger) -> None:
    """What is written adds to what is there, also within one batch; totals are from a moment on, by objective."""
    await ledger.commit(Batch(slo_counts=[count("A", NOW, 10, 1), count("B", NOW, 5)]))
    await ledger.commit(Batch(slo_counts=[count("A", NOW, 20, 2), count("A", NOW, 1, 1)]))
    await ledger.commit(Batch(slo_counts=[count("A", NOW - DAY, 100, 100)]))
    assert await ledger.slo_totals(NOW) == {"A": (31, 4), "B": (5, 0)}
    assert await ledger.slo_totals(NOW - DAY) == {"A": (131, 104), "B": (5, 0)}
    assert await ledger.slo_totals(NOW + DAY) == {}


async def test_old_events_are_forgotten(ledger: SqlLedger) -> None:
    """A month and a day are kept: the ledger does not grow by counting."""
    await ledger.commit(Batch(slo_counts=[count("A", NOW - 32 * DAY, 1), count("A", NOW - 30 * DAY, 2)]))
    await ledger.commit(Batch(slo_counts=[count("A", NOW, 4)]))
    assert await ledger.slo_totals(NOW - 99 * DAY) == {"A": (6, 0)}


async def test_overdue_metadata(ledger: SqlLedger) -> None:
    """Queued jobs older than a moment that have no metadata: not those that have it, are held, young, or over."""
    await ledger.commit(
        Batch(
            jobs_new=[
                a_job(created_at=NOW - DAY),
                a_job(created_at=NOW - DAY),
                a_job(created_at=NOW),
                a_job(created_at=NOW - DAY, status=JobStatus.PAUSED),
                a_job(created_at=NOW - DAY, status=JobStatus.FAILED),
                a_job(created_at=NOW - DAY, metadata=a_full_job().metadata),
            ]
        )
    )
    assert await ledger.metadata_overdue(NOW - timedelta(seconds=15)) == 2
