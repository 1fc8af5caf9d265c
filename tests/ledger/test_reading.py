"""What `Ledger` (rayhaul/ledger/base.py) promises of reading, on each database."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from ledger_samples import (
    ANN,
    BOB,
    NOW,
    OPERATOR,
    a_job,
    a_lease,
    a_message,
    a_session,
    an_event,
    one_of_each,
)

from rayhaul.errors import NotFound
from rayhaul.job import Job, JobEvent, JobResult, JobStatus, Metadata
from rayhaul.lease import SessionState
from rayhaul.ledger.base import Batch, JobFilter, LedgerConflict, LedgerState, Viewer
from rayhaul.ledger.store import SqlLedger

# --- who may see what ---

Reader = Callable[[SqlLedger, Viewer, Job], Awaitable[Any]]

READERS: dict[str, Reader] = {
    "job": lambda ledger, viewer, job: ledger.job(viewer, job.id),
    "history": lambda ledger, viewer, job: ledger.history(viewer, job.id),
    "jobs": lambda ledger, viewer, job: ledger.jobs(viewer, JobFilter()),
    "jobs by status": lambda ledger, viewer, job: ledger.jobs(viewer, JobFilter(status=job.status)),
    "jobs by tag": lambda ledger, viewer, job: ledger.jobs(viewer, JobFilter(tag=("team", "video"))),
    "dead letters": lambda ledger, viewer, job: ledger.jobs(viewer, JobFilter(dead_lettered=True)),
    "events": lambda ledger, viewer, job: ledger.events_after(viewer, 0),
    "events of a job": lambda ledger, viewer, job: ledger.events_after(viewer, 0, job_id=job.id),
    "keys": lambda ledger, viewer, job: ledger.keys(viewer),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
async def test_a_viewer_sees_only_its_own(ledger: SqlLedger, read: Reader) -> None:
    """Each reader gives Ann's things to Ann and to the operator, and to Bob nothing: they do not exist for him."""
    job = a_job(ANN, tags={"team": "video"}, dead_lettered_at=NOW, status=JobStatus.FAILED)
    await ledger.commit(one_of_each(job))

    assert await read(ledger, ANN, job)
    assert await read(ledger, OPERATOR, job) == await read(ledger, ANN, job)
    found: Any = ()
    with suppress(NotFound):
        found = await read(ledger, BOB, job)
    assert not found


async def test_an_unknown_job_is_not_found(ledger: SqlLedger) -> None:
    """For an id nobody has, even the operator is told so."""
    with pytest.raises(NotFound):
        await ledger.job(OPERATOR, "job_nothing")
    with pytest.raises(NotFound):
        await ledger.history(OPERATOR, "job_nothing")


# --- pages of jobs ---


async def test_jobs_come_newest_first_and_page_by_page(ledger: SqlLedger) -> None:
    """Following the cursor gives each job once, newest first, with an older one committed late in its place."""
    made = [a_job(ANN if number % 3 else BOB) for number in range(30)]
    await ledger.commit(Batch(jobs_new=made[1:]))
    await ledger.commit(Batch(jobs_new=made[:1]))
    for viewer in (ANN, BOB, OPERATOR):
        expected = [job for job in reversed(made) if viewer.sees_all or job.user_id == viewer.user_id]
        found: list[Job] = []
        while page := await ledger.jobs(viewer, JobFilter(limit=7, before_id=found[-1].id if found else None)):
            assert len(page) <= 7
            assert len(found) < len(expected)
            found.extend(page)
        assert found == expected


async def test_filters_combine(ledger: SqlLedger) -> None:
    """Status, tag, dead letters, cursor and limit each narrow the page, alone and together."""
    jobs = [
        a_job(
            status=(JobStatus.FAILED, JobStatus.QUEUED)[number % 2],
            tags={"team": ("video", "music")[number % 3 == 0], "n": str(number)},
            dead_lettered_at=NOW if number % 4 == 0 else None,
        )
        for number in range(24)
    ]
    await ledger.commit(Batch(jobs_new=jobs))
    for wanted in [
        JobFilter(status=JobStatus.FAILED),
        JobFilter(status=JobStatus.PAUSED),
        JobFilter(tag=("team", "music")),
        JobFilter(tag=("team", "nobody")),
        JobFilter(tag=("video", "team")),
        JobFilter(dead_lettered=True),
        JobFilter(limit=5),
        JobFilter(before_id=jobs[9].id),
        JobFilter(tag=("team", "video"), before_id=jobs[9].id, limit=2),
        JobFilter(status=JobStatus.FAILED, tag=("team", "video"), dead_lettered=True, before_id=jobs[22].id, limit=3),
    ]:
        expected = [
            job
            for job in reversed(jobs)
            if (wanted.status is None or job.status is wanted.status)
            and (wanted.tag is None or wanted.tag in job.spec.tags.items())
            and (not wanted.dead_lettered or job.dead_lettered_at is not None)
            and (wanted.before_id is None or job.id < wanted.before_id)
        ]
        assert await ledger.jobs(ANN, wanted) == expected[: wanted.limit], wanted


# --- events ---


async def test_events_resume_with_no_gap_and_no_repeat(ledger: SqlLedger) -> None:
    """Reading on from the last number seen gives every event once, in the order of commits, refused ones between."""
    jobs = [a_job(), a_job(BOB)]
    await ledger.commit(Batch(jobs_new=jobs))
    seen: list[tuple[int, str]] = []
    for number in range(12):
        events = [an_event(jobs[n % 2], JobEvent.METADATA, n=f"{number}.{n}") for n in range(5)]
        await ledger.commit(Batch(events=events))
        with pytest.raises(LedgerConflict):
            await ledger.commit(Batch(jobs_changed=[replace(jobs[0], version=5)], events=events))
        with pytest.raises(LedgerConflict):
            await ledger.commit(Batch(events=events, outbox=[message := a_message(jobs[0]), message]))
        while page := await ledger.events_after(OPERATOR, seen[-1][0] if seen else 0, limit=3):
            seen.extend((event.seq, event.payload["n"]) for event in page)
            assert len(seen) <= 5 * (number + 1)
    assert [name for _, name in seen] == [f"{number}.{n}" for number in range(12) for n in range(5)]
    assert [seq for seq, _ in seen] == sorted({seq for seq, _ in seen})
    assert await ledger.last_seq() == seen[-1][0]

    own = await ledger.events_after(BOB, 0)
    assert [event.payload["n"] for event in own] == [f"{number}.{n}" for number in range(12) for n in (1, 3)]
    assert await ledger.events_after(OPERATOR, seen[20][0], job_id=jobs[1].id) == [
        event for event in own if event.seq > seen[20][0]
    ]
    assert await ledger.history(BOB, jobs[1].id) == own


async def test_the_last_number_of_an_empty_ledger_is_nought(ledger: SqlLedger) -> None:
    """Before the first event there is number 0, after which a listener may wait."""
    assert await ledger.last_seq() == 0
    assert await ledger.events_after(OPERATOR, 0) == []


# --- state ---


async def test_state_is_all_a_scheduler_needs(ledger: SqlLedger) -> None:
    """Open jobs oldest first over several pages, leases, live sessions, dead letters, counts; nothing that is over."""
    by_status = {
        JobStatus.QUEUED: 1200,
        JobStatus.DOWNLOADING: 900,
        JobStatus.UPLOADING: 3,
        JobStatus.PAUSED: 2,
        JobStatus.COMPLETED: 400,
        JobStatus.FAILED: 20,
        JobStatus.CANCELLED: 1,
    }
    jobs = [a_job(status=status) for status, number in by_status.items() for _ in range(number)]
    dead = [replace(job, dead_lettered_at=NOW) for job in jobs if job.status is JobStatus.FAILED][:5]
    jobs = [job for job in jobs if job.id not in {letter.id for letter in dead}] + dead
    sessions = [a_session(jobs[0], state=state) for state in SessionState]
    lease = a_lease(jobs[0])
    counts = {("jobs_total", ()): 7, ("ends_total", ("failed", "source_busy")): 2}
    await ledger.commit(Batch(jobs_new=jobs, sessions=sessions, leases_granted=[lease], counts=counts))
    await ledger.commit(Batch(counts={("jobs_total", ()): 1 << 40}))
    state = await ledger.state()
    assert state == LedgerState(
        open_jobs=sorted((job for job in jobs if not job.is_final), key=lambda job: job.id),
        leases=[lease],
        sessions=[sessions[0], sessions[2]],
        dead_letters_count=5,
        totals=by_status,
        counts=counts | {("jobs_total", ()): 7 + (1 << 40)},
    )


async def test_the_state_of_an_empty_ledger_is_empty(ledger: SqlLedger) -> None:
    """A first start finds nothing."""
    assert await ledger.state() == LedgerState(open_jobs=[], leases=[], sessions=[])


# --- the same file ---

SHA256 = "ab" * 32
FOUND = Metadata(
    size_bytes=1000,
    content_type=None,
    etag='"v1"',
    last_modified=None,
    rangeable=True,
    filename="a.iso",
    final_url="https://cdn.example/a.iso",
    fetch_ms=1,
)


def with_checksum(job: Job, checksum: str) -> Job:
    return replace(job, spec=replace(job.spec, checksum=checksum))


async def test_completed_jobs_with_the_same_file(ledger: SqlLedger) -> None:
    """By what their source showed, or by the SHA-256 of their bytes; the newest first; of one user, and completed."""
    result = JobResult(bucket="bucket", key="a.iso", size_bytes=1000, etag="abc", sha256=SHA256)
    done = [a_job(ANN, status=JobStatus.COMPLETED, metadata=FOUND, result=result) for _ in range(7)]
    others = [
        a_job(BOB, status=JobStatus.COMPLETED, metadata=FOUND, result=result),
        a_job(ANN, status=JobStatus.FAILED, metadata=FOUND),
        a_job(ANN, status=JobStatus.COMPLETED, metadata=replace(FOUND, etag=None), result=replace(result, sha256=None)),
    ]
    await ledger.commit(Batch(jobs_new=[*done, *others]))
    job = a_job(ANN, metadata=FOUND)
    newest = sorted((one.id for one in done), reverse=True)[:5]
    assert [one.id for one in await ledger.with_file_of(job)] == newest
    elsewhere = with_checksum(a_job(ANN, metadata=replace(FOUND, etag='"v2"')), f"sha256:{SHA256}")
    assert [one.id for one in await ledger.with_file_of(elsewhere)] == newest
    for other in (
        a_job(ANN),
        a_job(ANN, metadata=replace(FOUND, etag='"v2"')),
        a_job(ANN, metadata=replace(FOUND, size_bytes=999)),
        with_checksum(job, f"sha256:{'cd' * 32}"),
    ):
        assert await ledger.with_file_of(other) == []
    assert [one.user_id for one in await ledger.with_file_of(a_job(BOB, metadata=FOUND))] == ["bob"]
