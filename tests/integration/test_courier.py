"""The user told: messages from a real ledger to a real receiver, through the guarded client, whatever goes wrong."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from documents import block
from fetching import Canary
from pydantic import SecretStr
from receiver import ENDLESS, HANG, Receiver
from standardwebhooks import Webhook

from actors.courier import Courier, Messages
from rayhaul.errors import Unavailable
from rayhaul.ids import IdFactory
from rayhaul.job import Job, JobSpec, utc
from rayhaul.ledger.base import Batch, Viewer
from rayhaul.ledger.deliveries import DeliveryRecord, DisabledWebhook, OutboxRecord
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.metrics import EGRESS_DENIED, WEBHOOK_DELIVERIES, WEBHOOKS_GIVEN_UP, Meter, Metric
from rayhaul.settings import EgressSettings, LedgerSettings, SourceSettings, WebhookSettings
from tasks.egress import GuardedClient

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SETTINGS = WebhookSettings(secret=SecretStr(SECRET), concurrency_max=16)
#: Two of two cores may be busy with something else.
PATIENCE_S = 30


class FlakyLedger:
    """The ledger, but calls fail while `broken`."""

    def __init__(self, inner: Messages) -> None:
        self._inner = inner
        self.broken: set[str] = set()
        self.failed_count = 0

    def _check(self, verb: str) -> None:
        if verb in self.broken:
            self.failed_count += 1
            raise Unavailable("the ledger's disk is full")

    async def outbox(self, due: datetime, limit: int) -> Sequence[OutboxRecord]:
        self._check("outbox")
        return await self._inner.outbox(due, limit)

    async def postpone_outbox(self, records: Sequence[OutboxRecord]) -> None:
        self._check("postpone")
        await self._inner.postpone_outbox(records)

    async def forget_outbox(self, outbox_ids: Sequence[str]) -> int:
        self._check("forget")
        return await self._inner.forget_outbox(outbox_ids)

    async def note_deliveries(self, records: Sequence[DeliveryRecord]) -> None:
        self._check("note")
        await self._inner.note_deliveries(records)

    async def note_disabled(self, answered: Sequence[DisabledWebhook], spared: Sequence[DisabledWebhook]) -> None:
        self._check("disable")
        await self._inner.note_disabled(answered, spared)


@dataclass(slots=True)
class Post:
    """A ledger with messages, and the couriers that carry them."""

    inner: SqlLedger
    ledger: FlakyLedger
    new_id: IdFactory = field(default_factory=IdFactory)
    meter: Meter = field(default_factory=Meter)
    #: Time is the real one and this much.
    ahead_s: float = 0

    def clock(self) -> float:
        return time.time() + self.ahead_s

    async def write(self, url: str, *events: str, job: Job | None = None, **payload: Any) -> list[OutboxRecord]:
        """Put messages of one job into the ledger, as the scheduler does."""
        if job is None:
            job = self.a_job(url)
            await self.inner.commit(Batch(jobs_new=[job]))
        records = [
            OutboxRecord(
                outbox_id=self.new_id("msg"),
                job_id=job.id,
                user_id=job.user_id,
                url=url,
                event=event,
                payload={"correlationId": job.correlation_id, **payload},
                created_at=utc(self.clock()),
            )
            for event in events or ("completed",)
        ]
        await self.inner.commit(Batch(outbox=records))
        return records

    async def write_many(self, *urls: str) -> list[str]:
        """Put one message for each URL into the ledger, of a job each; return the jobs' ids."""
        jobs = [self.a_job(url) for url in urls]
        outbox = [
            OutboxRecord(
                outbox_id=self.new_id("msg"),
                job_id=job.id,
                user_id=job.user_id,
                url=url,
                event="completed",
                payload={"correlationId": job.correlation_id},
                created_at=job.created_at,
            )
            for job, url in zip(jobs, urls, strict=True)
        ]
        await self.inner.commit(Batch(jobs_new=jobs, outbox=outbox))
        return [job.id for job in jobs]

    def a_job(self, url: str, user_id: str = "ann") -> Job:
        spec = JobSpec(url="https://files.example/a", webhook=url)
        now = utc(self.clock())
        return Job(id=self.new_id("job"), user_id=user_id, correlation_id="corr-1234", spec=spec, created_at=now)

    async def left(self) -> Sequence[OutboxRecord]:
        """Return what the ledger still holds, due or not, oldest first."""
        found = await self.inner.outbox(utc(self.clock()) + timedelta(days=3650), 10_000)
        return sorted(found, key=lambda record: record.outbox_id)

    async def tried(self, attempts: int) -> OutboxRecord:
        """Return the oldest message once the ledger knows of that many attempts."""
        async with asyncio.timeout(PATIENCE_S):
            while (record := (await self.left())[0]).attempts < attempts:
                await asyncio.sleep(0.02)
        assert record.attempts == attempts
        return record

    async def empty(self) -> None:
        """Wait until the ledger holds no message."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.left():
                await asyncio.sleep(0.02)

    def counted(self, metric: Metric, label: str) -> float:
        return self.meter.snapshot().counters.get((metric.name, (label,)), 0)

    @asynccontextmanager
    async def courier(
        self, *receivers: Receiver, settings: WebhookSettings = SETTINGS, poll_s: float = 0.1
    ) -> AsyncIterator[Courier]:
        egress = EgressSettings(allow=tuple(f"127.0.0.1:{receiver.port}" for receiver in receivers))
        async with GuardedClient(
            egress, SourceSettings(), connections_max=settings.concurrency_max, meter=self.meter
        ) as client:
            courier = Courier(
                ledger=self.ledger,
                client=client,
                settings=settings,
                meter=self.meter,
                rng=Random(1),
                clock=self.clock,
                poll_s=poll_s,
            )
            running = asyncio.create_task(courier.run())
            try:
                yield courier
            finally:
                await courier.stop()
                await running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def post(tmp_path: Path) -> AsyncIterator[Post]:
    ledger = open_ledger(LedgerSettings(), f"sqlite:///{tmp_path / 'ledger.db'}")
    yield Post(inner=ledger, ledger=FlakyLedger(ledger))
    await ledger.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as receiver:
        yield receiver


@pytest.fixture
async def other() -> AsyncIterator[Receiver]:
    async with Receiver().listening() as receiver:
        yield receiver


async def test_told_and_verified(post: Post, receiver: Receiver) -> None:
    """One POST whose signature the reference library verifies; then the ledger holds the message no more."""
    (record,) = await post.write(receiver.url("hook?a=1"), "completed", key="data/a.iso")
    async with post.courier(receiver):
        await post.empty()
    (delivery,) = receiver.deliveries
    assert delivery.method == "POST"
    assert delivery.headers["content-type"] == "application/json"
    assert delivery.headers["x-correlation-id"] == "corr-1234"
    shown = {line.partition(":")[0].lower() for line in block("a message").splitlines()[1:]}
    assert shown - {"traceparent"} <= set(delivery.headers)
    assert delivery.message_id == record.outbox_id
    message = Webhook(SECRET).verify(delivery.body, dict(delivery.headers))
    assert message["type"] == "job.completed"
    assert message["data"]["jobId"] == record.job_id
    assert message["data"]["payload"] == {"correlationId": "corr-1234", "key": "data/a.iso"}
    assert post.counted(WEBHOOK_DELIVERIES, "delivered") == 1


async def test_the_trace_goes_along(post: Post, receiver: Receiver) -> None:
    """The traceparent of the job's creation is a header, and stays out of the body: no event has it."""
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await post.write(receiver.url("hook"), "completed", traceparent=traceparent)
    async with post.courier(receiver):
        await post.empty()
    (delivery,) = receiver.deliveries
    assert delivery.headers["traceparent"] == traceparent
    assert json.loads(delivery.body)["data"]["payload"] == {"correlationId": "corr-1234"}


async def test_unsigned_without_a_secret(post: Post, receiver: Receiver) -> None:
    """With no secret there is no signature; id and time are there all the same."""
    await post.write(receiver.url("hook"))
    async with post.courier(receiver, settings=WebhookSettings()):
        await post.empty()
    (delivery,) = receiver.deliveries
    assert "webhook-signature" not in delivery.headers
    assert abs(int(delivery.headers["webhook-timestamp"]) - delivery.at_s) < 10


async def test_tried_again_under_the_same_id(post: Post, receiver: Receiver) -> None:
    """500, then 200: the second try comes when it is due and not before, with the same id and body, signed anew."""
    (record,) = await post.write(receiver.answer("hook", 500, 200))
    async with post.courier(receiver):
        tried = await post.tried(1)
        assert tried.next_attempt_at is not None
        wait_s = (tried.next_attempt_at - utc(post.clock())).total_seconds()
        assert wait_s < 6
        assert len(receiver.deliveries) == 1
        post.ahead_s += 7
        await post.empty()
    first, second = receiver.deliveries
    assert {first.message_id, second.message_id} == {record.outbox_id}
    assert first.body == second.body
    assert int(second.headers["webhook-timestamp"]) >= int(first.headers["webhook-timestamp"]) + 6
    for delivery in (first, second):
        assert Webhook(SECRET).verify(delivery.body, dict(delivery.headers))


async def test_retry_after_is_kept(post: Post, receiver: Receiver) -> None:
    """A receiver that asks for ten minutes gets ten minutes."""
    await post.write(receiver.answer("hook", (503, {"Retry-After": "600"})))
    async with post.courier(receiver):
        tried = await post.tried(1)
    assert tried.next_attempt_at is not None
    assert (tried.next_attempt_at - utc(post.clock())).total_seconds() > 500
    assert post.counted(WEBHOOK_DELIVERIES, "busy") == 1


async def test_given_up_after_the_last_try(post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """At the schedule's end the message is dropped, with a line in the log that does not show the path."""
    await post.write(receiver.answer("s3cr3t", 404))
    with caplog.at_level(logging.INFO):
        async with post.courier(receiver, settings=SETTINGS.model_copy(update={"attempts_max": 3})):
            for attempts in (1, 2):
                await post.tried(attempts)
                post.ahead_s += 3600
            await post.empty()
    assert len({delivery.message_id for delivery in receiver.deliveries}) == 1
    assert len(receiver.deliveries) == 3
    assert post.counted(WEBHOOKS_GIVEN_UP, "exhausted") == 1
    assert "given up after 3 tries: it answered 404" in caplog.text
    assert "s3cr3t" not in caplog.text


async def test_gone_is_the_end(post: Post, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    """410 ends the message and all others of that user for that URL, be it by a courier that starts weeks later."""
    gone = receiver.answer("s3cr3t", 410, 204)
    await post.write(gone, "failed", "deadlettered")
    with caplog.at_level(logging.WARNING):
        async with post.courier(receiver):
            await post.empty()
    assert len(receiver.deliveries) == 1
    post.ahead_s += timedelta(days=20).total_seconds()
    async with post.courier(receiver):
        await post.write(gone)
        await post.write(receiver.url("there"))
        await post.empty()
    assert [len(receiver.got(path)) for path in ("s3cr3t", "there")] == [1, 1]
    assert post.counted(WEBHOOKS_GIVEN_UP, "gone") == 3
    assert post.counted(WEBHOOK_DELIVERIES, "gone") == 1
    *_, second, first = [each for each in await post.inner.deliveries(Viewer("ann")) if each.result == "gone"]
    assert (first.status, second.status, first.why) == (410, None, second.why)
    assert re.fullmatch(
        "it answered 410 at .*: nothing more is sent .* until .* `rayhaul webhooks test`, .*", first.why or ""
    )
    assert f"given up: {first.why}" in caplog.text
    assert "s3cr3t" not in caplog.text


async def test_gone_is_said_by_one_user_s_messages_to_that_user(post: Post, receiver: Receiver) -> None:
    """The same URL is told of another user's jobs; and of this one's again as soon as it is enabled."""
    gone = receiver.answer("gone", 410, 204)
    async with post.courier(receiver):
        await post.write(gone)
        await post.empty()
        of_bob = post.a_job(gone, "bob")
        await post.inner.commit(Batch(jobs_new=[of_bob]))
        await post.write(gone, job=of_bob)
        await post.write(gone)
        await post.empty()
        assert told(receiver)[1:] == [of_bob.id]
        await post.inner.commit(Batch(webhooks_enabled=[("ann", gone)]))
        (later,) = await post.write(gone)
        await post.empty()
    assert told(receiver)[2:] == [later.job_id]


async def test_gone_is_written_down_before_the_message_is_forgotten(post: Post, receiver: Receiver) -> None:
    """While the ledger does not take it the message stays, and nothing is sent; the next courier asks once more."""
    gone = receiver.answer("gone", 410)
    (first,) = await post.write(gone)
    post.ledger.broken.add("disable")
    async with post.courier(receiver):
        await until(lambda: post.ledger.failed_count)
        await post.write(gone)
        failed_count = post.ledger.failed_count
        await until(lambda: post.ledger.failed_count > failed_count + 1)
        assert (await post.left())[0] == first
    assert len(receiver.deliveries) == 1
    post.ledger.broken.clear()
    async with post.courier(receiver):
        await post.empty()
    assert await post.inner.disabled_since(Viewer("ann"), gone) is not None


async def test_redirects_are_not_followed(post: Post, receiver: Receiver) -> None:
    """A redirect, be it to an address that is allowed or to one that is not, is a failure like another."""
    async with Canary().listening() as canary:
        await post.write(receiver.answer("hook", (302, {"Location": f"http://127.0.0.1:{canary.port}/"})))
        await post.write(receiver.answer("near", (307, {"Location": receiver.url("target")})))
        async with post.courier(receiver):
            await until(lambda: post.counted(WEBHOOK_DELIVERIES, "redirected") == 2)
            await post.tried(1)
        assert canary.connections_count == 0
    assert sorted(delivery.path for delivery in receiver.deliveries) == ["hook", "near"]


async def test_denied_addresses_are_not_connected(post: Post) -> None:
    """A receiver on an address that may not be fetched: no connection, and a later try, for the rules may change."""
    async with Canary().listening() as canary:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            await post.write(f"http://{host}:{canary.port}/hook")
        await post.write("http://169.254.169.254/latest/meta-data")
        async with post.courier():
            await until(lambda: post.counted(WEBHOOK_DELIVERIES, "denied") == 4)
            await post.tried(1)
        assert canary.connections_count == 0
    denied = {labels[0] for (name, labels) in post.meter.snapshot().counters if name == EGRESS_DENIED.name}
    assert {"loopback", "link_local"} <= denied
    assert len(await post.left()) == 4


async def test_silence_is_cut_off(post: Post, receiver: Receiver) -> None:
    """A receiver that does not answer in time costs an attempt."""
    await post.write(receiver.answer("hook", HANG))
    async with post.courier(receiver, settings=SETTINGS.model_copy(update={"timeout_s": 0.2})):
        await post.tried(1)
    assert post.counted(WEBHOOK_DELIVERIES, "silent") == 1


async def test_nobody_there(post: Post, receiver: Receiver) -> None:
    """A refused connection costs an attempt, as a silent one does."""
    async with Receiver().listening() as away:
        url = away.url("hook")
    await post.write(url)
    async with post.courier(away):
        await post.tried(1)
    assert post.counted(WEBHOOK_DELIVERIES, "silent") == 1


async def test_slow_receivers_hold_up_nobody_else(post: Post, receiver: Receiver, other: Receiver) -> None:
    """While one receiver hangs, with more than a page before it, another gets every message of its own."""
    await post.write_many(*[receiver.answer("slow", HANG)] * 300)
    await post.write_many(*[other.url("quick")] * 20)
    async with post.courier(receiver, other):
        await until(lambda: len(other.got("quick")) == 20)
        assert receiver.under_way == 2, "an eighth of 16"
        receiver.release()
        await post.empty()
    assert receiver.under_way_max == 2
    assert len({delivery.message_id for delivery in receiver.got("slow")}) == 300
    assert post.counted(WEBHOOK_DELIVERIES, "delivered") == 320


async def test_events_of_a_job_stay_in_order(post: Post, receiver: Receiver) -> None:
    """While the first cannot be delivered the next ones wait: those written with it, and those after a restart."""
    url = receiver.answer("hook", 500, 204)
    job = post.a_job(url)
    await post.inner.commit(Batch(jobs_new=[job]))
    first, second = await post.write(url, "failed", "deadlettered", job=job)
    async with post.courier(receiver):
        await post.tried(1)
    async with post.courier(receiver):
        (third,) = await post.write(url, "completed", job=job)
        (stranger,) = await post.write(url)
        await until(lambda: len(receiver.deliveries) == 2)
        assert [delivery.message_id for delivery in receiver.deliveries] == [first.outbox_id, stranger.outbox_id]
        post.ahead_s += 7
        await post.empty()
    assert [delivery.message_id for delivery in receiver.deliveries[2:]] == [
        first.outbox_id,
        second.outbox_id,
        third.outbox_id,
    ]


async def test_survives_the_ledger(post: Post, receiver: Receiver) -> None:
    """While reading fails nothing is lost; while writing fails nothing new is tried and nothing is told twice."""
    post.ledger.broken = {"outbox"}
    await post.write(receiver.url("a"))
    async with post.courier(receiver):
        await until(lambda: post.ledger.failed_count >= 2)
        post.ledger.broken = {"forget", "postpone"}
        await until(lambda: len(receiver.deliveries) == 1)
        failed_count = post.ledger.failed_count
        await until(lambda: post.ledger.failed_count > failed_count)
        await post.write(receiver.answer("b", 500, 204))
        await until(lambda: post.ledger.failed_count > failed_count + 2)
        assert receiver.got("b") == []
        post.ledger.broken = set()
        await post.tried(1)
        post.ahead_s += 7
        await post.empty()
    assert [delivery.path for delivery in receiver.deliveries] == ["a", "b", "b"]


async def test_stop_and_start(post: Post, receiver: Receiver) -> None:
    """Stopping cuts off what hangs, uncharged; the next courier delivers it, under the same id."""
    (record,) = await post.write(receiver.answer("hook", HANG, 204))
    async with post.courier(receiver) as courier:
        await until(lambda: receiver.under_way == 1)
        await courier.stop()
    assert await post.left() == [record]
    async with post.courier(receiver):
        await post.empty()
    assert {delivery.message_id for delivery in receiver.deliveries} == {record.outbox_id}
    assert len(receiver.deliveries) == 2


async def test_stop_waits_for_what_ends_soon(post: Post, receiver: Receiver) -> None:
    """A delivery that is answered while the courier stops is written down."""
    await post.write(receiver.answer("hook", HANG))
    async with post.courier(receiver) as courier:
        await until(lambda: receiver.under_way == 1)
        await courier.stop()
        receiver.release()
    assert await post.left() == []


async def test_endless_answers_are_not_read(post: Post, receiver: Receiver) -> None:
    """The status is all that counts: a body without end is hung up on."""
    await post.write(receiver.answer("hook", ENDLESS))
    async with post.courier(receiver):
        await post.empty()
        await until(lambda: receiver.under_way == 0)


async def test_what_cannot_be_sent_stops_nobody(post: Post, receiver: Receiver) -> None:
    """A message that breaks our own code is tried and put off like another; the next ones are told."""
    (record,) = await post.write(receiver.url("hook"))
    bad = replace(record, outbox_id=post.new_id("msg"), event="no such event", payload={"correlationId": "a\nb"})
    await post.inner.commit(Batch(outbox=[bad]))
    await post.write(receiver.url("next"))
    async with post.courier(receiver):
        await until(lambda: len(receiver.deliveries) == 2)
        await until(lambda: post.counted(WEBHOOK_DELIVERIES, "error") == 1)
        assert (await post.tried(1)).outbox_id == bad.outbox_id


async def test_a_backlog_is_worked_off(post: Post, receiver: Receiver) -> None:
    """More messages than a page or a receiver's queue holds: each is told, once."""
    job_ids = await post.write_many(*[receiver.url("hook")] * 600)
    async with post.courier(receiver, settings=SETTINGS.model_copy(update={"concurrency_max": 64})):
        await post.empty()
    assert sorted(told(receiver)) == job_ids


async def test_full_pages_follow_each_other(post: Post, receiver: Receiver, other: Receiver) -> None:
    """What does not fit on one page is not left until the next regular look."""
    job_ids = await post.write_many(*[receiver.url("hook"), other.url("hook")] * 250)
    async with post.courier(receiver, other, poll_s=3600):
        await post.empty()
    assert sorted(told(receiver) + told(other)) == job_ids


def told(receiver: Receiver) -> list[str]:
    """Return the ids of the jobs that a receiver heard of."""
    return [json.loads(delivery.body)["data"]["jobId"] for delivery in receiver.deliveries]


async def test_what_became_of_deliveries_is_kept(post: Post, receiver: Receiver) -> None:
    """Each try with its outcome, for the owner alone; a ledger that does not take it is told again; old ones go."""
    post.ledger.broken.add("note")
    (record,) = await post.write(receiver.answer("hook", 500, 204), "completed")
    ann, bob = Viewer("ann"), Viewer("bob")
    async with post.courier(receiver):
        await post.tried(1)
        await until(lambda: post.ledger.failed_count)
        post.ledger.broken.clear()
        post.ahead_s += 3600
        await post.empty()
        async with asyncio.timeout(PATIENCE_S):
            while len(await post.inner.deliveries(ann)) < 2:
                await asyncio.sleep(0.02)
    second, first = await post.inner.deliveries(ann)
    assert (first.attempt, first.result, first.status) == (1, "refused", 500)
    assert (second.attempt, second.result, second.status) == (2, "delivered", 204)
    assert first.next_attempt_at is not None
    assert second.next_attempt_at is None
    assert {each.message_id for each in (first, second)} == {record.outbox_id}
    assert {each.receiver for each in (first, second)} == {f"127.0.0.1:{receiver.port}"}
    assert await post.inner.deliveries(bob) == []
    assert await post.inner.deliveries(ann, job_id=record.job_id, before_seq=second.seq) == [first]
    late = replace(second, seq=None, ts=second.ts + timedelta(days=31))
    await post.inner.note_deliveries([late])
    assert [each.ts for each in await post.inner.deliveries(ann)] == [late.ts]
