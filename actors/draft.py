"""One turn's changes before they are durable: what the ledger will be asked to write, and what is done once it has.

A draft reads through to the book and changes nothing in it, so a failed commit leaves no trace: the draft is dropped.
What is counted and told to agents waits in it too, and happens only once the commit stands.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from actors.book import Book
from actors.heard import Heard
from rayhaul.ids import NewId
from rayhaul.job import EventRecord, Job, JobEvent, Priority
from rayhaul.lease import Lease, OpenUpload, PartDone, SessionState, UploadSession
from rayhaul.ledger.base import TRACEPARENT, ApiKey, Batch, IdempotencyRecord, ScalingRecord, SloCount, UsageRecord
from rayhaul.ledger.deliveries import OutboxRecord
from rayhaul.metrics import CATALOGUE, JOBS_CREATED, Labels, Meter, Metric
from rayhaul.policy import quota
from rayhaul.policy.partset import PartSet
from rayhaul.policy.quota import Usage
from rayhaul.policy.scaling import Decision
from rayhaul.tracing import recorded_id

#: Events a job's webhook is told of.
_TOLD = frozenset({JobEvent.COMPLETED, JobEvent.FAILED, JobEvent.DEADLETTERED})


class Draft:
    def __init__(self, book: Book, now: datetime, new_id: NewId) -> None:
        self._book = book
        self.now = now
        self.new_id = new_id
        self._jobs: dict[str, Job] = {}
        self._new: set[str] = set()
        self._changed: set[str] = set()
        self._base_version: dict[str, int] = {}
        self._events: list[EventRecord] = []
        self._granted: dict[str, Lease] = {}
        self._granted_of_job: defaultdict[str, list[str]] = defaultdict(list)
        self._ended: dict[str, Lease] = {}
        self._trimmed: dict[str, Lease] = {}
        self._sessions: dict[str, UploadSession] = {}
        self._ended_sessions: dict[str, UploadSession] = {}
        self._session_of_job: dict[str, UploadSession | None] = {}
        self._parts: list[PartDone] = []
        self._recorded: defaultdict[str, PartSet] = defaultdict(int)
        self._idempotency: dict[tuple[str, str], IdempotencyRecord] = {}
        self._outbox: list[OutboxRecord] = []
        self._webhooks_enabled: list[tuple[str, str]] = []
        self._keys: list[ApiKey] = []
        self._keys_used: dict[str, datetime] = {}
        #: Leases to be told to stop once this is durable, by agent.
        self.revokes: defaultdict[str, list[str]] = defaultdict(list)
        #: Uploads that belong to no job, to be aborted once this is durable.
        self.nobodys: list[OpenUpload] = []
        #: The bucket is about to be swept; None: not in this turn.
        self.swept_at: datetime | None = None
        self.dead_letters_delta = 0
        #: What no row of the ledger holds.
        self.heard = Heard(book, now.timestamp())
        self._paused: frozenset[Priority] | None = None
        self._scaling: list[ScalingRecord] = []
        self._usage: dict[str, Usage] = {}
        self._slo_counts: list[SloCount] = []
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._observed: list[tuple[Metric, float, str | None]] = []

    @property
    def now_s(self) -> float:
        return self.now.timestamp()

    @property
    def granted(self) -> Sequence[Lease]:
        return list(self._granted.values())

    @property
    def events(self) -> Sequence[EventRecord]:
        return self._events

    def job(self, job_id: str) -> Job | None:
        """Return an open job, or one loaded or changed in this turn."""
        return self._jobs.get(job_id) or self._book.jobs.get(job_id)

    def load(self, job: Job) -> None:
        """Bring in a final job from the ledger, so that it can be changed."""
        if job.id not in self._jobs and job.id not in self._book.jobs:
            self._base_version[job.id] = job.version
            self._jobs[job.id] = job

    def create(self, job: Job, payload: Mapping[str, Any]) -> None:
        self._jobs[job.id] = job
        self._new.add(job.id)
        self.count(JOBS_CREATED)
        self._record(job, JobEvent.CREATED, payload)

    def transition(self, job: Job, event: JobEvent, payload: Mapping[str, Any] | None = None, **changes: Any) -> Job:
        """Move a job along its table and record the event.

        Raises: Conflict where the table has no such arrow.
        """
        after = job.after(event, version=self._version(job), **changes)
        self._put(after)
        self._record(after, event, payload or {})
        return after

    def change(self, job: Job, **changes: Any) -> Job:
        """Change what is noted of a job while its state stays, with no event."""
        after = replace(job, version=self._version(job), **changes)
        self._put(after)
        return after

    def _put(self, job: Job) -> None:
        self._jobs[job.id] = job
        self._changed.add(job.id)

    def lease(self, lease_id: str) -> Lease | None:
        """Return a lease that is live at this point of the turn."""
        if lease_id in self._ended:
            return None
        return self._granted.get(lease_id) or self._trimmed.get(lease_id) or self._book.leases.get(lease_id)

    def leases_of_job(self, job_id: str) -> Sequence[Lease]:
        """Return the leases that a job has at this point of the turn, oldest first."""
        before = sorted(self._book.leases_of_job.get(job_id, ()))
        found = (self.lease(lease_id) for lease_id in (*before, *self._granted_of_job.get(job_id, ())))
        return sorted((lease for lease in found if lease is not None), key=lambda lease: lease.epoch)

    def leases_of_key(self, key: str) -> Sequence[Lease]:
        """Return the leases, at this point of the turn, of all jobs whose object gets that key."""
        job_ids = {*self._book.leases_of_job, *self._granted_of_job}
        jobs = [job for job_id in job_ids if (job := self.job(job_id)) is not None]
        return [lease for job in jobs if job.key == key for lease in self.leases_of_job(job.id)]

    def grant(self, lease: Lease) -> None:
        self._granted[lease.lease_id] = lease
        self._granted_of_job[lease.job_id].append(lease.lease_id)

    def end(self, lease: Lease) -> None:
        self._ended[lease.lease_id] = lease

    def trim(self, lease: Lease, end_part: int) -> None:
        """Let a stripe end earlier, durably; its agent has agreed."""
        self._trimmed[lease.lease_id] = replace(lease, end_part=end_part)

    def slots_change(self) -> Counter[str]:
        """Return by how many leases each agent has more (or less, negative) than when the turn began."""
        change = Counter(lease.agent for lease in self._granted.values())
        change.subtract(lease.agent for lease in self._ended.values())
        return change

    def jobs_stopped(self) -> Counter[str]:
        """Return how many jobs have lost their last lease so far in this turn, by user."""
        stopped = {lease.job_id for lease in self._ended.values() if not self.leases_of_job(lease.job_id)}
        return Counter(job.user_id for job_id in stopped if (job := self.job(job_id)) is not None)

    def jobs_started(self) -> Counter[str]:
        """Return how many jobs were given a lease so far in this turn, by user."""
        begun = {lease.job_id for lease in self._granted.values()} - self._book.leases_of_job.keys()
        jobs = {job_id: self.job(job_id) for job_id in begun}
        return Counter(job.user_id for job in jobs.values() if job is not None)

    def revoke_job(self, job_id: str) -> None:
        """End all leases of a job and have their agents told."""
        for lease in self.leases_of_job(job_id):
            self.end(lease)
            self.revokes[lease.agent].append(lease.lease_id)

    def open_session(self, job_id: str) -> UploadSession | None:
        if job_id in self._session_of_job:
            return self._session_of_job[job_id]
        return self._book.open_session(job_id)

    def load_session(self, session: UploadSession) -> None:
        """Bring in a session that is over, so that it is not taken for an unknown one."""
        self._ended_sessions[session.session_id] = session

    def session(self, session_id: str) -> UploadSession | None:
        return (
            self._sessions.get(session_id)
            or self._book.sessions.get(session_id)
            or self._ended_sessions.get(session_id)
        )

    def knows_upload(self, upload_id: str) -> bool:
        """Whether a session of this turn or of the book, open or aborting, is this upload."""
        sessions = (*self._sessions.values(), *self._book.sessions.values())
        return any(session.upload_id == upload_id for session in sessions)

    def put_session(self, session: UploadSession, state: SessionState) -> None:
        moved = replace(session, state=state)
        self._sessions[session.session_id] = moved
        if state is SessionState.OPEN:
            self._session_of_job[session.job_id] = moved
        elif (current := self.open_session(session.job_id)) and current.session_id == session.session_id:
            self._session_of_job[session.job_id] = None

    def put_parts(self, parts: Sequence[PartDone]) -> None:
        self._parts.extend(parts)
        for part in parts:
            self._recorded[part.session_id] |= 1 << part.number

    def recorded(self, session_id: str) -> PartSet:
        """Return the parts of an open session that are recorded at this point of the turn."""
        return self._book.parts.get(session_id, 0) | self._recorded.get(session_id, 0)

    def spend(self, record: IdempotencyRecord) -> None:
        self._idempotency[record.user_id, record.key] = record

    def spent(self, user_id: str, key: str) -> IdempotencyRecord | None:
        """Return what this very turn has accepted under an Idempotency-Key."""
        return self._idempotency.get((user_id, key))

    def enable_webhook(self, user_id: str, url: str) -> None:
        self._webhooks_enabled.append((user_id, url))

    def put_key(self, key: ApiKey) -> None:
        self._keys.append(key)

    def note_keys_used(self, used: Mapping[str, datetime]) -> None:
        for key_id, used_at in used.items():
            self._keys_used[key_id] = max(used_at, self._keys_used.get(key_id, used_at))

    @property
    def paused(self) -> frozenset[Priority]:
        return frozenset(self._book.paused) if self._paused is None else self._paused

    def pause(self, priorities: frozenset[Priority]) -> None:
        """Let these priorities be the paused ones."""
        self._paused = priorities

    def note_scaling(self, decision: Decision) -> None:
        """Keep a decision about the number of agents with what it was made from."""
        now = decision.situation
        self._scaling.append(
            ScalingRecord(
                ts=self.now,
                reason=decision.reason,
                wanted=decision.wanted,
                online=now.agents_count,
                pending=now.agents_pending,
                draining=now.agents_draining,
                load_pct=decision.load_pct,
                jobs_waiting=now.jobs_waiting,
            )
        )

    def usage(self, user_id: str) -> Usage | None:
        """Return what a user has used, this turn included; it may be of an earlier day."""
        return self._usage.get(user_id) or self._book.usage.get(user_id)

    def charge(self, user_id: str, size_bytes: int) -> None:
        """Count bytes against a user's day."""
        if size_bytes:
            self._usage[user_id] = quota.charged(self.usage(user_id), size_bytes, self.now)

    def count_slo(self, count: SloCount) -> None:
        """Count events of an objective."""
        self._slo_counts.append(count)

    def count(self, metric: Metric, *labels: str) -> None:
        """Count one, in the ledger too: such a counter goes on where it stood when the scheduler begins anew."""
        assert len(labels) == len(metric.labels)
        self._counts[metric.name, labels] += 1

    def observe(self, metric: Metric, value: float, job: Job) -> None:
        """Note a value that a job showed, once this is durable."""
        self._observed.append((metric, value, recorded_id(job.traceparent)))

    def tell(self, meter: Meter) -> None:
        """Count what has become true."""
        for (name, labels), count in self._counts.items():
            meter.inc(CATALOGUE[name], *labels, by=count)
        for metric, value, trace_id in self._observed:
            meter.observe(metric, value, trace_id=trace_id)

    def _record(self, job: Job, event: JobEvent, payload: Mapping[str, Any]) -> None:
        record = EventRecord(
            ts=self.now,
            event=event,
            job_id=job.id,
            user_id=job.user_id,
            correlation_id=job.correlation_id,
            status=job.status,
            payload={"correlationId": job.correlation_id, **payload},
        )
        self._events.append(record)
        if job.spec.webhook is not None and event in _TOLD:
            self._outbox.append(
                OutboxRecord(
                    outbox_id=self.new_id("msg"),
                    job_id=job.id,
                    user_id=job.user_id,
                    url=job.spec.webhook,
                    event=event,
                    payload=record.payload
                    if job.traceparent is None
                    else {**record.payload, TRACEPARENT: job.traceparent},
                    created_at=self.now,
                )
            )

    def _version(self, job: Job) -> int:
        """Return what a job's version will be: one more than the ledger's, however often it changes in this turn."""
        if job.id in self._new:
            return job.version
        known = self._base_version.get(job.id)
        return 1 + (self._book.jobs[job.id].version if known is None else known)

    def seal(self, leader_epoch: int | None = None) -> Batch:
        """Return what the ledger must write."""
        changed = self._changed - self._new
        return Batch(
            leader_epoch=leader_epoch,
            jobs_new=[job for job_id, job in self._jobs.items() if job_id in self._new],
            jobs_changed=[job for job_id, job in self._jobs.items() if job_id in changed],
            events=self._events,
            leases_granted=[lease for lease_id, lease in self._granted.items() if lease_id not in self._ended],
            leases_ended=[lease_id for lease_id in self._ended if lease_id not in self._granted],
            leases_trimmed=[lease for lease_id, lease in self._trimmed.items() if lease_id not in self._ended],
            sessions=list(self._sessions.values()),
            parts=self._parts,
            idempotency=list(self._idempotency.values()),
            outbox=self._outbox,
            webhooks_enabled=self._webhooks_enabled,
            keys=self._keys,
            keys_used=self._keys_used,
            paused=self._paused,
            scaling=self._scaling,
            usage=[
                UsageRecord(user_id=user_id, day=usage.day, bytes_used=usage.bytes_used)
                for user_id, usage in self._usage.items()
            ],
            counts=self._counts,
            slo_counts=self._slo_counts,
            swept_at=self.swept_at,
        )

    def merge(self, batch: Batch) -> None:
        """Bring the book up to what was committed."""
        self._book.dead_letters_count += self.dead_letters_delta
        self._book.usage.update(self._usage)
        self._book.swept_at = self.swept_at or self._book.swept_at
        if batch.paused is not None:
            self._book.paused = set(batch.paused)
        self._book.merge(
            jobs=(*batch.jobs_new, *batch.jobs_changed),
            granted=batch.leases_granted,
            ended=batch.leases_ended,
            trimmed=batch.leases_trimmed,
            sessions=batch.sessions,
            parts=batch.parts,
            now_s=self.now_s,
        )
        self.heard.merge()
