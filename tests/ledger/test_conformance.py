"""What `Ledger` (rayhaul/ledger/base.py) promises, on each database."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from ledger_samples import (
    ANN,
    BOB,
    NOW,
    OPERATOR,
    a_full_job,
    a_job,
    a_key,
    a_lease,
    a_message,
    a_part,
    a_record,
    a_session,
    an_event,
    changed,
    one_of_each,
)

from rayhaul.errors import InvalidRequest, NotFound, Unavailable
from rayhaul.job import Job, JobEvent, JobStatus
from rayhaul.lease import SessionState
from rayhaul.ledger import connect, tables
from rayhaul.ledger.base import Batch, JobFilter, LedgerConflict, LedgerState, Viewer
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.settings import LedgerSettings


async def counts(ledger: SqlLedger) -> dict[str, int]:
    """Return how many rows each table has."""

    def count(connection: sa.Connection) -> dict[str, int]:
        query = "SELECT count(*) FROM {}"
        return {name: connection.exec_driver_sql(query.format(name)).scalar_one() for name in tables.metadata.tables}

    return await ledger._readers.call(count)


# --- commit ---


async def test_values_come_back_as_they_went_in(ledger: SqlLedger) -> None:
    """A job with every field set, and everything that belongs to it, survives the ledger unchanged."""
    job = a_full_job()
    batch = one_of_each(job)
    await ledger.commit(batch)

    assert await ledger.job(ANN, job.id) == job
    assert await ledger.jobs(ANN, JobFilter()) == [job]
    assert await ledger.history(ANN, job.id) == [replace(batch.events[0], seq=await ledger.last_seq())]
    assert await ledger.parts(batch.sessions[0].session_id) == list(batch.parts)
    assert await ledger.keys(ANN) == list(batch.keys)
    assert await ledger.outbox(10) == list(batch.outbox)
    record = batch.idempotency[0]
    assert await ledger.spent([(record.user_id, record.key)]) == {(record.user_id, record.key): record}
    state = await ledger.state()
    assert (state.leases, state.sessions) == (list(batch.leases_granted), list(batch.sessions))


async def test_a_plain_job_comes_back(ledger: SqlLedger) -> None:
    """A job with nothing but a URL keeps its Nones."""
    job = a_job()
    await ledger.commit(Batch(jobs_new=[job]))
    assert await ledger.job(ANN, job.id) == job


async def test_times_are_cut_to_milliseconds(ledger: SqlLedger) -> None:
    """The microseconds of a time are dropped, never rounded up into the future."""
    await ledger.commit(Batch(jobs_new=[job := a_job(created_at=NOW + timedelta(microseconds=999))]))
    assert (await ledger.job(ANN, job.id)).created_at == NOW


@pytest.mark.parametrize("kind", ["jobs_new", "idempotency", "outbox", "leases_granted"])
async def test_a_row_that_exists_already_stops_the_whole_batch(ledger: SqlLedger, kind: str) -> None:
    """Another writer's row is a conflict, and nothing of the batch is written: not what came before, not after."""
    first = one_of_each(a_job())
    await ledger.commit(first)
    before = await counts(ledger)

    again = replace(one_of_each(a_job()), **{kind: getattr(first, kind)})
    with pytest.raises(LedgerConflict):
        await ledger.commit(again if kind != "jobs_new" else Batch(jobs_new=[a_job(), *first.jobs_new]))
    assert await counts(ledger) == before


async def test_a_reference_to_nothing_is_our_bug(ledger: SqlLedger) -> None:
    """An event of an unknown job is refused as it is, the batch with it, and the next commit works."""
    with pytest.raises(sa.exc.IntegrityError):
        await ledger.commit(Batch(jobs_new=[a_job()], events=[an_event(a_job())]))
    assert set((await counts(ledger)).values()) == {0}
    await ledger.commit(one_of_each(a_job()))


@pytest.mark.parametrize("versions", [(0,), (2,), (1, 3), (7,)])
async def test_a_wrong_version_writes_nothing(ledger: SqlLedger, versions: tuple[int, ...]) -> None:
    """A job changed from another version than the ledger's refuses the batch, its sound changes included."""
    job, sound = a_job(), a_job()
    await ledger.commit(Batch(jobs_new=[job, sound]))
    state = await ledger.state()
    before = await counts(ledger)

    batch = Batch(
        jobs_new=[a_job(BOB)],
        jobs_changed=[changed(sound), *(replace(job, version=version, attempt=1) for version in versions)],
        events=[an_event(job)],
        sessions=[a_session(job)],
        keys=[a_key(BOB)],
    )
    with pytest.raises(LedgerConflict):
        await ledger.commit(batch)
    assert await ledger.state() == state
    assert await counts(ledger) == before
    await ledger.commit(Batch(jobs_changed=[changed(job)]))


async def test_changing_an_unknown_job_is_a_conflict(ledger: SqlLedger) -> None:
    """A change to a job that is not there does not pass in silence."""
    with pytest.raises(LedgerConflict):
        await ledger.commit(Batch(jobs_changed=[changed(a_job())]))


async def test_a_job_may_be_made_and_changed_in_one_batch(ledger: SqlLedger) -> None:
    """Several versions of a job in one batch are applied in their order."""
    first = a_job()
    second = changed(first, status=JobStatus.DOWNLOADING)
    third = changed(second, status=JobStatus.UPLOADING, agents=("agent-1",))
    await ledger.commit(Batch(jobs_new=[first], jobs_changed=[second, third]))
    assert await ledger.job(ANN, first.id) == third


async def test_every_field_that_changes_is_written(ledger: SqlLedger) -> None:
    """One update carries all of a job's state; what was asked for stays as it was."""
    job, full = a_job(), a_full_job()
    await ledger.commit(Batch(jobs_new=[job]))
    after = replace(
        full, id=job.id, user_id=job.user_id, correlation_id=job.correlation_id, traceparent=None, version=1
    )
    await ledger.commit(Batch(jobs_changed=[after]))
    assert await ledger.job(ANN, job.id) == replace(after, spec=job.spec, created_at=job.created_at)
    back = replace(job, version=2)
    await ledger.commit(Batch(jobs_changed=[back]))
    assert await ledger.job(ANN, job.id) == back


async def test_an_empty_batch_is_nothing(ledger: SqlLedger) -> None:
    """Committing nothing changes nothing."""
    await ledger.commit(Batch())
    assert set((await counts(ledger)).values()) == {0}


async def test_concurrent_commits_follow_each_other(ledger: SqlLedger) -> None:
    """Commits asked for at once are all carried out, each whole."""
    batches = [Batch(jobs_new=[job := a_job()], events=[an_event(job), an_event(job)]) for _ in range(20)]
    await asyncio.gather(*map(ledger.commit, batches))
    events = await ledger.events_after(OPERATOR, 0)
    assert len(events) == 40
    assert [event.job_id for event in events[::2]] == [event.job_id for event in events[1::2]]


async def test_of_two_writers_the_second_is_refused(url: str, ledger: SqlLedger) -> None:
    """Two ledgers open for writing change the same job: one does, the other is told."""
    other = open_ledger(LedgerSettings(), url)
    try:
        job = a_job()
        await ledger.commit(Batch(jobs_new=[job]))
        results = await asyncio.gather(
            *(side.commit(Batch(jobs_changed=[changed(job)], events=[an_event(job)])) for side in (ledger, other)),
            return_exceptions=True,
        )
    finally:
        await other.close()
    assert sorted(type(result).__name__ for result in results) == ["LedgerConflict", "NoneType"]
    assert len(await ledger.history(ANN, job.id)) == 1


@pytest.mark.parametrize("text", ["half a pair \ud800", "a byte \udcff"])
async def test_a_text_no_database_can_hold_is_refused(ledger: SqlLedger, text: str) -> None:
    """A text that is no Unicode fails its batch with a sentence, not with a crash; the next commit works."""
    with pytest.raises(InvalidRequest, match="can not store"):
        await ledger.commit(Batch(jobs_new=[a_job(), a_job(tags={"k": text})]))
    assert set((await counts(ledger)).values()) == {0}
    await ledger.commit(Batch(jobs_new=[a_job()]))


async def test_a_byte_nought_is_kept_or_refused(database: str, ledger: SqlLedger) -> None:
    """PostgreSQL has no byte 0 in texts: it is refused like any other value that fits nowhere; SQLite keeps it."""
    batch = Batch(jobs_new=[job := a_job(tags={"k": "a\x00b"})])
    if database == "postgresql":
        with pytest.raises(InvalidRequest):
            await ledger.commit(batch)
        assert await ledger.jobs(ANN, JobFilter()) == []
    else:
        await ledger.commit(batch)
        assert await ledger.jobs(ANN, JobFilter(tag=("k", "a\x00b"))) == [job]


async def test_odd_texts_in_documents_survive(ledger: SqlLedger) -> None:
    """What a source sent may be no Unicode at all; within a document it is kept."""
    odd = "\udcff \x00 \u2028 😀"
    full = a_full_job()
    assert full.metadata is not None
    job = replace(full, metadata=replace(full.metadata, etag=odd))
    await ledger.commit(Batch(jobs_new=[job]))
    assert await ledger.job(ANN, job.id) == job


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


# --- idempotency ---


async def test_spent_keys_belong_to_a_user(ledger: SqlLedger) -> None:
    """The same key of two users is two records; looking up many pairs gives those that are known."""
    one, two = a_record(ANN, "k", a_job(), a_job()), a_record(BOB, "k")
    await ledger.commit(Batch(idempotency=[one, two]))
    unknown = [("ann", f"unknown-{number}") for number in range(6000)]
    found = await ledger.spent([("ann", "k"), *unknown, ("bob", "k"), ("cyd", "k")])
    assert found == {("ann", "k"): one, ("bob", "k"): two}
    assert await ledger.spent([]) == {}


async def test_old_keys_are_forgotten(ledger: SqlLedger) -> None:
    """Forgetting deletes the records made before a time, says how many, and frees their keys."""
    records = [a_record(ANN, f"k{hour}", created_at=NOW + timedelta(hours=hour)) for hour in range(5)]
    await ledger.commit(Batch(idempotency=records))
    assert await ledger.forget_spent(NOW + timedelta(hours=3)) == 3
    known = await ledger.spent([("ann", f"k{hour}") for hour in range(5)])
    assert sorted(key for _, key in known) == ["k3", "k4"]
    assert await ledger.forget_spent(NOW + timedelta(hours=3)) == 0
    await ledger.commit(Batch(idempotency=records[:1]))


# --- sessions, parts, leases ---


async def test_parts_sent_again_replace_themselves(ledger: SqlLedger) -> None:
    """Parts come back by number; one sent again counts once, with its newest values; sessions do not mix."""
    await ledger.commit(Batch(jobs_new=[job := a_job()], sessions=[one := a_session(job), two := a_session(job)]))
    await ledger.commit(Batch(parts=[a_part(one, number) for number in (10_000, 3, 1)]))
    again = a_part(one, 3, etag="other", size_bytes=7, crc64nvme=5)
    await ledger.commit(Batch(parts=[again, a_part(one, 2), a_part(two, 1)]))
    assert await ledger.parts(one.session_id) == [a_part(one, 1), a_part(one, 2), again, a_part(one, 10_000)]
    assert await ledger.parts("ses_nothing") == []


@pytest.mark.parametrize("crc", [None, 0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
async def test_a_checksum_of_64_bits_fits(ledger: SqlLedger, crc: int | None) -> None:
    """CRC-64 is unsigned, a database's integers are not: its upper half comes back as it was."""
    await ledger.commit(Batch(jobs_new=[job := a_job()], sessions=[session := a_session(job)]))
    await ledger.commit(Batch(parts=[part := a_part(session, 1, crc64nvme=crc)]))
    assert await ledger.parts(session.session_id) == [part]


async def test_leases_are_granted_and_ended(ledger: SqlLedger) -> None:
    """A lease stands until it is ended; ending one that is gone changes nothing."""
    await ledger.commit(Batch(jobs_new=[job := a_job()], leases_granted=[one := a_lease(job), two := a_lease(job)]))
    third = a_lease(job, epoch=3)
    await ledger.commit(Batch(leases_granted=[third], leases_ended=[one.lease_id, "lease_nothing"]))
    assert (await ledger.state()).leases == [two, third]


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
    await ledger.commit(Batch(jobs_new=jobs, sessions=sessions, leases_granted=[lease]))
    state = await ledger.state()
    assert state == LedgerState(
        open_jobs=sorted((job for job in jobs if not job.is_final), key=lambda job: job.id),
        leases=[lease],
        sessions=[sessions[0], sessions[2]],
        dead_letters_count=5,
        totals=by_status,
    )


async def test_the_state_of_an_empty_ledger_is_empty(ledger: SqlLedger) -> None:
    """A first start finds nothing."""
    assert await ledger.state() == LedgerState(open_jobs=[], leases=[], sessions=[])


async def test_sessions_move_on(ledger: SqlLedger) -> None:
    """A session written again is the same session in its new state; done with, it leaves the scheduler's view."""
    await ledger.commit(Batch(jobs_new=[job := a_job()], sessions=[session := a_session(job)]))
    for state, live in [(SessionState.ABORTING, True), (SessionState.ABORTED, False), (SessionState.COMPLETED, False)]:
        moved = replace(session, state=state)
        await ledger.commit(Batch(sessions=[moved]))
        assert (await ledger.state()).sessions == ([moved] if live else [])
    assert (await counts(ledger))["upload_sessions"] == 1


# --- outbox and keys ---


async def test_messages_wait_until_they_are_forgotten(ledger: SqlLedger) -> None:
    """The oldest messages come first and stay until somebody says that they were delivered."""
    job = a_job()
    messages = [a_message(job) for _ in range(5)]
    await ledger.commit(Batch(jobs_new=[job], outbox=messages[::-1]))
    assert await ledger.outbox(3) == messages[:3]
    assert await ledger.forget_outbox([messages[0].outbox_id, messages[2].outbox_id, "msg_nothing"]) == 2
    assert await ledger.outbox(10) == [messages[1], messages[3], messages[4]]


async def test_keys_are_found_and_revoked(ledger: SqlLedger) -> None:
    """A key is found by its id until the end; revoking writes it again; lists are oldest first."""
    keys = [a_key(ANN), a_key(BOB, expires_at=NOW), a_key(ANN, created_at=NOW - timedelta(days=1)), a_key(OPERATOR)]
    await ledger.commit(Batch(keys=keys))
    revoked = replace(keys[0], revoked_at=NOW)
    await ledger.commit(Batch(keys=[revoked]))
    assert await ledger.key(keys[0].key_id) == revoked
    assert await ledger.key("nothing") is None
    assert await ledger.keys(ANN) == [keys[2], revoked]
    assert await ledger.keys(OPERATOR) == [keys[2], revoked, keys[1], keys[3]]


# --- opening, waiting, closing ---


async def test_a_read_only_ledger_reads_what_the_writer_commits(url: str, ledger: SqlLedger) -> None:
    """An API replica sees each commit as soon as it is acknowledged, and can not write."""
    replica = open_ledger(LedgerSettings(), url, read_only=True)
    try:
        for _ in range(3):
            await ledger.commit(Batch(jobs_new=[job := a_job()]))
            assert await replica.job(ANN, job.id) == job
        with pytest.raises(AssertionError, match="reading only"):
            await replica.commit(Batch(jobs_new=[a_job()]))
        with pytest.raises((sa.exc.DBAPIError, Unavailable)):
            await replica._readers.call(lambda connection: connection.exec_driver_sql("DELETE FROM jobs"))
    finally:
        await replica.close()
    assert len(await ledger.jobs(ANN, JobFilter())) == 3


async def test_state_sees_one_moment(url: str, ledger: SqlLedger) -> None:
    """What is committed while the state is being read is in all of it or in none of it."""
    with connect.readers(connect.parse_url(url), LedgerSettings()).connect() as connection:
        snapshot = connect.of_one_snapshot(connection)
        before = snapshot.execute(sa.select(sa.func.count()).select_from(tables.jobs)).scalar_one()
        await ledger.commit(Batch(jobs_new=[a_job()]))
        after = snapshot.execute(sa.select(sa.func.count()).select_from(tables.jobs)).scalar_one()
        engine = connection.engine
    engine.dispose()
    assert (before, after) == (0, 0)


async def test_a_locked_ledger_is_unavailable_and_recovers(database: str, url: str, ledger: SqlLedger) -> None:
    """While another process holds the writer's lock a commit fails within its time with one sentence, then works."""
    engine = sa.create_engine(connect.parse_url(url), poolclass=sa.NullPool)
    with engine.connect() as other:
        if database == "sqlite":
            other.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            other.exec_driver_sql(f"SELECT pg_advisory_xact_lock({connect.WRITER_LOCK})")
        with pytest.raises(Unavailable, match=r"^the ledger is locked by another process$"):
            await ledger.commit(Batch(jobs_new=[a_job()]))
        assert await ledger.jobs(ANN, JobFilter()) == []
    engine.dispose()
    await ledger.commit(Batch(jobs_new=[a_job()]))


async def test_too_many_waiting_calls_are_refused(ledger: SqlLedger) -> None:
    """The queue for a thread is bounded."""
    ledger._readers._waiting = 10_000
    with pytest.raises(Unavailable, match="too many"):
        await ledger.last_seq()
    ledger._readers._waiting = 0
    assert await ledger.last_seq() == 0


async def test_closing_finishes_what_was_asked(url: str) -> None:
    """Commits under way when the ledger closes are carried out; later calls are refused; closing twice is fine."""
    ledger = open_ledger(LedgerSettings(), url)
    commits = [asyncio.ensure_future(ledger.commit(Batch(jobs_new=[a_job()]))) for _ in range(10)]
    await asyncio.sleep(0)
    await ledger.close()
    await asyncio.gather(*commits)
    for late in (ledger.commit(Batch(jobs_new=[a_job()])), ledger.last_seq()):
        with pytest.raises(Unavailable, match="closed"):
            await late
    await ledger.close()
    again = open_ledger(LedgerSettings(), url, read_only=True)
    assert len(await again.jobs(ANN, JobFilter())) == 10
    await again.close()


# --- plans ---

PLANS = {
    "jobs_open": sa.select(tables.jobs).where(sa.text(tables.OPEN_JOBS)).order_by(tables.jobs.c.id),
    "jobs_dead": sa.select(sa.func.count()).select_from(tables.jobs).where(sa.text(tables.DEAD_LETTERS)),
    "upload_sessions_live": sa.select(tables.upload_sessions).where(sa.text(tables.LIVE_SESSIONS)),
    "jobs_by_user": sa.select(tables.jobs).where(tables.jobs.c.user_id == "ann").order_by(tables.jobs.c.id.desc()),
    "jobs_by_status": sa.select(tables.jobs.c.status, sa.func.count()).group_by(tables.jobs.c.status),
    "job_tags_by_value": sa.select(tables.job_tags.c.job_id).where(
        tables.job_tags.c.key == "team", tables.job_tags.c.value == "video"
    ),
    "job_events_by_job": sa.select(tables.job_events)
    .where(tables.job_events.c.job_id == "job_1", tables.job_events.c.seq > 5)
    .order_by(tables.job_events.c.seq),
    "job_events_by_user": sa.select(tables.job_events)
    .where(tables.job_events.c.user_id == "ann", tables.job_events.c.seq > 5)
    .order_by(tables.job_events.c.seq),
    "idempotency_keys_by_age": sa.select(tables.idempotency_keys).where(tables.idempotency_keys.c.created_at < NOW),
}


@pytest.mark.parametrize("index", PLANS)
async def test_a_query_finds_its_index(database: str, ledger: SqlLedger, index: str) -> None:
    """The planner can use the index that was made for a query: for a partial one the conditions agree word for word."""

    def explain(connection: sa.Connection) -> str:
        query = str(PLANS[index].compile(connection, compile_kwargs={"literal_binds": True}))
        if database == "sqlite":
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()
        else:
            # Its tables are empty: a scan of all would be the better plan.
            connection.exec_driver_sql("SET enable_seqscan = off")
            rows = connection.exec_driver_sql(f"EXPLAIN {query}").all()
            connection.exec_driver_sql("RESET enable_seqscan")
        return "\n".join(str(row) for row in rows)

    assert index in await ledger._readers.call(explain)
