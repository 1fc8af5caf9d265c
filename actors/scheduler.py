"""The scheduler: what the API asks and the agents report becomes changes of a turn's draft.

The loop (loop.py) carries the turns; decisions.py says what follows from what, commands.py what people may ask.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from actors import commands, decisions, losses, quotas, views
from actors.agent_record import AgentRecord
from actors.book import Book
from actors.counts import Counts
from actors.crossing import Failed, as_value
from actors.decisions import Rules, hear
from actors.dispatch import Dispatch
from actors.draft import Draft
from actors.gauges import gauge
from actors.hosts import Hosts
from actors.loop import Loop
from actors.orders import EVERYTHING
from actors.ports import (
    Accepted,
    AgentPool,
    AgentView,
    Command,
    HostView,
    JobState,
    ProgressPage,
    QueueView,
    Submission,
)
from actors.progress import note_progress
from actors.rates import Rates
from actors.scaler import Scaler
from actors.watch import Watch
from rayhaul import keys
from rayhaul.errors import Conflict, IdempotencyMismatch, Internal, NotFound, RayhaulError, Unauthorized
from rayhaul.ids import NewId
from rayhaul.job import Job, Priority, utc
from rayhaul.ledger.base import ApiKey, IdempotencyRecord, Ledger, Viewer
from rayhaul.metrics import Meter, Snapshot, merge
from rayhaul.policy.alert_rules import AlertRule
from rayhaul.policy.alerting import Alert
from rayhaul.policy.naming import object_key
from rayhaul.policy.objectives import Objective
from rayhaul.policy.queueing import shares_of
from rayhaul.redaction import redacted
from rayhaul.report import AgentReport, Notice, ReportReply
from rayhaul.settings import Settings

log = logging.getLogger(__name__)

#: Earlier lives of an agent that are remembered.
_PAST_MAX = 32


class Scheduler:
    def __init__(
        self,
        *,
        ledger: Ledger,
        pool: AgentPool,
        settings: Settings,
        bucket: str,
        rules: Rules,
        scaling_rule: AlertRule,
        alert_rules: Sequence[AlertRule] = (),
        objectives: Sequence[Objective] = (),
        clock: Callable[[], float],
        new_id: NewId,
        holder: str = "scheduler",
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._rules = rules
        self._clock = clock
        self._new_id = new_id
        self._meter: Meter = rules.meter
        self._dispatch = Dispatch(ledger=ledger, pool=pool, settings=settings, bucket=bucket, new_id=new_id)
        self._scaler = Scaler(scaling_rule, settings.scaling, pool, rules.meter)
        self._counts = Counts()
        self._watch = Watch(alert_rules, objectives, self._counts, rules.meter)
        self._loop = Loop(
            book=Book(
                shares_of(settings.queue),
                Hosts(settings.hosts),
                Rates(
                    host_bytes_per_s=settings.hosts.bandwidth_bytes_per_s_max,
                    cluster_bytes_per_s=settings.transfer.bandwidth_bytes_per_s_max,
                ),
            ),
            ledger=ledger,
            dispatch=self._dispatch,
            scaler=self._scaler,
            watch=self._watch,
            after_turn=self._after_turn,
            hear_report=self._hear,
            rules=rules,
            clock=clock,
            new_id=new_id,
            holder=holder,
        )

    @property
    def _book(self) -> Book:
        return self._loop.book

    async def start(self) -> None:
        """Take the lead and rebuild from the ledger. Raises: Unavailable."""
        await self._loop.start()

    async def run(self) -> None:
        """Turn until `stop`. Raises: Deposed when another scheduler took the lead."""
        await self._loop.run()

    async def tick(self) -> None:
        """Take one turn. Raises: Deposed; RayhaulError."""
        await self._loop.tick()

    async def stop(self) -> None:
        await self._loop.stop()

    async def rest(self) -> None:
        """Start nothing any more, jobs or agents: what runs is about to be stopped."""
        self._loop.is_resting = True

    # --- what the API asks (ports.ControlPlane) ---

    async def submit(self, submission: Submission) -> Accepted:
        spend = submission.idempotency
        accepted: Accepted = await self._loop.ask(
            lambda draft: self._accept(draft, submission),
            idempotency=None if spend is None else (submission.user_id, spend[0]),
        )
        return accepted

    async def submit_all(self, submissions: Sequence[Submission]) -> Sequence[Accepted | Failed]:
        """Take submissions that came together; each has an answer of its own, or its error as a value."""
        answers: list[Accepted | Failed] = await asyncio.gather(*(as_value(self.submit(one)) for one in submissions))
        return answers

    def _accept(self, draft: Draft, submission: Submission) -> Accepted:
        if submission.idempotency is not None:
            key, fingerprint = submission.idempotency
            known = self._loop.spent.get((submission.user_id, key)) or draft.spent(submission.user_id, key)
            if known is not None:
                if known.fingerprint != fingerprint:
                    raise IdempotencyMismatch
                return Accepted(job_ids=known.job_ids, replayed=True)
        quotas.check_submission(draft, submission.user_id, self._rules.quota)
        ids = tuple(self._new_id("job") for _ in submission.specs)
        # All are made before the first is taken in: a submission is accepted as a whole or not at all.
        jobs = [
            Job(
                id=job_id,
                user_id=submission.user_id,
                correlation_id=submission.correlation_id,
                traceparent=submission.traceparent,
                spec=spec,
                key=object_key(self._rules.key_prefix, job_id, spec.key, "") if spec.key else None,
                created_at=draft.now,
            )
            for job_id, spec in zip(ids, submission.specs, strict=True)
        ]
        for job in jobs:
            draft.create(job, {"url": redacted(job.spec.url), "priority": job.spec.priority})
        if submission.idempotency is not None:
            key, fingerprint = submission.idempotency
            draft.spend(
                IdempotencyRecord(
                    user_id=submission.user_id, key=key, fingerprint=fingerprint, job_ids=ids, created_at=draft.now
                )
            )
        return Accepted(job_ids=ids, job=jobs[0] if len(jobs) == 1 else None)

    async def command(self, viewer: Viewer, job_id: str, command: Command) -> Job:
        def apply(draft: Draft) -> Job:
            job = draft.job(job_id)
            if job is None or not (viewer.sees_all or job.user_id == viewer.user_id):
                raise NotFound
            return commands.obey(draft, job, command)

        job: Job = await self._loop.ask(apply, job_id=job_id)
        return job

    async def replay(self, job_id: str) -> Job:
        job: Job = await self._loop.ask(lambda draft: commands.replay(draft, _known(draft, job_id)), job_id=job_id)
        return job

    async def discard(self, job_id: str) -> Job:
        job: Job = await self._loop.ask(lambda draft: commands.discard(draft, _known(draft, job_id)), job_id=job_id)
        log.info("taken out of the dead-letter queue", extra={"jobId": job_id})
        return job

    async def stop_job(self, agent: str, job_id: str) -> Job:
        job: Job = await self._loop.ask(lambda draft: commands.stop_job(draft, agent, job_id, self._rules))
        return job

    async def set_paused(self, priority: Priority, *, paused: bool) -> QueueView:
        def apply(draft: Draft) -> None:
            draft.pause(draft.paused | {priority} if paused else draft.paused - {priority})

        await self._loop.ask(apply)
        log.info("priority %s %s", priority, "paused" if paused else "goes on")
        return await self.queue()

    async def drain(self, agent: str) -> AgentView:
        self._loop.check_started()
        record = self._book.agents.get(agent)
        if record is None:
            raise NotFound
        now_s = self._clock()
        await self._scaler.drain(record, now_s)
        return views.agent_view(self._book, record, now_s)

    async def job_state(self, job_id: str) -> JobState:
        self._loop.check_started()
        job = self._book.jobs.get(job_id) or await self._ledger.job(EVERYTHING, job_id)
        session = self._book.open_session(job_id)
        parts_done = 0 if session is None else len(await self._ledger.parts(session.session_id))
        return views.job_state(self._book, job, parts_done, utc(self._clock()))

    async def progress(self, since: int) -> ProgressPage:
        book = self._book
        if since > book.progress_version:
            since = 0  # the caller knows an earlier life of this scheduler
        changed = {job_id: progress for job_id, (version, progress) in book.progress.items() if version > since}
        return ProgressPage(version=book.progress_version, jobs=changed)

    async def agents(self) -> Sequence[AgentView]:
        return views.agent_views(self._book, self._clock())

    async def hosts(self, viewer: Viewer) -> Sequence[HostView]:
        return views.host_views(self._book, viewer, self._clock())

    async def queue(self) -> QueueView:
        return views.queue_view(self._book, self._clock())

    async def enable_webhook(self, user_id: str, url: str) -> None:
        await self._loop.ask(lambda draft: draft.enable_webhook(user_id, url))

    async def create_key(self, key: ApiKey) -> None:
        await self._loop.ask(lambda draft: draft.put_key(key))

    async def revoke_key(self, key_id: str, now: datetime) -> ApiKey:
        known = await self._ledger.key(key_id)
        if known is None:
            raise NotFound
        revoked = known if known.revoked_at is not None else replace(known, revoked_at=now)
        await self._loop.ask(lambda draft: draft.put_key(revoked))
        return revoked

    async def rotate_key(self, key_id: str, successor: ApiKey, now: datetime, overlap: timedelta) -> ApiKey:
        known = await self._ledger.key(key_id)
        if known is None:
            raise NotFound
        try:
            keys.check(known, now)
        except Unauthorized as error:
            raise Conflict(error.message) from None
        old = keys.retiring(known, now, overlap)

        def apply(draft: Draft) -> None:
            draft.put_key(successor)
            draft.put_key(old)

        await self._loop.ask(apply)
        return old

    async def note_keys_used(self, used: Mapping[str, datetime]) -> None:
        await self._loop.ask(lambda draft: draft.note_keys_used(used))

    async def metrics(self, replica: str, snapshot: Snapshot) -> Snapshot:
        self._counts.hear(replica, snapshot, self._clock())
        return await self.counted()

    async def counted(self) -> Snapshot:
        """Return the sum over the cluster, and the gauges of this moment."""
        gauge(self._book, self._meter, await self.queue())
        return merge([self._meter.snapshot(), self._counts.sum(self._clock())])

    async def alerts(self) -> Sequence[Alert]:
        return self._watch.alerts

    async def _after_turn(self, now_s: float) -> None:
        if self._watch.is_due(now_s):
            self._watch.read(await self.counted(), self._scaler.load_pct, now_s)

    async def ready(self) -> bool:
        return self._loop.works and any(True for _ in self._book.online_agents())

    # --- what agents report (ports.Reports) ---

    async def report(self, report: AgentReport) -> ReportReply:
        reply: ReportReply = await self._loop.put(self._loop.report_call(report))
        return reply

    def _hear(self, draft: Draft, report: AgentReport) -> ReportReply:
        book, now_s = self._book, self._clock()
        record = self._record_of(report, now_s)
        if record is None:
            for notice in report.notices:
                # All of it is stale; but an upload that it opened must be aborted.
                self._hear_notice(draft, notice)
            notices = frozenset(notice.notice_id for notice in report.notices)
            return ReportReply(acknowledged=notices, refused=notices, revoked=report.held, superseded=True)
        # The same again where the turn that carried it failed.
        is_newest = report.seq >= record.seq
        if is_newest:
            record.hear(report, now_s, slots_max=self._settings.agent.slots)
            note_progress(book, report, now_s, self._settings.liveness)
            book.hosts.hear(report.agent, report.hosts, now_s)
            book.rates.hear(report.agent, report.rates)
        self._dispatch.full.hear(report.agent, report.notices, now_s)
        refused = frozenset(notice.notice_id for notice in report.notices if not self._hear_notice(draft, notice))
        if is_newest:
            # What a late report holds, or does not hold, was true once.
            losses.reconcile(draft, book, report, self._rules)
        if is_newest and report.leaving:
            self._part_with(draft, report, now_s)
        mine = {lease_id for lease_id in report.held if draft.lease(lease_id) is not None}
        sweep_id = self._dispatch.sweeping.order_id
        orders = {held for held in report.held if held in book.probing or held in book.aborting or held == sweep_id}
        return ReportReply(
            acknowledged=frozenset(notice.notice_id for notice in report.notices),
            refused=refused,
            revoked=report.held - mine - orders,
            hosts=(
                *book.hosts.grants(report.agent, now_s),
                *book.hosts.pauses(report.agent, report.hosts, now_s),
            ),
            rates=book.rates.grants(report.agent, now_s),
        )

    def _part_with(self, draft: Draft, report: AgentReport, now_s: float) -> None:
        losses.part_with(draft, self._book, report.agent, self._rules)
        del self._book.agents[report.agent]
        self._book.hosts.part_with(report.agent)
        self._book.rates.part_with(report.agent)
        self._counts.part_with(f"{report.agent}/{report.incarnation}")
        self._scaler.gone(report.agent, now_s)

    def _hear_notice(self, draft: Draft, notice: Notice) -> bool:
        """Take a notice; one that can not be taken fails its job, and leaves the rest of the report alone."""
        try:
            if notice.notice_id not in self._loop.isolation.poisoned:
                return hear(draft, notice, self._rules)
            failure = Internal("what the agent told of it can not be kept in the ledger").failure()
        except RayhaulError as error:
            log.warning("notice not taken: %s", error.message, extra={"jobId": notice.job_id, "code": error.code})
            failure = error.failure()
        decisions.refuse_notice(draft, self._book, notice, failure)
        return False

    def _record_of(self, report: AgentReport, now_s: float) -> AgentRecord | None:
        """Return the record of the agent that reports; None for an earlier life of it.

        Of two lives that report, the one heard of last is the agent. No clock says which began later.
        """
        record = self._book.agents.get(report.agent)
        counted = f"{report.agent}/{report.incarnation}"
        if record is not None and report.incarnation in record.past:
            return None
        if record is None or record.incarnation != report.incarnation:
            past = () if record is None else (*record.past[-_PAST_MAX:], record.incarnation)
            drained_at_s = None
            if record is not None:
                self._counts.part_with(f"{report.agent}/{record.incarnation}")
                drained_at_s = record.drained_at_s
            if past:
                # Its connections ended with its earlier life.
                self._book.hosts.part_with(report.agent)
                self._book.rates.part_with(report.agent)
            record = AgentRecord(report.agent, report.incarnation, now_s, past=past, drained_at_s=drained_at_s)
            self._book.agents[report.agent] = record
            log.info("agent %s is here", report.agent, extra={"agentId": report.agent})
        self._counts.hear(counted, report.metrics, now_s)
        return record


def _known(draft: Draft, job_id: str) -> Job:
    job = draft.job(job_id)
    if job is None:
        raise NotFound
    return job
