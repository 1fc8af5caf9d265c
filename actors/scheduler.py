"""The scheduler: a loop that each turn observes, decides, makes durable, and only then acts.

Laws of this file:
1. Whoever calls waits for the turn that carries the call; a turn is one transaction, so a hundred calls cost one fsync.
2. Nothing is answered and no order leaves before the turn's commit stands.
3. A commit that failed may stand all the same: callers are told so, and the book is rebuilt from the ledger.
4. Starting is rebuilding: there is no second code path for recovery.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from actors.book import AgentRecord, Book
from actors.decisions import Rules, hear, obey
from actors.dispatch import Dispatch, observe_silence
from actors.draft import Draft
from actors.ports import (
    Accepted,
    AgentPool,
    AgentView,
    Command,
    ProgressPage,
    QueueView,
    Submission,
)
from rayhaul.errors import IdempotencyMismatch, NotFound, RayhaulError, Unavailable
from rayhaul.ids import NewId
from rayhaul.job import Job, Progress, utc
from rayhaul.lease import AgentReport, ReportReply
from rayhaul.ledger.base import (
    ApiKey,
    Batch,
    IdempotencyRecord,
    Ledger,
    LedgerConflict,
    Role,
    Viewer,
)
from rayhaul.log import redacted
from rayhaul.metrics import JOBS_CREATED, LEDGER_COMMIT, TICK_ERRORS, Meter, Snapshot, merge
from rayhaul.policy.naming import object_key
from rayhaul.policy.queueing import shares_of
from rayhaul.settings import Settings

log = logging.getLogger(__name__)

#: The loop turns at least this often, for what only time brings.
_TURN_S = 1.0
#: Pause after a turn that failed, so that a broken ledger is not hammered.
_FAILED_TURN_PAUSE_S = 0.5
_EVERYTHING = Viewer("scheduler", Role.OPERATOR)

Apply = Callable[[Draft], Any]


@dataclass(slots=True)
class _Call:
    """Something asked of the scheduler: `apply` takes it into the turn's draft; `answer` is told when it is durable."""

    apply: Apply
    answer: asyncio.Future[Any]
    #: Read before the turn decides: (user id, Idempotency-Key), or the id of a job that may be final.
    idempotency: tuple[str, str] | None = None
    job_id: str | None = None


class Scheduler:
    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: AgentPool,
        settings: Settings,
        bucket: str,
        rules: Rules,
        clock: Callable[[], float],
        new_id: NewId,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._settings = settings
        self._rules = rules
        self._clock = clock
        self._new_id = new_id
        self._meter: Meter = rules.meter
        self._book = Book(shares_of(settings.queue))
        self._dispatch = Dispatch(ledger=ledger, pool=pool, settings=settings, bucket=bucket, new_id=new_id)
        self._inbox: list[_Call] = []
        self._wake = asyncio.Event()
        self._started = False
        self._stopping = False
        self._ledger_works = True
        self._book_in_doubt = False
        #: What each process has counted, by process; of processes that are gone too.
        self._counted: dict[str, Snapshot] = {}
        self._spent: dict[tuple[str, str], IdempotencyRecord] = {}

    async def start(self) -> None:
        """Rebuild from the ledger. Raises: Unavailable."""
        self._book = Book.rebuild(await self._ledger.state(), self._clock(), heard=self._book)
        self._book_in_doubt = False
        self._started = True
        log.info(
            "scheduler ready: %d open jobs, %d leases, %d uploads",
            len(self._book.jobs),
            len(self._book.leases),
            len(self._book.sessions),
        )

    async def run(self) -> None:
        """Turn until `stop`."""
        while not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._idle_s()):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self.tick()
            except RayhaulError as error:
                self._meter.inc(TICK_ERRORS)
                log.warning("turn failed: %s", error.message, extra={"code": error.code})
                await asyncio.sleep(_FAILED_TURN_PAUSE_S)
            except Exception:
                # The loop must outlive its own mistakes: the turn is dropped as a whole and counted.
                self._meter.inc(TICK_ERRORS)
                log.exception("turn failed")
                await asyncio.sleep(_FAILED_TURN_PAUSE_S)

    async def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def tick(self) -> None:
        """Take one turn: observe, decide, make durable, act. Safe to repeat at any point."""
        if self._book_in_doubt:
            await self.start()
        calls, self._inbox = self._inbox, []
        draft = Draft(self._book, utc(self._clock()), self._new_id)
        try:
            await self._read_ahead(calls, draft)
            answers = [(call, _attempt(call, draft)) for call in calls]
            observe_silence(draft, self._book, self._rules)
            self._dispatch.decide(draft, self._book)
            batch = draft.seal()
            await self._commit(batch)
        except BaseException as error:
            # Queues were taken from, and a commit may stand unheard: what we remember may not be true any more.
            self._book_in_doubt = True
            _refuse(calls, error)
            raise
        draft.merge(batch)
        if not batch.is_empty:
            # What has just become true (a job is here, its metadata is, a slot is free) is decided on at once.
            self._wake.set()
        for call, answer in answers:
            _settle(call.answer, answer)
        await self._dispatch.act(draft, self._book)

    async def _commit(self, batch: Batch) -> None:
        if batch.is_empty:
            return
        began_s = self._clock()
        try:
            await self._ledger.commit(batch)
        except (LedgerConflict, Unavailable):
            self._ledger_works = False
            raise
        self._ledger_works = True
        self._meter.observe(LEDGER_COMMIT, max(0.0, self._clock() - began_s))
        for record in batch.events:
            if record.event == "created":
                self._meter.inc(JOBS_CREATED)

    async def _read_ahead(self, calls: Sequence[_Call], draft: Draft) -> None:
        """Bring what the calls need from the ledger and is not in the book."""
        wanted = [call.idempotency for call in calls if call.idempotency is not None]
        self._spent = dict(await self._ledger.spent(wanted)) if wanted else {}
        for call in calls:
            if call.job_id is not None and draft.job(call.job_id) is None:
                with suppress(NotFound):
                    draft.load(await self._ledger.job(_EVERYTHING, call.job_id))

    def _idle_s(self) -> float:
        due_s = [due for due in (self._book.waiting.due_at_s(), self._book.unprobed.due_at_s()) if due is not None]
        return min([_TURN_S, *(max(0.0, due - self._clock()) for due in due_s)])

    async def _ask(self, apply: Apply, **reads: Any) -> Any:
        if not self._started:
            raise Unavailable("the scheduler is starting")
        call = _Call(apply, asyncio.get_running_loop().create_future(), **reads)
        self._inbox.append(call)
        self._wake.set()
        return await call.answer

    # --- what the API asks (ports.ControlPlane) ---

    async def submit(self, submission: Submission) -> Accepted:
        spend = submission.idempotency
        accepted: Accepted = await self._ask(
            lambda draft: self._accept(draft, submission),
            idempotency=None if spend is None else (submission.user_id, spend[0]),
        )
        return accepted

    def _accept(self, draft: Draft, submission: Submission) -> Accepted:
        if submission.idempotency is not None:
            key, fingerprint = submission.idempotency
            known = self._spent.get((submission.user_id, key)) or draft.spent(submission.user_id, key)
            if known is not None:
                if known.fingerprint != fingerprint:
                    raise IdempotencyMismatch
                return Accepted(job_ids=known.job_ids, replayed=True)
        ids = tuple(self._new_id("job") for _ in submission.specs)
        for job_id, spec in zip(ids, submission.specs, strict=True):
            job = Job(
                id=job_id,
                user_id=submission.user_id,
                correlation_id=submission.correlation_id,
                traceparent=submission.traceparent,
                spec=spec,
                key=object_key(self._rules.key_prefix, job_id, spec.key, "") if spec.key else None,
                created_at=draft.now,
            )
            draft.create(job, {"url": redacted(spec.url), "priority": spec.priority})
        if submission.idempotency is not None:
            key, fingerprint = submission.idempotency
            draft.spend(
                IdempotencyRecord(
                    user_id=submission.user_id, key=key, fingerprint=fingerprint, job_ids=ids, created_at=draft.now
                )
            )
        return Accepted(job_ids=ids)

    async def command(self, viewer: Viewer, job_id: str, command: Command) -> Job:
        def apply(draft: Draft) -> Job:
            job = draft.job(job_id)
            if job is None or not (viewer.sees_all or job.user_id == viewer.user_id):
                raise NotFound
            return obey(draft, job, command, self._rules)

        job: Job = await self._ask(apply, job_id=job_id)
        return job

    async def progress(self, since: int) -> ProgressPage:
        book = self._book
        if since > book.progress_version:
            since = 0  # the caller knows an earlier life of this scheduler
        changed = {job_id: progress for job_id, (version, progress) in book.progress.items() if version > since}
        return ProgressPage(version=book.progress_version, jobs=changed)

    async def agents(self) -> Sequence[AgentView]:
        now_s = self._clock()
        return [
            AgentView(
                agent=record.agent,
                state=record.state,
                capacity=record.capacity,
                heartbeat_age_s=max(0.0, now_s - record.seen_at_s),
                leases_count=len(self._book.leases_of_agent.get(record.agent, ())),
            )
            for record in sorted(self._book.agents.values(), key=lambda record: record.agent)
        ]

    async def queue(self) -> QueueView:
        depth = self._book.waiting.depth()
        for priority, count in self._book.unprobed.depth().items():
            depth[priority] += count
        since = [
            s for s in (self._book.waiting.oldest_since_s(), self._book.unprobed.oldest_since_s()) if s is not None
        ]
        return QueueView(
            depth={str(priority): count for priority, count in depth.items()},
            oldest_age_s=max(0.0, self._clock() - min(since)) if since else 0.0,
            paused=sorted(self._book.paused),
            dead_letters_count=self._book.dead_letters_count,
        )

    async def create_key(self, key: ApiKey) -> None:
        await self._ask(lambda draft: draft.put_key(key))

    async def revoke_key(self, key_id: str, now: datetime) -> ApiKey:
        known = await self._ledger.key(key_id)
        if known is None:
            raise NotFound
        revoked = known if known.revoked_at is not None else replace(known, revoked_at=now)
        await self._ask(lambda draft: draft.put_key(revoked))
        return revoked

    async def metrics(self, replica: str, snapshot: Snapshot) -> Snapshot:
        self._counted[replica] = snapshot
        self._dispatch.gauge(self._book, self._meter, await self.queue())
        return merge([self._meter.snapshot(), *self._counted.values()])

    async def ready(self) -> bool:
        return self._started and self._ledger_works and any(True for _ in self._book.online_agents())

    # --- what agents report (ports.Reports) ---

    async def report(self, report: AgentReport) -> ReportReply:
        if not self._started:
            raise Unavailable("the scheduler is starting")
        self._counted[f"{report.agent}/{report.incarnation}"] = report.metrics
        reply: ReportReply = await self._ask(lambda draft: self._hear(draft, report))
        return reply

    def _hear(self, draft: Draft, report: AgentReport) -> ReportReply:
        book, now_s = self._book, self._clock()
        record = book.agents.get(report.agent)
        if record is None or record.incarnation != report.incarnation:
            record = book.agents[report.agent] = AgentRecord(report.agent, report.incarnation, now_s)
            log.info("agent %s is here", report.agent, extra={"agentId": report.agent})
        if report.seq > record.seq:
            record.seq, record.seen_at_s, record.offline = report.seq, now_s, False
            record.capacity, record.draining = report.capacity, report.draining
            self._note_progress(report)
        refused = frozenset(notice.notice_id for notice in report.notices if not hear(draft, notice, self._rules))
        self._dispatch.reconcile(draft, book, report, self._rules)
        if report.leaving and not book.leases_of_agent.get(report.agent):
            del book.agents[report.agent]
        mine = {lease_id for lease_id in report.held if draft.lease(lease_id) is not None}
        orders = {held for held in report.held if held in book.probing or held in book.aborting}
        return ReportReply(
            acknowledged=frozenset(notice.notice_id for notice in report.notices),
            refused=refused,
            revoked=report.held - mine - orders,
        )

    def _note_progress(self, report: AgentReport) -> None:
        for told in report.progress:
            job = self._book.jobs.get(told.job_id)
            if job is None or told.lease_id not in self._book.leases:
                continue
            total = job.metadata.size_bytes if job.metadata else None
            left = None if total is None else max(0, total - told.bytes_done)
            self._book.note_progress(
                told.job_id,
                Progress(
                    bytes_done=told.bytes_done,
                    bytes_total=total,
                    bytes_per_s=told.bytes_per_s,
                    eta_s=left / told.bytes_per_s if left is not None and told.bytes_per_s > 0 else None,
                    parts_done=told.parts_done,
                    parts_total=told.parts_total,
                ),
            )


def _attempt(call: _Call, draft: Draft) -> Any:
    """Apply a call; an error of ours is its answer, and leaves the rest of the turn alone."""
    try:
        return call.apply(draft)
    except RayhaulError as error:
        return error


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():
        return
    if isinstance(answer, RayhaulError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _refuse(calls: Sequence[_Call], error: BaseException) -> None:
    """Tell the callers of a turn that failed that nothing of it was done."""
    for call in calls:
        if not call.answer.done():
            if isinstance(error, RayhaulError):
                call.answer.set_exception(type(error)(error.message))
            else:
                call.answer.set_exception(Unavailable("the turn that carried this call failed"))
