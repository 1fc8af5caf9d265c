"""The seam of the ledger: what the scheduler writes and everybody reads.

Laws of this file:
1. `commit` is one transaction: all of a batch or nothing, on disk (fsync) when it returns.
2. One writer decides: a changed job names the version it was made from by its own (`version - 1`); where the ledger
   holds another one, somebody else wrote and the whole batch is refused.
3. A reader says who reads (`Viewer`) first; a job of somebody else does not exist for it.
4. Of two schedulers the one that took the lead last may write: a batch carries the epoch of its writer's leadership,
   and one of an older epoch is refused as a whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Protocol

from rayhaul.errors import ServiceError
from rayhaul.job import EventRecord, Job, JobStatus, Priority
from rayhaul.lease import Lease, PartDone, UploadSession
from rayhaul.ledger.deliveries import DeliveryRecord, DisabledReceiver, DisabledWebhook, OutboxRecord
from rayhaul.metrics import Labels
from rayhaul.parts import JobParts


class Role(StrEnum):
    #: Sees and steers its own jobs.
    USER = "user"
    #: Sees and steers everything.
    OPERATOR = "operator"


class Scope(StrEnum):
    """What a key may do of what its role may."""

    #: Look: GET and HEAD.
    READ = "read"
    #: Ask for, steer, change: every other method.
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Viewer:
    user_id: str
    role: Role = Role.USER

    @property
    def sees_all(self) -> bool:
        return self.role is Role.OPERATOR


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as stored: the secret itself is nowhere, only its SHA-256."""

    key_id: str
    user_id: str
    role: Role
    secret_sha256: str
    name: str
    created_at: datetime
    scopes: frozenset[Scope] = frozenset(Scope)
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    #: Some time within the last minutes before the last use; written seldom, and by `Batch.keys_used` alone.
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """An Idempotency-Key a user has spent, and the jobs it made (in the order asked)."""

    user_id: str
    key: str
    #: SHA-256 of the canonical request body.
    fingerprint: str
    job_ids: tuple[str, ...]
    created_at: datetime


#: In the payload of a message that waits, and not of the event it tells of: the traceparent of the job's creation.
TRACEPARENT = "traceparent"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRecord:
    """A decision about the number of agents, with what it was made from."""

    ts: datetime
    reason: str
    wanted: int
    online: int
    pending: int
    draining: int
    load_pct: float | None
    jobs_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """The bytes that count against a user's quota of a day. A user has one: the newest day's."""

    user_id: str
    day: date
    bytes_used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SloCount:
    """Events of a service-level objective within a stretch of time; what is written is added to what is there."""

    slo: str
    starts_at: datetime
    total: int
    bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one turn of the scheduler makes durable."""

    #: The leadership (`Ledger.lead`) under which this is written; None: not checked, as before any scheduler runs.
    leader_epoch: int | None = None

    jobs_new: Sequence[Job] = ()
    jobs_changed: Sequence[Job] = ()
    events: Sequence[EventRecord] = ()
    leases_granted: Sequence[Lease] = ()
    #: Lease ids.
    leases_ended: Sequence[str] = ()
    #: Leases whose stripe ends earlier from now on.
    leases_trimmed: Sequence[Lease] = ()
    #: New ones and changed ones, by `session_id`.
    sessions: Sequence[UploadSession] = ()
    #: New ones and sent-again ones, by (`session_id`, `number`).
    parts: Sequence[PartDone] = ()
    idempotency: Sequence[IdempotencyRecord] = ()
    outbox: Sequence[OutboxRecord] = ()
    #: (user id, URL) of webhooks that messages are sent to again.
    webhooks_enabled: Sequence[tuple[str, str]] = ()
    #: New ones and changed ones. A key that was revoked stays so.
    keys: Sequence[ApiKey] = ()
    #: When keys were used, by key id.
    keys_used: Mapping[str, datetime] = field(default_factory=dict)
    #: The priorities that are paused from now on; None: as before.
    paused: frozenset[Priority] | None = None
    scaling: Sequence[ScalingRecord] = ()
    #: In the place of what stands there, by user.
    usage: Sequence[UsageRecord] = ()
    #: What is added to the counters that last as long as the ledger, by (metric name, labels).
    counts: Mapping[tuple[str, Labels], int] = field(default_factory=dict)
    slo_counts: Sequence[SloCount] = ()
    #: When an agent was last sent to sweep the bucket; None: as before.
    swept_at: datetime | None = None

    @property
    def is_empty(self) -> bool:
        if self.paused is not None:
            return False
        return not any(getattr(self, name) for name in self.__slots__ if name not in ("leader_epoch", "paused"))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    status: JobStatus | None = None
    #: (key, value) a job must be tagged with.
    tag: tuple[str, str] | None = None
    dead_lettered: bool = False
    #: Jobs older than this id.
    before_id: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """What a scheduler rebuilds itself from."""

    #: Every job that is not final, oldest first.
    open_jobs: Sequence[Job] = ()
    leases: Sequence[Lease] = ()
    #: Sessions that are open or aborting.
    sessions: Sequence[UploadSession] = ()
    #: Numbers of the recorded parts of open sessions, ascending, by session.
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    dead_letters_count: int = 0
    #: Priorities whose jobs are not to be started.
    paused: frozenset[Priority] = frozenset()
    #: Of all users, of whatever day.
    usage: Sequence[UsageRecord] = ()
    #: Counts of all jobs ever by status.
    totals: Mapping[JobStatus, int] = field(default_factory=dict)
    #: What the counters of the ledger stand at.
    counts: Mapping[tuple[str, Labels], int] = field(default_factory=dict)
    #: When an agent was last sent to sweep the bucket; None: that is not known.
    swept_at: datetime | None = None


class LedgerConflict(ServiceError):
    """Another writer changed the ledger under us."""

    code = "internal"


class Deposed(LedgerConflict):
    """Another scheduler took the lead: this one must stop writing for good."""

    code = "internal"


class Ledger(Protocol):
    """Raises: Unavailable where the database cannot be used for the moment."""

    async def commit(self, batch: Batch) -> None:
        """Write the batch.

        Raises: LedgerConflict where a job's version is not the expected one, Deposed where `leader_epoch` is not the
        newest; nothing is written then.
        """
        ...

    async def lead(self, holder: str) -> int:
        """Take the lead from whoever has it, durably; return the new leadership's epoch, one more than the last.

        `holder` says who, for people: host and process.
        """
        ...

    async def confirm(self, leader_epoch: int) -> None:
        """Raises: Deposed where somebody else has taken the lead since."""
        ...

    async def job(self, viewer: Viewer, job_id: str) -> Job:
        """Raises: NotFound."""
        ...

    async def jobs(self, viewer: Viewer, wanted: JobFilter) -> Sequence[Job]:
        """Return at most `limit` jobs, newest first."""
        ...

    async def history(self, viewer: Viewer, job_id: str) -> Sequence[EventRecord]:
        """Return a job's events, oldest first. Raises: NotFound."""
        ...

    async def events_after(
        self, viewer: Viewer, seq: int, *, job_id: str | None = None, limit: int = 1000
    ) -> Sequence[EventRecord]:
        """Return events with a greater `seq`, oldest first; of one job or of all the viewer may see."""
        ...

    async def last_seq(self) -> int: ...

    async def news(self, seq: int, timeout_s: float) -> None:
        """Return as soon as there may be an event after `seq`, at the latest after `timeout_s`."""
        ...

    async def state(self) -> LedgerState: ...

    async def session(self, session_id: str) -> UploadSession | None:
        """Return a session, ended ones too."""
        ...

    async def with_file_of(self, job: Job) -> Sequence[Job]:
        """Return a few completed jobs of the same user that may have the job's file, the newest first."""
        ...

    async def parts(self, session_id: str) -> Sequence[PartDone]:
        """Return a session's parts by number."""
        ...

    async def parts_of_job(self, viewer: Viewer, job_id: str) -> JobParts: ...

    async def spent(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], IdempotencyRecord]:
        """Return what is known of these (user id, Idempotency-Key) pairs."""
        ...

    async def forget_spent(self, before: datetime) -> int:
        """Delete idempotency records made before a time; return how many."""
        ...

    async def outbox(self, due: datetime, limit: int) -> Sequence[OutboxRecord]:
        """Return messages whose next delivery is due, oldest first."""
        ...

    async def postpone_outbox(self, records: Sequence[OutboxRecord]) -> None:
        """Keep the `attempts` and `next_attempt_at` of messages that could not be delivered."""
        ...

    async def forget_outbox(self, outbox_ids: Sequence[str]) -> int:
        """Delete messages that were delivered or given up; return how many."""
        ...

    async def note_deliveries(self, records: Sequence[DeliveryRecord]) -> None:
        """Keep what became of deliveries, and forget those of long ago."""
        ...

    async def note_disabled(self, answered: Sequence[DisabledWebhook], spared: Sequence[DisabledWebhook]) -> None:
        """Keep which webhooks answered 410, and which were spared a message because they had.

        One that was enabled meanwhile stays so for all it was spared. Forgets those that were asked and spared nothing
        for as long as deliveries are kept.
        """
        ...

    async def disabled_since(self, viewer: Viewer, url: str) -> datetime | None:
        """Return since when the viewer's own messages are not sent to a URL; None where they are."""
        ...

    async def disabled_webhooks(self, viewer: Viewer, limit: int) -> Sequence[DisabledReceiver]:
        """Return the disabled webhooks that the viewer may see; those first for which a message was given up last."""
        ...

    async def deliveries(
        self, viewer: Viewer, *, job_id: str | None = None, before_seq: int | None = None, limit: int = 50
    ) -> Sequence[DeliveryRecord]:
        """Return deliveries that were tried, newest first; of one job or of all the viewer may see."""
        ...

    async def scaling(self, limit: int) -> Sequence[ScalingRecord]:
        """Return decisions about the number of agents, newest first."""
        ...

    async def slo_totals(self, since: datetime) -> Mapping[str, tuple[int, int]]:
        """Return objective -> (events, bad ones) of all stretches that begin at `since` or later."""
        ...

    async def metadata_overdue(self, created_before: datetime) -> int:
        """Return how many jobs that were created before a time are queued and have no metadata yet."""
        ...

    async def key(self, key_id: str) -> ApiKey | None: ...

    async def keys(self, viewer: Viewer) -> Sequence[ApiKey]: ...

    async def close(self) -> None: ...
