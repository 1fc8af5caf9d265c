"""The ledger as a model: plain dicts, the same promises, and the invariants of whatever is written into it.

A turn of the scheduler is one batch, so every change there ever is passes through `commit` here, where it is compared
with what stands. On its own it is a ledger that costs microseconds; `Twin` (world.py) runs it beside the real one.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from bucket import Bucket, object_etag
from surroundings import PARTS
from violations import must

from rayhaul.contents import has_file_of
from rayhaul.errors import InvalidRequest, NotFound
from rayhaul.job import TRANSITIONS, EventRecord, Job, JobEvent, JobStatus, Priority
from rayhaul.lease import Lease, PartDone, SessionState, UploadSession
from rayhaul.ledger.base import (
    ApiKey,
    Batch,
    Deposed,
    IdempotencyRecord,
    JobFilter,
    Ledger,
    LedgerConflict,
    LedgerState,
    ScalingRecord,
    UsageRecord,
    Viewer,
)
from rayhaul.ledger.deliveries import DeliveryRecord, DisabledReceiver, DisabledWebhook, OutboxRecord
from rayhaul.metrics import JOBS_CREATED, JOBS_FINISHED, Labels
from rayhaul.parts import JobParts

RUNNING = frozenset({JobStatus.DOWNLOADING, JobStatus.UPLOADING})
_LIVE = frozenset({SessionState.OPEN, SessionState.ABORTING})
#: No column holds more.
UNSTORABLE_BYTES = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds hold in this history."""

    #: Of any agent, whatever it says of itself.
    slots: int
    #: The latest time that a scheduler's clock has shown: what was due then stays due when the clock is set back.
    latest_s: Callable[[], float]
    running_per_user_max: int | None
    attempts_max: int
    requeues_max: int


@dataclass
class Rows:
    """What stands."""

    jobs: dict[str, Job] = field(default_factory=dict)
    open: dict[str, Job] = field(default_factory=dict)
    histories: defaultdict[str, list[EventRecord]] = field(default_factory=lambda: defaultdict(list))
    seq: int = 0
    leases: dict[str, Lease] = field(default_factory=dict)
    leases_of_job: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    #: Every lease there ever was.
    granted: dict[str, Lease] = field(default_factory=dict)
    sessions: dict[str, UploadSession] = field(default_factory=dict)
    live_sessions: dict[str, UploadSession] = field(default_factory=dict)
    parts: defaultdict[str, dict[int, PartDone]] = field(default_factory=lambda: defaultdict(dict))
    spent: dict[tuple[str, str], IdempotencyRecord] = field(default_factory=dict)
    outbox: dict[str, OutboxRecord] = field(default_factory=dict)
    keys: dict[str, ApiKey] = field(default_factory=dict)
    scaling: list[ScalingRecord] = field(default_factory=list)
    usage: dict[str, UsageRecord] = field(default_factory=dict)
    slo_counts: dict[tuple[str, datetime], tuple[int, int]] = field(default_factory=dict)
    paused: frozenset[Priority] = frozenset()
    swept_at: datetime | None = None
    counts: Counter[tuple[str, Labels]] = field(default_factory=Counter)
    dead_letters_count: int = 0
    leader_epoch: int = 0


class ReferenceLedger(Ledger):
    """A ledger in memory that checks what it is told. Raises: Violation, and what a ledger raises."""

    #: Null tests switch these off to see that it shows.
    checks_versions = True
    checks_leader = True

    def __init__(self, bucket: Bucket, limits: Limits) -> None:
        self.rows = Rows()
        #: Counts commits; `ended_at` says at which one a lease ended.
        self.moment = 0
        self.ended_at: dict[str, int] = {}
        #: Stripes that gave up their tails, and leases of parts that another one has as well.
        self.trims = self.overlaps = 0
        #: ETags of the objects of completed jobs.
        self.completed: dict[str, str] = {}
        self._bucket = bucket
        self._limits = limits

    # --- writing ---

    async def commit(self, batch: Batch) -> None:
        self.check_refusals(batch)
        self._check_jobs(batch)
        self._check_leases(batch)
        self._check_sessions(batch)
        self._apply(batch)
        self._check_limits(batch)

    async def lead(self, holder: str) -> int:
        self.rows.leader_epoch += 1
        return self.rows.leader_epoch

    async def confirm(self, leader_epoch: int) -> None:
        if self.checks_leader and leader_epoch != self.rows.leader_epoch:
            raise Deposed

    def check_refusals(self, batch: Batch) -> None:
        """Raises: what a ledger answers to a batch it does not take."""
        if self.checks_leader and batch.leader_epoch not in {None, self.rows.leader_epoch}:
            raise Deposed
        if any(_is_unstorable(part.etag) or part.size_bytes >= UNSTORABLE_BYTES for part in batch.parts):
            raise InvalidRequest("the ledger can not store one of the values")
        if any(_is_unstorable(job.id + job.user_id + job.correlation_id) for job in batch.jobs_new):
            raise InvalidRequest("the ledger can not store one of the values")
        if any(_is_unstorable(session.upload_id) for session in batch.sessions):
            raise InvalidRequest("the ledger can not store one of the values")
        rows = self.rows
        twice = any(job.id in rows.jobs for job in batch.jobs_new)
        twice |= any(lease.lease_id in rows.leases for lease in batch.leases_granted)
        twice |= any((record.user_id, record.key) in rows.spent for record in batch.idempotency)
        skipped = any(rows.jobs[job.id].version != job.version - 1 for job in batch.jobs_changed)
        if twice or (skipped and self.checks_versions):
            raise LedgerConflict

    def _apply(self, batch: Batch) -> None:
        self.moment += 1
        self._apply_jobs(batch)
        self._apply_leases(batch)
        rows = self.rows
        for session in batch.sessions:
            rows.sessions[session.session_id] = session
            rows.live_sessions.pop(session.session_id, None)
            if session.state in _LIVE:
                rows.live_sessions[session.session_id] = session
        for part in batch.parts:
            rows.parts[part.session_id][part.number] = part
        rows.spent.update({(record.user_id, record.key): record for record in batch.idempotency})
        rows.outbox.update({record.outbox_id: record for record in batch.outbox})
        rows.keys.update({key.key_id: key for key in batch.keys})
        rows.scaling += batch.scaling
        rows.usage.update({record.user_id: record for record in batch.usage})
        for count in batch.slo_counts:
            total, bad = rows.slo_counts.get((count.slo, count.starts_at), (0, 0))
            rows.slo_counts[count.slo, count.starts_at] = (total + count.total, bad + count.bad)
        rows.paused = rows.paused if batch.paused is None else batch.paused
        rows.swept_at = batch.swept_at or rows.swept_at
        rows.counts.update(batch.counts)

    def _apply_jobs(self, batch: Batch) -> None:
        rows = self.rows
        for job in (*batch.jobs_new, *batch.jobs_changed):
            before = rows.jobs.get(job.id)
            if before is not None:
                rows.dead_letters_count -= before.dead_lettered_at is not None
            rows.dead_letters_count += job.dead_lettered_at is not None
            rows.jobs[job.id] = job
            if job.result is not None:
                self.completed[job.id] = job.result.etag
            if job.is_final:
                rows.open.pop(job.id, None)
            else:
                rows.open[job.id] = job
        for record in batch.events:
            rows.seq += 1
            rows.histories[record.job_id].append(replace(record, seq=rows.seq))

    def _apply_leases(self, batch: Batch) -> None:
        rows = self.rows
        for lease_id in batch.leases_ended:
            ended = rows.leases.pop(lease_id, None)
            if ended is not None:
                rows.leases_of_job[ended.job_id].discard(lease_id)
                self.ended_at[lease_id] = self.moment
        for lease in batch.leases_trimmed:
            rows.leases[lease.lease_id] = lease
            self.trims += 1
        for lease in batch.leases_granted:
            rows.leases[lease.lease_id] = rows.granted[lease.lease_id] = lease
            others = (rows.leases[lease_id] for lease_id in rows.leases_of_job[lease.job_id])
            self.overlaps += any(o.first_part < lease.end_part and lease.first_part < o.end_part for o in others)
            rows.leases_of_job[lease.job_id].add(lease.lease_id)

    # --- invariants of a batch ---

    def _check_jobs(self, batch: Batch) -> None:
        events: defaultdict[str, list[EventRecord]] = defaultdict(list)
        for record in batch.events:
            events[record.job_id].append(record)
        changes = [*batch.jobs_new, *batch.jobs_changed]
        must(len({job.id for job in changes}) == len(changes), "batch", "a job is in it twice")
        must(set(events) <= {job.id for job in changes}, "batch", "an event of a job that did not change")
        for job in changes:
            before = self.rows.jobs.get(job.id)
            self._check_course(job, before, events[job.id])
            self._check_epoch(job, before, events[job.id])
            if job.status is JobStatus.COMPLETED and before is not None and before.status is not JobStatus.COMPLETED:
                self._check_completion(job, batch)

    def _check_course(self, job: Job, before: Job | None, events: Sequence[EventRecord]) -> None:
        """I1, I7: a job goes along its table, an event for each step, each with the correlation id."""
        status = None if before is None else before.status
        for record in events:
            if status is None:
                must(record.event is JobEvent.CREATED, "I1", f"{job.id} begins with {record.event}")
                status = JobStatus.QUEUED
            else:
                must(record.event in TRANSITIONS[status], "I1", f"{job.id}: {record.event} while {status}")
                status = TRANSITIONS[status][record.event]
            must(record.status is status, "I1", f"{job.id}: {record.event} says {record.status}, it is {status}")
            ids = {job.correlation_id, record.correlation_id, record.payload.get("correlationId")}
            must(len(ids) == 1 and job.correlation_id, "I7", f"{job.id}: {record.event} carries {ids}")
            must(record.user_id == job.user_id, "I7", f"{job.id}: {record.event} is of {record.user_id}")
        must(job.status is status, "I1", f"{job.id} is {job.status}, its events lead to {status}")
        must(0 <= job.attempt <= self._attempts_max(job, events), "I1", f"{job.id} is at attempt {job.attempt}")
        must(job.requeues <= self._limits.requeues_max + 1, "I1", f"{job.id} was handed back {job.requeues} times")

    def _attempts_max(self, job: Job, events: Sequence[EventRecord]) -> int:
        """A run that its owner or an operator ended counts as begun, and is no failure."""
        if job.attempt <= self._limits.attempts_max:
            return self._limits.attempts_max
        history = [*self.rows.histories[job.id], *events]
        paused = sum(record.event is JobEvent.PAUSED for record in history)
        requeued: int = sum(record.payload.get("code") == "requeue" for record in history)
        return self._limits.attempts_max + paused + requeued

    def _check_epoch(self, job: Job, before: Job | None, events: Sequence[EventRecord]) -> None:
        """I6: epochs increase by one with each start, and stay otherwise."""
        was = 0 if before is None else before.epoch
        started = [record.payload.get("epoch") for record in events if record.event is JobEvent.STARTED]
        must(started == list(range(was + 1, job.epoch + 1)), "I6", f"{job.id}: epoch {was}, {started}, {job.epoch}")

    def _check_completion(self, job: Job, batch: Batch) -> None:
        """I2, I6: only the live lease of the newest epoch completes, and what it published stands in the bucket."""
        ended = [self.rows.leases[lease_id] for lease_id in batch.leases_ended if lease_id in self.rows.leases]
        mine = [lease for lease in ended if lease.job_id == job.id]
        must(mine, "I6", f"{job.id} is completed by no lease that stands")
        must(all(lease.epoch == job.epoch for lease in mine), "I6", f"{job.id} is completed under a stale epoch")
        must(job.metadata is not None and job.result is not None, "I2", f"{job.id} is completed without a result")
        assert job.metadata is not None
        assert job.result is not None
        stored = self._bucket.objects.get(job.result.key)
        must(stored is not None, "I2", f"{job.id} is completed and there is no object")
        assert stored is not None
        wanted = object_etag(str(job.metadata.etag), job.result.parts_count)
        must(stored.job_id == job.id, "I3", f"{job.id}'s object is of {stored.job_id}")
        must(stored.etag == wanted == job.result.etag, "I2", f"{job.id}: {stored.etag} stands, {wanted} was asked for")

    def _check_leases(self, batch: Batch) -> None:
        changed = {job.id: job for job in (*batch.jobs_new, *batch.jobs_changed)}
        paused = self.rows.paused if batch.paused is None else batch.paused
        for lease in batch.leases_granted:
            job, before = changed.get(lease.job_id), self.rows.jobs.get(lease.job_id)
            must(
                job is not None and before is not None, "I6", f"{lease.lease_id} is granted to a job that is not there"
            )
            assert job is not None
            assert before is not None
            fresh = before.epoch < lease.epoch <= job.epoch
            must(fresh, "I6", f"{lease.lease_id} has epoch {lease.epoch}, its job had {before.epoch}, has {job.epoch}")
            if before.status in RUNNING:
                continue
            must(lease.epoch == job.epoch, "I6", f"{lease.lease_id} has epoch {lease.epoch}, its job {job.epoch}")
            must(job.spec.priority not in paused, "paused", f"{job.id} is started, {job.spec.priority} jobs are paused")
            due = [moment for moment in (job.spec.not_before, before.next_attempt_at) if moment is not None]
            latest = datetime.fromtimestamp(self._limits.latest_s(), UTC)
            must(all(latest >= moment for moment in due), "early", f"{job.id} is started before {due}")
        for lease in batch.leases_trimmed:
            stood = self.rows.leases.get(lease.lease_id)
            must(stood is not None, "I6", f"{lease.lease_id} is trimmed and does not stand")
            assert stood is not None
            must(
                lease == replace(stood, end_part=lease.end_part) and lease.end_part < stood.end_part,
                "I6",
                f"{lease.lease_id}, {stood}, becomes {lease}",
            )

    def _check_sessions(self, batch: Batch) -> None:
        for session in batch.sessions:
            before = self.rows.sessions.get(session.session_id)
            was = None if before is None else before.state
            allowed = _SESSION_WAYS[was]
            must(session.state in allowed, "I4", f"{session.session_id}: {was} becomes {session.state}")
        now = {session.session_id: session for session in batch.sessions}
        for part in batch.parts:
            session_now = now.get(part.session_id) or self.rows.sessions.get(part.session_id)
            must(session_now is not None, "I4", f"a part of {part.session_id}, which is not known")

    def _check_limits(self, batch: Batch) -> None:
        """What holds of the whole state, looked at where the batch changed it."""
        rows = self.rows
        for job in (*batch.jobs_new, *batch.jobs_changed):
            leases = [rows.leases[lease_id] for lease_id in rows.leases_of_job[job.id]]
            must(bool(leases) == (job.status in RUNNING), "I6", f"{job.id} is {job.status} with {len(leases)} leases")
            _check_stripes(job, leases)
            if job.is_final:
                still = [s for s in rows.live_sessions.values() if s.job_id == job.id and s.state is SessionState.OPEN]
                must(not still, "I4", f"{job.id} is {job.status} and its upload is open")
        for lease_id in batch.leases_ended:
            must(lease_id in rows.granted, "I6", f"{lease_id} ends and was never granted")
        opened = Counter(s.job_id for s in rows.live_sessions.values() if s.state is SessionState.OPEN)
        must(not opened or max(opened.values()) == 1, "I4", "a job has two open uploads")
        self._check_counts(batch)
        if batch.leases_granted:
            self._check_shares()

    def _check_counts(self, batch: Batch) -> None:
        """What is counted of jobs is what has happened to them, in the same transaction."""
        events = Counter(record.event for record in batch.events)
        counted: Counter[str] = Counter()
        for (name, labels), value in batch.counts.items():
            if name == JOBS_CREATED.name:
                counted[JobEvent.CREATED] += value
            elif name == JOBS_FINISHED.name:
                counted[labels[0]] += value
        for event in (JobEvent.CREATED, JobEvent.COMPLETED, JobEvent.FAILED, JobEvent.CANCELLED):
            must(counted[event] == events[event], "counts", f"{event}: {counted[event]} counted, {events[event]} there")

    def _check_shares(self) -> None:
        held = Counter(lease.agent for lease in self.rows.leases.values())
        for agent, count in held.items():
            must(count <= self._limits.slots, "slots", f"{agent} has {count} leases")
        running_max = self._limits.running_per_user_max
        if running_max is not None:
            jobs = {lease.job_id for lease in self.rows.leases.values()}
            for user, count in Counter(self.rows.jobs[job_id].user_id for job_id in jobs).items():
                must(count <= running_max, "limit", f"{user} runs {count} jobs, the limit is {running_max}")

    # --- reading ---

    async def job(self, viewer: Viewer, job_id: str) -> Job:
        job = self.rows.jobs.get(job_id)
        if job is None or not (viewer.sees_all or viewer.user_id == job.user_id):
            raise NotFound
        return job

    async def jobs(self, viewer: Viewer, wanted: JobFilter) -> Sequence[Job]:
        found = [job for job in self.rows.jobs.values() if viewer.sees_all or viewer.user_id == job.user_id]
        return sorted(found, key=lambda job: job.id, reverse=True)[: wanted.limit]

    async def history(self, viewer: Viewer, job_id: str) -> Sequence[EventRecord]:
        await self.job(viewer, job_id)
        return self.rows.histories[job_id]

    async def events_after(
        self, viewer: Viewer, seq: int, *, job_id: str | None = None, limit: int = 1000
    ) -> Sequence[EventRecord]:
        found = [
            record
            for history in ([self.rows.histories[job_id]] if job_id else self.rows.histories.values())
            for record in history
            if record.seq > seq and (viewer.sees_all or viewer.user_id == record.user_id)
        ]
        return sorted(found, key=lambda record: record.seq)[:limit]

    async def last_seq(self) -> int:
        return self.rows.seq

    async def news(self, seq: int, timeout_s: float) -> None:
        pass

    async def state(self) -> LedgerState:
        rows = self.rows
        return LedgerState(
            open_jobs=[rows.open[job_id] for job_id in sorted(rows.open)],
            leases=[rows.leases[lease_id] for lease_id in sorted(rows.leases)],
            sessions=[rows.live_sessions[session_id] for session_id in sorted(rows.live_sessions)],
            parts={
                session_id: sorted(rows.parts[session_id])
                for session_id, session in rows.live_sessions.items()
                if session.state is SessionState.OPEN and rows.parts[session_id]
            },
            dead_letters_count=rows.dead_letters_count,
            paused=rows.paused,
            usage=tuple(rows.usage[user_id] for user_id in sorted(rows.usage)),
            totals=Counter(job.status for job in rows.jobs.values()),
            counts=dict(rows.counts),
            swept_at=rows.swept_at,
        )

    async def session(self, session_id: str) -> UploadSession | None:
        return self.rows.sessions.get(session_id)

    async def with_file_of(self, job: Job) -> Sequence[Job]:
        found = [earlier for earlier in self.rows.jobs.values() if has_file_of(earlier, job)]
        return sorted(found, key=lambda earlier: earlier.id, reverse=True)[:5]

    async def parts(self, session_id: str) -> Sequence[PartDone]:
        found = self.rows.parts.get(session_id, {})
        return [found[number] for number in sorted(found)]

    async def parts_of_job(self, viewer: Viewer, job_id: str) -> JobParts:
        raise NotImplementedError("the API is not simulated")

    async def spent(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], IdempotencyRecord]:
        return {key: self.rows.spent[key] for key in keys if key in self.rows.spent}

    async def forget_spent(self, before: datetime) -> int:
        old = [key for key, record in self.rows.spent.items() if record.created_at < before]
        for key in old:
            del self.rows.spent[key]
        return len(old)

    async def outbox(self, due: datetime, limit: int) -> Sequence[OutboxRecord]:
        found = [r for r in self.rows.outbox.values() if r.next_attempt_at is None or r.next_attempt_at <= due]
        return found[:limit]

    async def postpone_outbox(self, records: Sequence[OutboxRecord]) -> None:
        self.rows.outbox.update({r.outbox_id: r for r in records if r.outbox_id in self.rows.outbox})

    async def forget_outbox(self, outbox_ids: Sequence[str]) -> int:
        return sum(self.rows.outbox.pop(outbox_id, None) is not None for outbox_id in outbox_ids)

    async def note_deliveries(self, records: Sequence[DeliveryRecord]) -> None:
        raise NotImplementedError("no courier is simulated")

    async def note_disabled(self, answered: Sequence[DisabledWebhook], spared: Sequence[DisabledWebhook]) -> None:
        raise NotImplementedError("no courier is simulated")

    async def disabled_since(self, viewer: Viewer, url: str) -> datetime | None:
        raise NotImplementedError("no courier is simulated")

    async def disabled_webhooks(self, viewer: Viewer, limit: int) -> Sequence[DisabledReceiver]:
        raise NotImplementedError("no courier is simulated")

    async def deliveries(
        self, viewer: Viewer, *, job_id: str | None = None, before_seq: int | None = None, limit: int = 50
    ) -> Sequence[DeliveryRecord]:
        raise NotImplementedError("no courier is simulated")

    async def scaling(self, limit: int) -> Sequence[ScalingRecord]:
        return self.rows.scaling[::-1][:limit]

    async def slo_totals(self, since: datetime) -> Mapping[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for (slo, starts_at), (total, bad) in self.rows.slo_counts.items():
            if starts_at >= since:
                before = found.get(slo, (0, 0))
                found[slo] = (before[0] + total, before[1] + bad)
        return found

    async def metadata_overdue(self, created_before: datetime) -> int:
        late = (j for j in self.rows.open.values() if j.metadata is None and j.created_at < created_before)
        return sum(job.status is JobStatus.QUEUED for job in late)

    async def key(self, key_id: str) -> ApiKey | None:
        return self.rows.keys.get(key_id)

    async def keys(self, viewer: Viewer) -> Sequence[ApiKey]:
        return [key for key in self.rows.keys.values() if viewer.sees_all or viewer.user_id == key.user_id]

    async def close(self) -> None:
        pass


#: How an upload may go on.
_SESSION_WAYS: Mapping[SessionState | None, frozenset[SessionState]] = {
    None: frozenset({SessionState.OPEN, SessionState.ABORTING, SessionState.COMPLETED}),
    SessionState.OPEN: frozenset({SessionState.OPEN, SessionState.ABORTING, SessionState.COMPLETED}),
    SessionState.ABORTING: frozenset({SessionState.ABORTING, SessionState.ABORTED}),
    SessionState.ABORTED: frozenset({SessionState.ABORTED}),
    SessionState.COMPLETED: frozenset({SessionState.COMPLETED}),
}


def _check_stripes(job: Job, leases: Sequence[Lease]) -> None:
    """I6: an agent has one stripe of a job, a part is leased to two agents at most, and only the newest publishes."""
    agents = Counter((lease.agent, lease.incarnation) for lease in leases)
    must(not agents or max(agents.values()) == 1, "I6", f"{job.id}: an agent has two of its leases")
    must(len({lease.epoch for lease in leases}) == len(leases), "I6", f"{job.id} has leases of one epoch")
    holders = Counter(part for lease in leases for part in range(lease.first_part, min(lease.end_part, PARTS + 1)))
    must(not holders or max(holders.values()) <= 2, "I6", f"{job.id}: a part is leased to more than two")
    if job.status is JobStatus.UPLOADING:
        alone = len(leases) == 1 and leases[0].epoch == job.epoch
        must(alone, "I6", f"{job.id} is being published under {leases}")


def _is_unstorable(text: str) -> bool:
    """Whether it is no Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
