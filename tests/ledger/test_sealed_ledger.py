"""Secrets at rest: no file of the ledger shows them; keys change, wrong ones are refused, old rows stay readable."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledger_samples import ANN, NOW, OPERATOR, a_full_job, a_job, a_message, changed

from rayhaul.job import Job
from rayhaul.ledger import connect, resealing, tables
from rayhaul.ledger.base import Batch, JobFilter
from rayhaul.ledger.deliveries import DisabledWebhook, OutboxRecord
from rayhaul.ledger.resealing import KeyMissing
from rayhaul.ledger.sealing import KEY_BYTES, Sealer, key_id
from rayhaul.ledger.store import open_ledger
from rayhaul.settings import LedgerSettings

SECRET = "s3cr3t"
OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES


def settings(*keys: bytes) -> LedgerSettings:
    text = ",".join(base64.b64encode(key).decode() for key in keys)
    return LedgerSettings.model_validate({"secret_key": text or None})


def a_secretive_job() -> Job:
    job = a_full_job()
    assert job.metadata is not None
    spec = replace(
        job.spec,
        url=f"https://me:{SECRET}@files.example/a?sig={SECRET}",
        mirrors=(f"https://mirror.example/?token={SECRET}",),
        headers={"Authorization": f"Bearer {SECRET}"},
        webhook=f"https://hooks.example/{SECRET}",
        refresh_webhook=f"https://refresh.example/{SECRET}",
    )
    metadata = replace(job.metadata, final_url=f"https://cdn.example/a?X-Amz-Signature={SECRET}")
    return replace(job, spec=spec, metadata=metadata)


def a_secretive_message(job: Job) -> OutboxRecord:
    return replace(a_message(job), url=f"https://hooks.example/{SECRET}")


def a_disabled(message: OutboxRecord) -> DisabledWebhook:
    return DisabledWebhook(
        user_id=message.user_id, url=message.url, receiver="hooks.example", disabled_at=NOW, last_at=NOW
    )


async def fill(url: str, *keys: bytes) -> tuple[Sequence[Job], OutboxRecord]:
    """Write jobs and a message with secrets; return them as they are to be read."""
    ledger = open_ledger(settings(*keys), url)
    jobs = [a_secretive_job(), a_job(ANN)]
    message = a_secretive_message(jobs[0])
    await ledger.commit(Batch(jobs_new=jobs, outbox=[message]))
    jobs[0] = changed(jobs[0], requeues=2)
    await ledger.commit(Batch(jobs_changed=[jobs[0]]))
    await ledger.postpone_outbox([message := replace(message, attempts=1, next_attempt_at=NOW)])
    await ledger.close()
    return jobs, message


async def check(url: str, jobs: Sequence[Job], message: OutboxRecord, *keys: bytes) -> None:
    """All of it reads as it was written, by whoever has these keys."""
    ledger = open_ledger(settings(*keys), url, read_only=True)
    try:
        found = {job.id: job for job in await ledger.jobs(OPERATOR, JobFilter())}
        assert found == {job.id: job for job in jobs}
        assert await ledger.job(OPERATOR, jobs[0].id) == jobs[0]
        assert {job.id for job in (await ledger.state()).open_jobs} <= set(found)
        assert await ledger.outbox(NOW, 10) == [message]
    finally:
        await ledger.close()


def seals(url: str) -> set[str]:
    engine = connect.readers(connect.parse_url(url), LedgerSettings())
    with engine.connect() as connection:
        found = set(connection.execute(sa.select(tables.seals.c.key_id)).scalars())
    engine.dispose()
    return found


def files_of(directory: Path) -> bytes:
    """Everything that lies in the directory: database, WAL, whatever."""
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_with_a_key_no_file_shows_a_secret(tmp_path: Path) -> None:
    """Not the database, not its WAL; neither URL nor header, webhook, final URL or message."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = open_ledger(settings(NEW), url)
    job = a_secretive_job()
    await ledger.commit(Batch(jobs_new=[job], outbox=[message := a_secretive_message(job)]))
    await ledger.note_disabled([a_disabled(message)], [])
    shown = files_of(tmp_path)
    await ledger.close()
    assert job.id.encode() in shown, "it is there"
    assert SECRET.encode() not in shown + files_of(tmp_path)


async def test_what_is_sealed_reads_back(url: str) -> None:
    """Jobs and messages, written and changed, on both databases."""
    jobs, message = await fill(url, NEW)
    await check(url, jobs, message, NEW)
    assert seals(url) == {key_id(NEW)}


async def test_a_wrong_key_is_said_at_the_start(url: str) -> None:
    """Without the key nothing is opened, for reading or writing; the sentence names the key and what to do."""
    await fill(url, OLD)
    for keys in ((NEW,), ()):
        for read_only in (True, False):
            with pytest.raises(KeyMissing, match=f"sealed with key {key_id(OLD)}.*put the old key behind the new one"):
                open_ledger(settings(*keys), url, read_only=read_only)
    assert seals(url) == {key_id(OLD)}, "who was refused left no trace"


async def test_keys_change(url: str) -> None:
    """New before old: both read; once resealed the old key is not needed any more, and is of no use."""
    jobs, message = await fill(url, OLD)
    await check(url, jobs, message, NEW, OLD)
    await open_ledger(settings(NEW, OLD), url).close()
    assert seals(url) == {key_id(NEW), key_id(OLD)}
    assert resealing.reseal(url, Sealer([NEW, OLD])) == len(jobs) + 1
    assert seals(url) == {key_id(NEW)}
    await check(url, jobs, message, NEW)
    with pytest.raises(KeyMissing):
        open_ledger(settings(OLD), url, read_only=True)
    assert resealing.reseal(url, Sealer([NEW])) == 0


async def test_a_disabled_webhook_is_known_as_long_as_its_key(url: str) -> None:
    """Under a newer key beside the old one it is found, spared and enabled; without the old one it is asked anew."""
    _, message = await fill(url, OLD)
    webhook = a_disabled(message)
    before = open_ledger(settings(OLD), url)
    await before.note_disabled([webhook], [])
    await before.close()
    ledger = open_ledger(settings(NEW, OLD), url)
    later = replace(webhook, url="https://later.example/", disabled_at=NOW + timedelta(days=31))
    await ledger.note_disabled([], [replace(webhook, last_at=NOW + timedelta(days=5))])
    await ledger.note_disabled([replace(later, last_at=later.disabled_at)], [])
    assert await ledger.outbox(NOW, 10) == [replace(message, disabled_at=NOW)]
    resealing.reseal(url, Sealer([NEW, OLD]))
    newer = open_ledger(settings(NEW), url)
    assert await newer.outbox(NOW, 10) == [message]
    assert await newer.disabled_since(ANN, later.url) == later.disabled_at
    await newer.close()
    await ledger.commit(Batch(webhooks_enabled=[(message.user_id, message.url)]))
    assert await ledger.disabled_since(ANN, message.url) is None
    await ledger.close()


async def test_what_was_written_before_there_was_a_key_is_sealed_later(url: str) -> None:
    """Unsealed rows are read with and without a key; once resealed only with it, and no file shows them."""
    jobs, message = await fill(url)
    assert seals(url) == {"none"}
    await check(url, jobs, message)
    await check(url, jobs, message, NEW)
    path = connect.sqlite_file(connect.parse_url(url))
    if path is not None:
        assert SECRET.encode() in files_of(path.parent)
    assert resealing.reseal(url, Sealer([NEW])) == len(jobs) + 1
    assert seals(url) == {key_id(NEW)}
    await check(url, jobs, message, NEW)
    if path is not None:
        assert SECRET.encode() not in files_of(path.parent)
