"""The courier: tells users what became of their jobs, by the messages that the scheduler left in the ledger.

Laws of this file:
1. At least once: a message leaves the ledger after it was delivered or given up, never before. A crash between the two
   delivers it again, under the same id.
2. What was tried is written down before it is tried again; while the ledger does not answer, nothing new is tried.
3. It writes nothing but its messages and what became of them, and nobody waits for it.
4. That a webhook answered 410 is written down before the message is forgotten; from then on none of that user's
   messages is sent there, by this courier or a later one, until a test of it by that user is delivered.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Protocol

from actors.disabled import Disabled
from actors.following import webhook_span
from actors.mailbag import BEHIND_MAX, Mailbag, receiver_of
from rayhaul.errors import RayhaulError
from rayhaul.job import utc
from rayhaul.ledger.deliveries import DeliveryRecord, DisabledWebhook, OutboxRecord
from rayhaul.log import bind
from rayhaul.metrics import TICK_ERRORS, WEBHOOK_DELIVERIES, WEBHOOKS_GIVEN_UP, WEBHOOKS_HELD, Meter
from rayhaul.policy.webhook import Outcome, Result, next_try, why_disabled
from rayhaul.settings import WebhookSettings
from rayhaul.tracing import OFF, Tracer
from tasks.egress import GuardedClient
from tasks.webhook import deliver

log = logging.getLogger(__name__)

#: Time between two looks for due messages: the longest that a user waits for the first try.
POLL_S = 1.0
#: Outcomes are gathered this long and written together; the ledger has one writer, and the scheduler needs it.
_GATHER_S = 0.05
#: Messages read beyond those in hand, and messages in hand.
_PAGE = 256
_HELD_MAX = 2048
#: Deliveries under way get this long when the courier stops. What is cut off is delivered again.
_GRACE_S = 3.0
#: Later than any next try.
_EVER = timedelta(days=3650)


class Messages(Protocol):
    """The part of the ledger that the courier uses (rayhaul.ledger.base.Ledger)."""

    async def outbox(self, due: datetime, limit: int) -> Sequence[OutboxRecord]: ...

    async def postpone_outbox(self, records: Sequence[OutboxRecord]) -> None: ...

    async def forget_outbox(self, outbox_ids: Sequence[str]) -> int: ...

    async def note_deliveries(self, records: Sequence[DeliveryRecord]) -> None: ...

    async def note_disabled(self, answered: Sequence[DisabledWebhook], spared: Sequence[DisabledWebhook]) -> None: ...


class Courier:
    def __init__(
        self,
        *,
        ledger: Messages,
        client: GuardedClient,
        settings: WebhookSettings,
        meter: Meter,
        rng: Random,
        tracer: Tracer = OFF,
        clock: Callable[[], float] = time.time,
        poll_s: float = POLL_S,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._settings = settings
        self._meter = meter
        self._rng = rng
        self._tracer = tracer
        self._clock = clock
        self._poll_s = poll_s
        self._bag = Mailbag(under_way_max=settings.concurrency_max)
        self._deliveries = asyncio.TaskGroup()
        self._under_way: set[asyncio.Task[None]] = set()
        #: What became of deliveries, until the ledger knows.
        self._tried: list[DeliveryRecord] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._ledger_works = True
        self._has_remembered = False
        #: On the loop's clock; earlier where the last page was full and half of what was held then is through.
        self._look_at_s = 0.0
        self._look_below = 0
        self._disabled = Disabled()

    async def run(self) -> None:
        """Deliver until `stop`."""
        if not self._settings.keys:
            log.info("webhooks are not signed: webhook.secret is not set")
        async with self._deliveries:
            while not self._stopping:
                await self._turn()
                await self._idle()
            if self._under_way:
                _, cut_off = await asyncio.wait(self._under_way, timeout=_GRACE_S)
                for delivery in cut_off:
                    delivery.cancel()
        with suppress(RayhaulError):
            await self._settle()

    async def stop(self) -> None:
        """Have `run` return, within a few seconds."""
        self._stopping = True
        self._wake.set()

    async def _idle(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        self._wake.clear()
        if not self._stopping:
            await asyncio.sleep(_GATHER_S if self._ledger_works else self._poll_s)

    async def _turn(self) -> None:
        """Read what is due, write what became of the rest, start what may go."""
        try:
            if self._is_time_to_look():
                await self._look()
            await self._settle()
        except RayhaulError as error:
            self._meter.inc(TICK_ERRORS)
            if self._ledger_works:
                log.warning("webhooks wait for the ledger: %s", error.message, extra={"code": error.code})
            self._ledger_works = False
        except Exception:
            # The loop must outlive its own mistakes; what is in hand stays there.
            self._meter.inc(TICK_ERRORS)
            log.exception("the courier's turn failed")
            self._ledger_works = False
        else:
            self._ledger_works = True
            if self._is_time_to_look():
                self._wake.set()
        self._meter.set(WEBHOOKS_HELD, self._bag.held_count)
        self._fill()

    def _is_time_to_look(self) -> bool:
        held = self._bag.held_count
        is_early = asyncio.get_running_loop().time() < self._look_at_s
        return held < _HELD_MAX and (not is_early or held < self._look_below)

    async def _look(self) -> None:
        now = utc(self._clock())
        if not self._has_remembered:
            self._bag.remember(await self._ledger.outbox(now + _EVER, BEHIND_MAX))
            self._has_remembered = True
        # What is in hand is still due in the ledger, and the oldest.
        limit = self._bag.held_count + _PAGE
        page = await self._ledger.outbox(now, limit)
        self._disabled.read(page)
        self._bag.take(page, now)
        self._look_at_s = asyncio.get_running_loop().time() + self._poll_s
        self._look_below = 0
        if len(page) >= limit:
            self._look_below = self._bag.held_count // 2

    async def _settle(self) -> None:
        """Write what became of messages. Raises: RayhaulError; it is all kept then."""
        news = self._bag.news()
        if (disabled := self._disabled.news()) is not None:
            await self._ledger.note_disabled(disabled.answered, disabled.spared)
            self._disabled.settle(disabled)
        if news.put_off:
            await self._ledger.postpone_outbox(news.put_off)
        if news.ended:
            await self._ledger.forget_outbox(news.ended)
        self._bag.settle(news)
        if self._tried:
            told = list(self._tried)
            await self._ledger.note_deliveries(told)
            del self._tried[: len(told)]

    def _fill(self) -> None:
        while self._ledger_works and not self._stopping and (record := self._bag.start()) is not None:
            delivery = self._deliveries.create_task(self._carry(record))
            self._under_way.add(delivery)
            delivery.add_done_callback(self._under_way.discard)

    async def _carry(self, record: OutboxRecord) -> None:
        correlation_id = record.payload.get("correlationId")
        began_s = asyncio.get_running_loop().time()
        with bind(correlationId=correlation_id, userId=record.user_id, jobId=record.job_id):
            outcome = await self._try(record)
            took_s = asyncio.get_running_loop().time() - began_s
            self._conclude(record, outcome, took_s)
        self._bag.heard(record, strained=outcome.result.is_strain, took_s=took_s)
        self._wake.set()
        self._fill()

    async def _try(self, record: OutboxRecord) -> Outcome:
        disabled_at = self._disabled.since(record)
        if disabled_at is not None:
            self._disabled.spare(record, disabled_at, utc(self._clock()))
            return Outcome(result=Result.GONE, why=why_disabled(disabled_at))
        try:
            with webhook_span(self._tracer, record) as span:
                outcome = await deliver(self._client, record, self._settings, now_s=self._clock())
                span.set({"http.response.status_code": outcome.status, "result": outcome.result})
        except Exception:
            # One message that we cannot send must not end the courier: it is tried, and given up, like any other.
            log.exception("a webhook could not be sent")
            outcome = Outcome(result=Result.ERROR, why="it could not be sent")
        self._meter.inc(WEBHOOK_DELIVERIES, outcome.result)
        if outcome.result is Result.GONE:
            now = utc(self._clock())
            self._disabled.answer(record, now)
            outcome = replace(outcome, why=why_disabled(now))
        return outcome

    def _conclude(self, record: OutboxRecord, outcome: Outcome, took_s: float) -> None:
        attempts = record.attempts + 1
        about = {"attempt": attempts, "durationMs": round(took_s * 1000), "statusCode": outcome.status}
        about = {name: value for name, value in about.items() if value is not None}
        to = receiver_of(record.url)
        if outcome.result is Result.DELIVERED:
            self._bag.end(record)
            self._note(record, outcome, took_s, again_at=None)
            log.info("webhook %s told to %s", record.event, to, extra=about)
            return
        attempts_max = self._settings.attempts_max
        now = utc(self._clock())
        again_at = next_try(outcome, attempts=attempts, attempts_max=attempts_max, now=now, rng=self._rng)
        self._note(record, outcome, took_s, again_at=again_at)
        said = outcome.why or f"it answered {outcome.status}"
        if outcome.result is Result.GONE:
            self._bag.end(record)
            self._meter.inc(WEBHOOKS_GIVEN_UP, "gone")
            log.warning("webhook %s to %s given up: %s", record.event, to, said, extra=about)
        elif again_at is None:
            self._bag.end(record)
            self._meter.inc(WEBHOOKS_GIVEN_UP, "exhausted")
            log.warning("webhook %s to %s given up after %d tries: %s", record.event, to, attempts, said, extra=about)
        else:
            self._bag.put_off(record, again_at)
            log.info("webhook %s to %s not told, again at %s: %s", record.event, to, again_at, said, extra=about)

    def _note(self, record: OutboxRecord, outcome: Outcome, took_s: float, *, again_at: datetime | None) -> None:
        self._tried.append(
            DeliveryRecord(
                ts=utc(self._clock()),
                message_id=record.outbox_id,
                job_id=record.job_id,
                user_id=record.user_id,
                event=record.event,
                receiver=receiver_of(record.url),
                attempt=record.attempts + 1,
                result=outcome.result,
                status=outcome.status,
                duration_ms=round(took_s * 1000),
                next_attempt_at=again_at,
                # Of others it may tell where a name led: that is for operators.
                why=outcome.why if outcome.result is Result.GONE else None,
            )
        )
