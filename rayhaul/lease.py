"""What scheduler and agents say to each other: orders one way, notices the other.

Laws of this file:
1. Every value is frozen and picklable; nothing here knows Ray, HTTP or S3.
2. A lease is an agent's right to a stripe. Whatever is reported under it names its `lease_id` and `epoch`; the
   scheduler refuses what does not match the ledger, and the agent stops at once.
3. Notices carry an id and are sent again until acknowledged; receiving one twice changes nothing.
4. Part numbers run from 1 (S3); a stripe is half-open: `first_part <= number < end_part`.
5. Only a lease that covers the whole job, and was never shared, completes the upload (ADR 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from rayhaul.capacity import Capacity
from rayhaul.errors import Failure
from rayhaul.job import JobResult, Metadata
from rayhaul.metrics import Snapshot
from rayhaul.origins import HostGrant, HostUse, Source
from rayhaul.rates import RateGrant, RateUse


class SessionState(StrEnum):
    #: Parts may be added.
    OPEN = "open"
    #: Its object stands in the bucket.
    COMPLETED = "completed"
    #: To be aborted; an agent is asked until it confirms.
    ABORTING = "aborting"
    #: Gone from the store, confirmed.
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSession:
    """One multipart upload of one pinned version of the source."""

    session_id: str
    job_id: str
    bucket: str
    key: str
    upload_id: str
    #: Size of every part but the last.
    part_bytes: int
    #: None where the source did not say.
    size_bytes: int | None
    state: SessionState
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenUpload:
    """An upload as the store lists it."""

    key: str
    upload_id: str
    initiated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDone:
    """A part that the store has acknowledged. `etag` is unquoted."""

    session_id: str
    number: int
    size_bytes: int
    etag: str
    #: CRC-64/NVME of its bytes as they passed through the agent.
    crc64nvme: int | None = None
    #: The same by CRC-32C, where the object is to be compared with one.
    crc32c: int | None = None
    #: Which of the job's sources it came from: 0 is its URL, n its n-th mirror.
    source: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A stripe of a job in an agent's hands: a row of the ledger."""

    lease_id: str
    job_id: str
    epoch: int
    agent: str
    #: Names one life of the agent's process; a restarted agent holds nothing.
    incarnation: str
    first_part: int
    end_part: int
    granted_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """Who and what an order belongs to; bound to every log line it causes."""

    job_id: str
    user_id: str
    correlation_id: str
    attempt: int = 0
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeOrder:
    """Fetch the file's metadata. Not durable: repeating it changes nothing."""

    order_id: str
    context: JobContext
    url: str
    headers: Mapping[str, str]
    filename: str | None
    size_bytes_max: int | None
    #: Asked for a fresh URL where the job's own has expired.
    refresh_webhook: str | None = None
    #: Which of the job's sources `url` is.
    source: int = 0
    #: Asked where `url` does not have the file.
    mirrors: tuple[Source, ...] = ()
    #: What the agent may use of the host of `url`; None: as many connections as it asks for.
    grant: HostGrant | None = None
    #: Whether a small file may come along, and wait there for its lease.
    may_peek: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingCopy:
    """The object of an earlier job that has the same file, as it was recorded."""

    job_id: str
    bucket: str
    key: str
    size_bytes: int
    etag: str
    sha256: str | None
    crc64nvme: str | None
    parts_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOrder:
    """Move the parts `first_part <= n < end_part` of a pinned version into the bucket; with all of them, commit it."""

    lease_id: str
    epoch: int
    context: JobContext
    url: str
    headers: Mapping[str, str]
    pin: Metadata
    bucket: str
    key: str
    #: Uniform size of parts, chosen by the plan.
    part_bytes: int
    first_part: int
    end_part: int
    connections: int
    #: `algorithm:value` the object must have, as the caller or the source says, or None.
    checksum: str | None
    #: The result tells the SHA-256, whatever the bytes are compared with.
    compute_sha256: bool = False
    size_bytes_max: int | None
    #: The upload to go on with; None asks the agent to open one (or to use a single PUT).
    session: UploadSession | None
    #: Parts of that session the ledger knows.
    parts_done: tuple[PartDone, ...] = ()
    #: Asked for a fresh URL where this one has expired.
    refresh_webhook: str | None = None
    #: What the agent may use of its host; None: as many connections as it asks for.
    grant: HostGrant | None = None
    #: How fast the agent may read under each limit that holds for the job.
    rates: tuple[RateGrant, ...] = ()
    #: The job's other sources; `url` is the one that was pinned.
    mirrors: tuple[Source, ...] = ()
    #: What the agent may use of the other hosts that a Metalink document names.
    other_grants: tuple[HostGrant, ...] = ()
    #: Whether an object of this job did not have its checksum: only sources that show the same file are mixed then.
    is_apart: bool = False
    #: Whether another lease has these parts on their way: they are read before they are sent, and break no upload.
    is_twin: bool = False
    #: Copied within the bucket, where it still stands, instead of fetching the file.
    copy: StandingCopy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortOrder:
    """Abort an upload nobody will finish, and see that it is gone; or take a single PUT back (`upload_id` empty)."""

    session_id: str
    context: JobContext
    bucket: str
    key: str
    upload_id: str
    #: What PUTs of the job published up to this epoch goes; None: nothing does, the job lives again.
    epoch: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimOrder:
    """Leave the parts from `end_part` on to others, and the commit too. Not durable; repeating it changes nothing."""

    lease_id: str
    job_id: str
    end_part: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOrder:
    """Look for uploads in the bucket that may be nobody's. Not durable: repeating it changes nothing."""

    order_id: str
    context: JobContext
    #: Of all our object keys.
    prefix: str
    #: Younger ones may be about to be told of.
    age_s_min: float
    #: Have the bucket itself abort uploads after so many days, where it has no rules yet; None: leave its rules alone.
    rule_days: int | None
    #: Tell of uploads under keys that callers named, too: nobody but this cluster uploads under the prefix.
    owns_prefix: bool = False
    #: Known to be nobody's: these are aborted, and nothing is looked for.
    nobodys: tuple[OpenUpload, ...] = ()


Order = ProbeOrder | TransferOrder | AbortOrder | SweepOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    notice_id: str
    order_id: str
    job_id: str
    metadata: Metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFailed:
    notice_id: str
    order_id: str
    job_id: str
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened:
    """An upload was created. The agent sends no part before this is acknowledged."""

    notice_id: str
    lease_id: str
    epoch: int
    job_id: str
    session: UploadSession


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsDone:
    notice_id: str
    lease_id: str
    epoch: int
    job_id: str
    parts: tuple[PartDone, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """The answer to a TrimOrder: where the stripe ends from now on. Parts that are on their way stay in it."""

    notice_id: str
    lease_id: str
    epoch: int
    job_id: str
    end_part: int
    #: Whether others may join: the agent will not complete the upload under this lease.
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeDone:
    """All parts of a stripe that is not the whole file are in; the lease is over."""

    notice_id: str
    lease_id: str
    epoch: int
    job_id: str
    left_out: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitAsked:
    """All parts are in. The agent completes the upload only after the acknowledgement."""

    notice_id: str
    lease_id: str
    epoch: int
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """The object stands in the bucket and was verified."""

    notice_id: str
    lease_id: str
    epoch: int
    job_id: str
    result: JobResult
    #: Sources that were not read from any more, and why, in a word.
    left_out: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFailed:
    """The lease ended without an object; the scheduler decides what follows."""

    notice_id: str
    lease_id: str
    epoch: int
    job_id: str
    failure: Failure
    left_out: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    notice_id: str
    session_id: str
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """Open uploads that may be nobody's. Whether jobs of ours need them, the scheduler knows."""

    notice_id: str
    order_id: str
    #: Under keys that name jobs, as they would have to be aborted; `created_at` is when the store says that they were.
    uploads: tuple[UploadSession, ...]
    #: Under keys that callers named, where nobody else uploads.
    named: tuple[OpenUpload, ...] = ()
    #: Of no job.
    job_id: str = ""


#: What is said under a lease.
LeaseNotice = SessionOpened | PartsDone | Trimmed | StripeDone | CommitAsked | Transferred | LeaseFailed
Notice = Probed | ProbeFailed | Aborted | Swept | LeaseNotice


#: What a lease does (`LeaseProgress.doing`) once its upload is being completed.
COMMITTING = "committing"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseProgress:
    """How far one lease is. `bytes_done` counts the bytes of its stripe that are safe or on their way."""

    lease_id: str
    job_id: str
    bytes_done: int
    bytes_per_s: float
    #: Since bytes last moved, by the agent's monotonic clock.
    idle_s: float = 0.0
    #: What is being done, in a word or two.
    doing: str = ""
    parts_done: int = 0
    #: None while it is not known.
    parts_total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentReport:
    """A heartbeat: who I am, what I hold, what happened. Sent every second, and at once when a notice waits."""

    agent: str
    incarnation: str
    #: Grows with each report of an incarnation; an older one is ignored.
    seq: int
    capacity: Capacity
    draining: bool
    #: The last report: the agent holds nothing and exits.
    leaving: bool = False
    #: Lease and order ids in hand when the report was sent.
    held: frozenset[str]
    #: Leases it let go by itself because we did not answer for too long; told until answered.
    let_go: frozenset[str] = frozenset()
    progress: tuple[LeaseProgress, ...] = ()
    notices: tuple[Notice, ...] = ()
    #: Why the agent takes no leases (disk full, memory full), in one sentence; None where it is fit.
    unfit: str | None = None
    metrics: Snapshot = field(default_factory=Snapshot)
    hosts: tuple[HostUse, ...] = ()
    rates: tuple[RateUse, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReply:
    """The scheduler's answer, given only after what the report caused is durable."""

    #: Notices dealt with, whether accepted or not: send them no more.
    acknowledged: frozenset[str]
    #: Of those, the ones refused as stale.
    refused: frozenset[str]
    #: Leases the agent holds no longer: stop them, write nothing.
    revoked: frozenset[str]
    #: Another life of this agent reports as well: this one stops and ends.
    superseded: bool = False
    #: What it may use of its hosts from now on.
    hosts: tuple[HostGrant, ...] = ()
    #: How fast it may read from now on, under each limit where it has leases.
    rates: tuple[RateGrant, ...] = ()
