"""What `Ledger` (rayhaul/ledger/base.py) promises of writing, on each database."""

import asyncio
import sqlite3
from dataclasses import replace
from datetime import timedelta

import psycopg
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

from rayhaul.errors import InvalidRequest, NotFound
from rayhaul.job import JobStatus, Priority
from rayhaul.lease import SessionState
from rayhaul.ledger import tables
from rayhaul.ledger.base import Batch, JobFilter, LedgerConflict, ScalingRecord, Scope, UsageRecord, Viewer
from rayhaul.ledger.deliveries import DisabledReceiver, DisabledWebhook
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.parts import JobParts
from rayhaul.settings import LedgerSettings


async def counts(ledger: SqlLedger) -> dict[str, int]:
    """Return how many rows each table has that is empty in a new ledger."""

    def count(connection: sa.Connection) -> dict[str, int]:
        query = "SELECT count(*) FROM {}"
        names = set(tables.metadata.tables) - {"seals"}
        return {name: connection.exec_driver_sql(query.format(name)).scalar_one() for name in names}

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
    assert await ledger.outbox(NOW, 10) == list(batch.outbox)
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
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
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


@pytest.mark.parametrize("crc", [0, (1 << 32) - 1])
async def test_a_second_checksum_is_kept_beside_it(ledger: SqlLedger, crc: int) -> None:
    """The CRC-32C of a part, where its object is compared with one."""
    await ledger.commit(Batch(jobs_new=[job := a_job()], sessions=[session := a_session(job)]))
    await ledger.commit(Batch(parts=[part := a_part(session, 1, crc64nvme=7, crc32c=crc)]))
    assert await ledger.parts(session.session_id) == [part]


async def test_who_brought_the_parts_of_a_job(ledger: SqlLedger) -> None:
    """Runs by agent, of the newest upload that is open or completed; the leases that are out; for the owner alone."""
    await ledger.commit(Batch(jobs_new=[job := a_job(), other := a_job()]))
    nothing = JobParts(session=None, runs=[], leases=[])
    assert await ledger.parts_of_job(ANN, job.id) == nothing
    earlier = a_session(job, state=SessionState.ABORTING, created_at=NOW - timedelta(hours=1))
    session, later = a_session(job), a_session(job, state=SessionState.ABORTED, created_at=NOW + timedelta(hours=1))
    agents = {1: "a", 2: "a", 3: "b", 4: None, 5: None, 7: "a", 10_000: "a"}
    parts = [a_part(session, number, agent=agent, size_bytes=number) for number, agent in agents.items()]
    lost = [a_part(one, 6, agent="lost") for one in (earlier, later)]
    two, one = a_lease(job, first_part=7, end_part=9), a_lease(job, first_part=1, end_part=7)
    await ledger.commit(
        Batch(sessions=[earlier, session, later], parts=[*parts, *lost], leases_granted=[two, one, a_lease(other)])
    )
    assert await ledger.parts(session.session_id) == parts
    found = await ledger.parts_of_job(ANN, job.id)
    runs = [(run.agent, run.first_part, run.end_part, run.bytes_count) for run in found.runs]
    assert runs == [("a", 1, 3, 3), ("b", 3, 4, 3), (None, 4, 6, 9), ("a", 7, 8, 7), ("a", 10_000, 10_001, 10_000)]
    assert (found.session, found.leases) == (session, [one, two])
    await ledger.commit(Batch(sessions=[replace(session, state=SessionState.COMPLETED)]))
    assert (await ledger.parts_of_job(OPERATOR, job.id)).runs == found.runs
    for viewer, job_id in ((BOB, job.id), (OPERATOR, "job_nothing")):
        with pytest.raises(NotFound):
            await ledger.parts_of_job(viewer, job_id)


async def test_leases_are_granted_and_ended(ledger: SqlLedger) -> None:
    """A lease stands until it is ended; ending one that is gone changes nothing."""
    await ledger.commit(Batch(jobs_new=[job := a_job()], leases_granted=[one := a_lease(job), two := a_lease(job)]))
    third = a_lease(job, epoch=3)
    await ledger.commit(Batch(leases_granted=[third], leases_ended=[one.lease_id, "lease_nothing"]))
    assert (await ledger.state()).leases == [two, third]


async def test_a_stripe_ends_earlier(ledger: SqlLedger) -> None:
    """Only where it ends is changed, and one that is gone stays gone."""
    await ledger.commit(Batch(jobs_new=[job := a_job()], leases_granted=[one := a_lease(job), two := a_lease(job)]))
    trimmed = replace(one, end_part=one.first_part + 1)
    await ledger.commit(Batch(leases_trimmed=[trimmed]))
    assert (await ledger.state()).leases == [trimmed, two]
    await ledger.commit(Batch(leases_trimmed=[replace(two, end_part=2)], leases_ended=[two.lease_id]))
    await ledger.commit(Batch(leases_trimmed=[two]))
    assert (await ledger.state()).leases == [trimmed]


async def test_the_parts_of_open_sessions_are_known(ledger: SqlLedger) -> None:
    """A scheduler that starts sees which parts are recorded; those of uploads that are over do not matter any more."""
    job = a_job()
    one, over = a_session(job), a_session(job, state=SessionState.ABORTING)
    await ledger.commit(Batch(jobs_new=[job], sessions=[one, over, a_session(job)]))
    await ledger.commit(Batch(parts=[a_part(one, 10_000), a_part(one, 2), a_part(over, 1), a_part(one, 1)]))
    assert (await ledger.state()).parts == {one.session_id: [1, 2, 10_000]}


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
    assert await ledger.outbox(NOW, 3) == messages[:3]
    assert await ledger.forget_outbox([messages[0].outbox_id, messages[2].outbox_id, "msg_nothing"]) == 2
    assert await ledger.outbox(NOW, 10) == [messages[1], messages[3], messages[4]]


async def test_messages_come_when_they_are_due(ledger: SqlLedger) -> None:
    """A postponed message waits for its time, then in line with the others by how long they wait; its tries stay."""
    job = a_job()
    made = [a_message(job, created_at=NOW + timedelta(seconds=number)) for number in range(4)]
    later = a_message(job, attempts=1, next_attempt_at=NOW + timedelta(hours=1))
    await ledger.commit(Batch(jobs_new=[job], outbox=[*made, later]))
    tried = [
        replace(made[0], attempts=3, next_attempt_at=NOW + timedelta(seconds=60)),
        replace(made[2], attempts=1, next_attempt_at=NOW + timedelta(milliseconds=2500)),
        a_message(job, attempts=9),
    ]
    await ledger.postpone_outbox(tried)
    await ledger.postpone_outbox([])
    assert await ledger.outbox(NOW + timedelta(seconds=2), 10) == [made[1], made[3]]
    assert await ledger.outbox(NOW + timedelta(seconds=59), 10) == [made[1], tried[1], made[3]]
    assert await ledger.outbox(NOW + timedelta(seconds=60), 10) == [made[1], tried[1], made[3], tried[0]]
    assert await ledger.outbox(NOW + timedelta(hours=1), 2) == [made[1], tried[1]]
    assert (await ledger.outbox(NOW + timedelta(hours=1), 10))[-1] == later


HOOK = "https://hooks.example/x"


def a_disabled(user: Viewer, url: str = HOOK, days: int = 0, spared_days: int = 0) -> DisabledWebhook:
    disabled_at = NOW + timedelta(days=days)
    last_at = disabled_at + timedelta(days=spared_days)
    return DisabledWebhook(
        user_id=user.user_id, url=url, receiver="hooks.example", disabled_at=disabled_at, last_at=last_at
    )


async def test_a_webhook_is_disabled_for_a_user_until_it_is_enabled(ledger: SqlLedger) -> None:
    """What answered 410 comes with the messages that are due; it is one user's URL, and enabled by that user alone."""
    jobs = [a_job(ANN), a_job(BOB)]
    messages = [*map(a_message, jobs), a_message(jobs[0], url=f"{HOOK}/y")]
    await ledger.commit(Batch(jobs_new=jobs, outbox=messages))
    await ledger.note_disabled([], [])
    await ledger.note_disabled([a_disabled(ANN)], [])
    found = [replace(messages[0], disabled_at=NOW), *messages[1:]]
    for enabled in ([], [(BOB.user_id, HOOK), (ANN.user_id, f"{HOOK}/y")]):
        await ledger.commit(Batch(webhooks_enabled=enabled))
        assert await ledger.outbox(NOW, 10) == found
        assert [await ledger.disabled_since(user, HOOK) for user in (ANN, BOB, OPERATOR)] == [NOW, None, None]
    await ledger.commit(Batch(webhooks_enabled=[(ANN.user_id, HOOK)]))
    # A courier that has read the earlier page does not undo it.
    await ledger.note_disabled([], [a_disabled(ANN, spared_days=1)])
    assert await ledger.outbox(NOW, 10) == messages
    assert await ledger.disabled_since(ANN, HOOK) is None
    await ledger.note_disabled([a_disabled(ANN, days=2)], [])
    assert await ledger.disabled_since(ANN, HOOK) == NOW + timedelta(days=2)


async def test_webhooks_that_nobody_uses_are_forgotten(ledger: SqlLedger) -> None:
    """One that was spared no message for as long as deliveries are kept goes; one that was stays disabled."""
    used, unused, new = f"{HOOK}/used", f"{HOOK}/unused", f"{HOOK}/new"
    await ledger.note_disabled([a_disabled(ANN, used), a_disabled(ANN, unused)], [])
    await ledger.note_disabled([], [a_disabled(ANN, used, spared_days=20)])
    await ledger.note_disabled([a_disabled(ANN, new, days=31)], [])
    assert await ledger.disabled_since(ANN, used) == NOW
    shown = [
        DisabledReceiver(
            user_id=ANN.user_id,
            receiver="hooks.example",
            disabled_at=NOW + timedelta(days=days),
            last_at=NOW + timedelta(days=last_days),
        )
        for days, last_days in [(31, 31), (0, 20)]
    ]
    assert [await ledger.disabled_webhooks(user, 9) for user in (ANN, BOB, OPERATOR)] == [shown, [], shown]
    assert await ledger.disabled_webhooks(ANN, 1) == shown[:1]
    assert await ledger.disabled_since(ANN, unused) is None
    assert (await counts(ledger))["webhooks_disabled"] == 2


async def test_priorities_stay_paused_until_they_are_not(ledger: SqlLedger) -> None:
    """A batch says which priorities are paused from now on; one that says nothing leaves them alone."""
    for paused in (frozenset(Priority), frozenset({Priority.LOW}), frozenset({Priority.HIGH}), frozenset[Priority]()):
        await ledger.commit(Batch(paused=paused))
        assert (await ledger.state()).paused == paused
        await ledger.commit(Batch(jobs_new=[job := a_job()]))
        with pytest.raises(LedgerConflict):
            await ledger.commit(Batch(jobs_new=[job], paused=frozenset({Priority.NORMAL})))
        assert (await ledger.state()).paused == paused


async def test_when_the_bucket_was_swept(ledger: SqlLedger) -> None:
    """The last batch that says so counts; one that says nothing, and another leadership, leave it as it is."""
    for minutes in (0, 10):
        await ledger.commit(Batch(leader_epoch=await ledger.lead("rig"), swept_at=NOW + timedelta(minutes=minutes)))
        await ledger.commit(Batch(jobs_new=[a_job()]))
        assert (await ledger.state()).swept_at == NOW + timedelta(minutes=minutes)


async def test_scaling_decisions_are_kept(ledger: SqlLedger) -> None:
    """They come back newest first, as many as asked for, with what they were made from."""
    made = [
        ScalingRecord(
            ts=NOW + timedelta(seconds=number),
            reason=f"reason {number}",
            wanted=number,
            online=2,
            pending=3,
            draining=4,
            load_pct=None if number == 0 else 90.5,
            jobs_waiting=1 << 40,
        )
        for number in range(5)
    ]
    await ledger.commit(Batch(scaling=made[:3]))
    await ledger.commit(Batch(scaling=made[3:]))
    assert await ledger.scaling(10) == made[::-1]
    assert await ledger.scaling(2) == [made[4], made[3]]


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


async def test_usage_is_of_the_newest_day(ledger: SqlLedger) -> None:
    """Each user has one record, the last that was written; the scheduler starts from them."""
    await ledger.commit(Batch(keys=[a_key(ANN), a_key(BOB)]))
    first = UsageRecord(user_id=ANN.user_id, day=NOW.date(), bytes_used=5 << 40)
    of_bob = UsageRecord(user_id=BOB.user_id, day=NOW.date(), bytes_used=1)
    await ledger.commit(Batch(usage=[first, of_bob]))
    assert (await ledger.state()).usage == (first, of_bob)
    later = UsageRecord(user_id=ANN.user_id, day=NOW.date() + timedelta(days=1), bytes_used=7)
    await ledger.commit(Batch(usage=[later]))
    assert (await ledger.state()).usage == (later, of_bob)


async def test_a_revoked_key_stays_revoked(ledger: SqlLedger) -> None:
    """Whoever writes a key that was read before it was revoked does not bring it back."""
    key = a_key(ANN, scopes=frozenset({Scope.READ}))
    await ledger.commit(Batch(keys=[key]))
    assert await ledger.key(key.key_id) == key
    await ledger.commit(Batch(keys=[replace(key, revoked_at=NOW)]))
    await ledger.commit(Batch(keys=[replace(key, expires_at=NOW)]))
    assert await ledger.key(key.key_id) == replace(key, revoked_at=NOW, expires_at=NOW)


async def test_last_uses_only_move_on(ledger: SqlLedger) -> None:
    """The latest counts, in whatever order they come; one of an unknown key is nobody's; writing the key keeps it."""
    key = a_key(ANN)
    await ledger.commit(Batch(keys=[key]))
    later = NOW + timedelta(minutes=1)
    for used_at in (later, NOW):
        await ledger.commit(Batch(keys_used={key.key_id: used_at, "nothing": used_at}))
    await ledger.commit(Batch(keys=[replace(key, expires_at=later)]))
    assert await ledger.key(key.key_id) == replace(key, expires_at=later, last_used_at=later)
