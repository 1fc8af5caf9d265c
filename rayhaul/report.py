"""What agents tell the scheduler: notices of what happened, and the reports that carry them.

Laws of this file:
1. Every value is frozen and picklable; nothing here knows Ray, HTTP or S3.
2. Whatever is reported under a lease names its `lease_id` and `epoch`; the scheduler refuses what does not match the
   ledger, and the agent stops at once.
3. Notices carry an id and are sent again until acknowledged; receiving one twice changes nothing.
"""

from dataclasses import dataclass, field

from rayhaul.capacity import Capacity
from rayhaul.errors import Failure
from rayhaul.job import JobResult, Metadata
from rayhaul.lease import OpenUpload, PartDone, UploadSession
from rayhaul.metrics import Snapshot
from rayhaul.origins import HostGrant, HostUse
from rayhaul.rates import RateGrant, RateUse


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
