"""An agent: carries out orders within its slots, reports what it holds and what happened, and stops when it must.

Laws of this file:
1. An agent classifies outcomes and decides nothing: what follows from them is the scheduler's business.
2. One report is under way at a time; it carries everything that waits. A notice is sent again until acknowledged.
3. Self-fencing: an agent whose last acknowledged report was *sent* longer ago than `liveness.self_fence_s` (monotonic)
   stops all its transfers, because somebody else may hold its leases by now.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from random import Random
from typing import Any

from actors.fitness import Fitness, unfit
from actors.following import order_span
from actors.holding import Held, key_of, progress_of
from actors.looking import Looking
from actors.outbox import Control, Outbox
from actors.ports import Reports
from rayhaul import tracing
from rayhaul.capacity import Capacity
from rayhaul.errors import Failure, Internal, LeaseLost, RayhaulError
from rayhaul.ids import NewId
from rayhaul.job import utc
from rayhaul.lease import AbortOrder, Order, ProbeOrder, SweepOrder, TransferOrder, TrimOrder
from rayhaul.log import bind, bind_job
from rayhaul.metrics import AGENT_ERRORS, Meter
from rayhaul.report import (
    Aborted,
    AgentReport,
    LeaseFailed,
    Notice,
    Probed,
    ProbeFailed,
    ReportReply,
    StripeDone,
    Swept,
    Transferred,
    Trimmed,
)
from rayhaul.settings import AgentSettings, Settings
from rayhaul.tracing import OFF, Tracer
from tasks.budget import ByteBudget
from tasks.egress import GuardedClient
from tasks.gates import Gates
from tasks.links import Refresh
from tasks.marks import undo
from tasks.pace import Paces, Rate
from tasks.sink import Sink
from tasks.sweep import abort_nobodys, sweep
from tasks.transfer import transfer
from tasks.transports import Transports

log = logging.getLogger(__name__)

#: Longest wait for the answer to a report; then the same is reported again.
_REPORT_TIMEOUT_S = 15.0
_REPORT_AGAIN_S = 0.3


class Agent:
    def __init__(
        self,
        *,
        name: str,
        reports: Reports,
        settings: Settings,
        client: GuardedClient,
        sink: Sink,
        meter: Meter,
        new_id: NewId,
        rng: Random,
        tracer: Tracer = OFF,
        unfit: Callable[[AgentSettings], str | None] = unfit,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.incarnation = new_id("inc")
        self._reports = reports
        self._settings = settings
        self._client = client
        self._sink = sink
        self._meter = meter
        self._new_id = new_id
        self._rng = rng
        self._tracer = tracer
        self._fitness = Fitness(settings.agent, unfit)
        self.superseded = False
        self._clock = clock
        self._monotonic = monotonic
        self._memory = ByteBudget(settings.agent.memory_bytes_max)
        self._refresh = Refresh(client, settings.webhook, new_id=new_id, clock=clock)
        self._gates = Gates(monotonic)
        self._paces = Paces(settings.agent.bandwidth_bytes_per_s_max)
        self._transports = Transports.of(settings, client, sink)
        self._looking = Looking(
            settings, transports=self._transports, gates=self._gates, refresh=self._refresh, monotonic=monotonic
        )
        self._held: dict[str, Held] = {}
        self._let_go: set[str] = set()
        self._wake = asyncio.Event()
        self._outbox = Outbox(self._wake)
        self._rate = Rate()
        self._seq = 0
        self._acknowledged_at_s = monotonic()
        self._draining = False
        self._stopping = False
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Work until drained or stopped; then say goodbye."""
        with bind(agentId=self.name):
            async with aclosing(self._transports), asyncio.TaskGroup() as self._tasks:
                while not (self._stopping or (self._draining and not self._held)):
                    await self._wait()
                    await self._report()
                for held in self._held.values():
                    if held.task is not None:
                        held.task.cancel()
            if self.superseded:
                return
            with suppress(RayhaulError, TimeoutError):
                await self._send(self._compose(leaving=True))

    async def assign(self, orders: Sequence[Order]) -> None:
        """Take orders; one that is in hand already is left as it is."""
        assert self._tasks is not None, "the agent is not running"
        for order in orders:
            key = key_of(order)
            if key in self._held:
                continue
            held = self._held[key] = Held(order)
            held.task = self._tasks.create_task(self._carry_out(held), name=key)
        self._wake.set()

    async def revoke(self, keys: Sequence[str]) -> None:
        """Stop orders at once; whatever they had to tell is not wanted any more."""
        for key in keys:
            held = self._held.get(key)
            if held is not None:
                held.lose()

    async def trim(self, orders: Sequence[TrimOrder]) -> None:
        """Leave the tails of stripes to others, as far as nothing of them is on its way, and say where they end now."""
        for order in orders:
            held = self._held.get(order.lease_id)
            if held is None or held.stripe is None or held.lost or not isinstance(held.order, TransferOrder):
                continue
            held.trim(order.end_part)
            self._outbox.post(
                Trimmed(**self._under(held.order), end_part=held.stripe.end_part, shared=held.stripe.is_shared)
            )

    async def drain(self) -> None:
        """Take no more leases; `run` returns when nothing is in hand."""
        self._draining = True
        self._wake.set()

    async def stop(self) -> None:
        """Stop at once."""
        self._stopping = True
        self._wake.set()

    # --- carrying out ---

    async def _carry_out(self, held: Held) -> None:
        order = held.order
        # Orders come in through calls of their own: what `run` has bound is not bound there.
        with bind(agentId=self.name), bind_job(order.context), order_span(self._tracer, order, self.name) as span:
            try:
                match order:
                    case ProbeOrder():
                        await self._probe(order)
                    case TransferOrder():
                        await self._transfer(held, order)
                    case AbortOrder():
                        await self._abort(order)
                    case SweepOrder():
                        await self._sweep(order)
            except asyncio.CancelledError:
                span.set({"cancelled": True})
                if not (held.lost or self._stopping):
                    raise
            except LeaseLost:
                span.fail(LeaseLost.code)
                if not held.lost:
                    self._let_go.add(key_of(order))
                log.warning("lease lost: stopped", extra={"code": LeaseLost.code})
            except Exception:
                # A slot outlives what happens in it.
                span.fail(Internal.code)
                self._meter.inc(AGENT_ERRORS)
                log.exception("order failed unexpectedly")
            finally:
                self._held.pop(key_of(order), None)
                self._wake.set()

    async def _probe(self, order: ProbeOrder) -> None:
        try:
            found = await self._looking.look(order)
        except RayhaulError as error:
            log.info("metadata not to be had: %s", error.message, extra={"code": error.code})
            tracing.current().fail(error.code)
            told: Notice = ProbeFailed(
                notice_id=self._new_id("note"),
                order_id=order.order_id,
                job_id=order.context.job_id,
                failure=error.failure(),
            )
        else:
            log.info("metadata ready", extra={"durationMs": found.fetch_ms})
            tracing.current().set({"bytes": found.size_bytes})
            told = Probed(
                notice_id=self._new_id("note"), order_id=order.order_id, job_id=order.context.job_id, metadata=found
            )
        await self._outbox.tell(told)

    async def _transfer(self, held: Held, order: TransferOrder) -> None:
        began_s = self._monotonic()
        log.info("transfer begins: %s", order.key)
        try:
            result = await transfer(
                order,
                client=self._client,
                sink=self._sink,
                control=Control(
                    held,
                    order,
                    self._outbox,
                    agent_rate=self._rate,
                    check_fence=self.check_fence,
                    new_id=self._new_id,
                    monotonic=self._monotonic,
                ),
                settings=self._settings.transfer,
                memory=self._memory,
                clock=self._clock,
                rng=self._rng,
                stripe=held.stripe,
                refresh=self._refresh,
                gates=self._gates,
                paces=self._paces.of(order.rates),
                transports=self._transports,
            )
        except LeaseLost:
            raise
        except RayhaulError as error:
            log.warning("transfer failed: %s", error.message, extra={"code": error.code})
            tracing.current().fail(error.code)
            await self._outbox.tell(self._failed(held, order, error.failure()))
        except Exception as error:
            self._meter.inc(AGENT_ERRORS)
            log.exception("transfer failed unexpectedly")
            tracing.current().fail(Internal.code)
            failure = Internal(f"unexpected {type(error).__name__} in the agent").failure()
            await self._outbox.tell(self._failed(held, order, failure))
        else:
            done = "transfer done" if result is not None else "stripe done"
            log.info("%s: %s", done, order.key, extra={"durationMs": self._since_ms(began_s)})
            if result is not None:
                tracing.current().set({"bytes": result.size_bytes})
            under = {**self._under(order), "left_out": tuple(held.left_out.items())}
            await self._outbox.tell(StripeDone(**under) if result is None else Transferred(**under, result=result))

    def _failed(self, held: Held, order: TransferOrder, failure: Failure) -> LeaseFailed:
        return LeaseFailed(**self._under(order), failure=failure, left_out=tuple(held.left_out.items()))

    def _under(self, order: TransferOrder) -> dict[str, Any]:
        """Return what every notice under a lease begins with."""
        return {
            "notice_id": self._new_id("note"),
            "lease_id": order.lease_id,
            "epoch": order.epoch,
            "job_id": order.context.job_id,
        }

    async def _abort(self, order: AbortOrder) -> None:
        """Undo an upload. A failure is not told: the scheduler orders it again."""
        try:
            await undo(self._sink, order)
        except RayhaulError as error:
            log.warning("upload not aborted: %s", error.message, extra={"code": error.code})
            return
        await self._outbox.tell(
            Aborted(notice_id=self._new_id("note"), session_id=order.session_id, job_id=order.context.job_id)
        )

    async def _sweep(self, order: SweepOrder) -> None:
        """Tell of uploads that may be nobody's, or abort what is. Failures are not told: the next look comes soon."""
        try:
            if order.nobodys:
                await abort_nobodys(self._sink, order.nobodys)
                return
            found = await sweep(self._sink, order, now=utc(self._clock()), new_id=self._new_id, rng=self._rng)
        except RayhaulError as error:
            log.warning("bucket not swept: %s", error.message, extra={"code": error.code})
            return
        await self._outbox.tell(
            Swept(notice_id=self._new_id("note"), order_id=order.order_id, uploads=found.of_jobs, named=found.named)
        )

    def _since_ms(self, began_s: float) -> int:
        return round((self._monotonic() - began_s) * 1000)

    # --- telling ---

    def check_fence(self) -> None:
        """Raises: LeaseLost once the scheduler may have given our leases to somebody else."""
        if self._monotonic() - self._acknowledged_at_s > self._settings.liveness.self_fence_s:
            raise LeaseLost("no answer from the scheduler for too long: stopped by itself")

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.liveness.heartbeat_s):
                await self._wake.wait()
        self._wake.clear()

    async def _report(self) -> None:
        sent_at_s = self._monotonic()
        report = self._compose()
        try:
            reply = await self._send(report)
        except (RayhaulError, TimeoutError) as error:
            log.warning("report not answered: %s", str(error) or "timed out")
            self._fence()
            await asyncio.sleep(_REPORT_AGAIN_S)
            self._wake.set()
            return
        self._acknowledged_at_s = sent_at_s
        self._let_go -= report.let_go
        self._gates.settle(report.hosts, sent_at_s)
        self._gates.take(reply.hosts)
        self._paces.take(reply.rates)
        self._outbox.settle(reply)
        await self.revoke(sorted(reply.revoked))
        if reply.superseded:
            log.error("another life of this agent reports as well: this one ends")
            self.superseded = True
            await self.stop()

    async def _send(self, report: AgentReport) -> ReportReply:
        async with asyncio.timeout(_REPORT_TIMEOUT_S):
            return await self._reports.report(report)

    def _fence(self) -> None:
        try:
            self.check_fence()
        except LeaseLost as error:
            for key, held in list(self._held.items()):
                if not held.lost:
                    self._let_go.add(key)
                    log.warning(error.message, extra={"jobId": held.order.context.job_id, "code": error.code})
                held.lose()

    def _compose(self, *, leaving: bool = False) -> AgentReport:
        self._seq += 1
        now_s = self._monotonic()
        progress = [told for held in self._held.values() if (told := progress_of(held, now_s)) is not None]
        return AgentReport(
            agent=self.name,
            incarnation=self.incarnation,
            seq=self._seq,
            capacity=Capacity(
                slots=self._settings.agent.slots,
                slots_used=len(progress),
                bytes_per_s=self._rate.measure(now_s),
                bytes_per_s_max=self._settings.agent.bandwidth_bytes_per_s_max,
                memory_bytes=self._memory.used_bytes,
                memory_bytes_max=self._settings.agent.memory_bytes_max,
            ),
            draining=self._draining,
            unfit=self._fitness.judged(now_s),
            leaving=leaving,
            held=frozenset(self._held),
            let_go=frozenset(self._let_go),
            progress=tuple(progress),
            notices=tuple(self._outbox.notices()),
            metrics=self._meter.snapshot(),
            hosts=self._gates.uses({host for held in self._held.values() for host in held.hosts}),
            rates=self._paces.uses({limit for held in self._held.values() for limit in held.limits}, now_s),
        )
