"""All that the API sees of the scheduler, and all that the scheduler and its agents see of each other.

Everything behind these Protocols can be in the same process (tests, simulation) or across Ray (runtime.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from actors.log_files import ClusterLines
from rayhaul.capacity import AgentState, Capacity
from rayhaul.job import Job, JobSpec, Priority, Progress
from rayhaul.lease import Order, TrimOrder, UploadSession
from rayhaul.ledger.base import ApiKey, Viewer
from rayhaul.log_lines import Wanted
from rayhaul.metrics import Snapshot
from rayhaul.policy.alerting import Alert
from rayhaul.report import AgentReport, ReportReply


class Command(StrEnum):
    """What a user may do to a job that exists."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    REQUEUE = "requeue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    user_id: str
    correlation_id: str
    specs: tuple[JobSpec, ...]
    traceparent: str | None = None
    #: (Idempotency-Key, SHA-256 of the canonical body), or None.
    idempotency: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The jobs a submission made, in its order; `replayed` when an earlier one with the same key had made them."""

    job_ids: tuple[str, ...]
    replayed: bool = False
    #: The job that a submission of one has made now, so that its answer needs no look into the ledger.
    job: Job | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressPage:
    """Live progress that changed after the version asked for."""

    #: Ask with this next time.
    version: int
    jobs: Mapping[str, Progress] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    agent: str
    state: AgentState
    capacity: Capacity
    heartbeat_age_s: float
    leases_count: int
    #: Why it takes no leases though it reports, in one sentence; None where it is fit.
    unfit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What the cluster knows of an origin host."""

    host: str
    #: Under way, as the agents last said.
    connections: int
    #: As many as the cluster may have there now.
    connections_max: int
    bytes_per_s: float
    #: No request begins before this; None: the host may be asked.
    backing_off_until: datetime | None
    #: Jobs that wait for one of its connections.
    jobs_waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    #: Jobs waiting for an agent, by priority.
    depth: Mapping[str, int]
    oldest_age_s: float
    paused: Sequence[str]
    dead_letters_count: int
    #: Why no job is started at all (the bucket refuses us), in one sentence; None: jobs are started.
    parked: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """A lease as the scheduler sees it now."""

    lease_id: str
    agent: str
    epoch: int
    first_part: int
    end_part: int
    granted_at: datetime
    #: None before the agent's first word about it.
    progress: Progress | None
    #: Since bytes last moved under this lease, as the agent tells; None before its first word.
    idle_s: float | None
    #: What the agent is doing for it, in a word or two.
    doing: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """The live state of a job, for a person with a runbook."""

    job: Job
    leases: Sequence[LeaseView]
    session: UploadSession | None
    #: Parts of the open session that the ledger knows.
    parts_done: int
    #: Why the job is not running, in one sentence; None where it runs or is final.
    waits_for: str | None


class ControlPlane(Protocol):
    """The scheduler, seen by the API.

    Raises: RayhaulError; Unavailable while the scheduler cannot be reached. A call that raised it may have been
    carried out: a submission is only safe to repeat with its Idempotency-Key.
    """

    async def submit(self, submission: Submission) -> Accepted:
        """Return when the jobs are on disk. Raises: IdempotencyMismatch."""
        ...

    async def command(self, viewer: Viewer, job_id: str, command: Command) -> Job:
        """Raises: NotFound, Conflict."""
        ...

    async def progress(self, since: int) -> ProgressPage: ...

    async def agents(self) -> Sequence[AgentView]: ...

    async def hosts(self, viewer: Viewer) -> Sequence[HostView]:
        """Return the origin hosts that are in use, or recover from having refused us, by name.

        A user is shown those that its running jobs use.
        """
        ...

    async def queue(self) -> QueueView: ...

    async def set_paused(self, priority: Priority, *, paused: bool) -> QueueView:
        """Stop or go on starting the jobs of a priority; durable, running jobs are left alone."""
        ...

    async def replay(self, job_id: str) -> Job:
        """Give a dead-lettered job another life. Raises: NotFound; Conflict where it is not dead-lettered."""
        ...

    async def discard(self, job_id: str) -> Job:
        """Take a job out of the dead-letter queue; it stays failed. Raises: NotFound, Conflict."""
        ...

    async def job_state(self, job_id: str) -> JobState:
        """Raises: NotFound."""
        ...

    async def stop_job(self, agent: str, job_id: str) -> Job:
        """Stop what an agent does for a job, and hand the job back to the queue, uncharged.

        Raises: NotFound where that agent holds no lease of that job.
        """
        ...

    async def drain(self, agent: str) -> AgentView:
        """Let an agent finish what it holds and exit; one that is kept by the bounds is replaced. Raises: NotFound."""
        ...

    async def enable_webhook(self, user_id: str, url: str) -> None:
        """Send a user's messages again to a URL that answered 410, with the courier's next look at the ledger."""
        ...

    async def create_key(self, key: ApiKey) -> None: ...

    async def revoke_key(self, key_id: str, now: datetime) -> ApiKey:
        """Raises: NotFound."""
        ...

    async def rotate_key(self, key_id: str, successor: ApiKey, now: datetime, overlap: timedelta) -> ApiKey:
        """Make `successor`, and let the old key end after `overlap`, both or neither; return the old one.

        Raises: NotFound; Conflict where the old key is over already.
        """
        ...

    async def note_keys_used(self, used: Mapping[str, datetime]) -> None:
        """Keep when keys were used, by key id."""
        ...

    async def metrics(self, replica: str, snapshot: Snapshot) -> Snapshot:
        """Take what a replica has counted; return the sum over the cluster."""
        ...

    async def alerts(self) -> Sequence[Alert]:
        """Return every rule with its state, in the files' order."""
        ...

    async def ready(self) -> bool:
        """Whether the ledger can be written and an agent is online."""
        ...


class LogReader(Protocol):
    """The log files of all nodes, seen by the API."""

    async def read(self, wanted: Wanted, lines_max: int) -> ClusterLines:
        """Return the newest lines that are wanted, oldest first. Raises: Unavailable."""
        ...


class AgentPool(Protocol):
    """The agents, seen by the scheduler. Calls may fail or be lost; the next report tells the truth."""

    async def assign(self, agent: str, orders: Sequence[Order]) -> None: ...

    async def revoke(self, agent: str, lease_ids: Sequence[str]) -> None: ...

    async def trim(self, agent: str, orders: Sequence[TrimOrder]) -> None: ...

    async def add(self, agent: str) -> None:
        """Start the agent of that name unless it exists."""
        ...

    async def drain(self, agent: str) -> None:
        """Ask the agent to finish what it holds and to exit."""
        ...

    async def withdraw(self, agent: str) -> None:
        """Give up an agent that does not report: one that was added and is not there yet, or one that hangs."""
        ...

    async def names(self) -> Sequence[str]:
        """Return the names of agents that exist or are being started."""
        ...


class Reports(Protocol):
    """The scheduler, seen by an agent."""

    async def report(self, report: AgentReport) -> ReportReply:
        """Raises: Unavailable; the same report may then be sent again."""
        ...
