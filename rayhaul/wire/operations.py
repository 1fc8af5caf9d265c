"""What operators ask for: agents, hosts, scaling, the queue, a job's live state, logs, alerts and objectives."""

from typing import Any, Literal

from pydantic import Field

from rayhaul.job import JobStatus, Priority
from rayhaul.wire.base import RequestShape, ResponseShape, Timestamp
from rayhaul.wire.jobs import JobView, ProgressView


class CapacityView(ResponseShape):
    """An agent and how much of it is in use."""

    agent: str = Field(description="Its name.")
    state: str = Field(description="`online`, `unfit`, `draining` or `offline`.")
    capacity_pct: float = Field(description="Of its scarcest resource, in use; 0 to 100.")
    slots: int = Field(description="Leases that it can hold at once.")
    slots_used: int = Field(description="That it holds.")
    bytes_per_second: float = Field(description="That it moves.")
    heartbeat_age_seconds: float = Field(description="Since it last reported.")
    leases: int = Field(description="Given to it by the scheduler.")
    unfit: str | None = Field(None, description="Why it takes no leases though it reports.")


class AgentsPage(ResponseShape):
    """All agents."""

    agents: list[CapacityView] = Field(description="By name.")


class ScalingView(ResponseShape):
    """A decision about the number of agents, with what it was made from."""

    ts: Timestamp = Field(description="When it was made.")
    reason: str = Field(description="A word that the metric rayhaul_scaling_decisions_total has for its label.")
    wanted: int = Field(description="Agents that there should be.")
    online: int = Field(description="Agents that reported.")
    pending: int = Field(description="Agents that were asked for and had not come up.")
    draining: int = Field(description="Agents on their way out.")
    load_pct: float | None = Field(description="The average of the agents' capacity in use; null where none was known.")
    jobs_waiting: int = Field(description="For an agent.")


class ScalingPage(ResponseShape):
    """The newest decisions about the number of agents."""

    decisions: list[ScalingView] = Field(description="Newest first.")


class HostView(ResponseShape):
    """An origin host, as the cluster knows it."""

    host: str = Field(description="`host:port`.")
    connections: int = Field(description="Open now, as the agents last said.")
    connections_max: int = Field(description="That the cluster may have there now.")
    bytes_per_second: float = Field(description="That come from it.")
    backing_off_until: Timestamp | None = Field(description="No request begins before; null: it may be asked.")
    jobs_waiting: int = Field(description="For one of its connections.")


class HostsPage(ResponseShape):
    """The origin hosts in use."""

    hosts: list[HostView] = Field(description="By name.")


class LogsPage(ResponseShape):
    """Log lines of all nodes."""

    lines: list[dict[str, Any]] = Field(description="Oldest first; each as the log schema has it.")
    is_cut: bool = Field(description="Whether there are older ones.")
    nodes_count: int = Field(description="Nodes that were asked.")
    nodes_silent: int = Field(description="Nodes whose lines are missing: they did not answer in time.")


class StopRequest(RequestShape):
    """Names the job that an agent is to stop."""

    job_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="The job's id.")


class PriorityRequest(RequestShape):
    """Names the priority that is paused or resumed."""

    priority: Priority = Field(description="All jobs of it.")


class QueueReport(ResponseShape):
    """What waits."""

    depth: dict[str, int] = Field(description="Jobs that wait, by priority.")
    oldest_age_seconds: float = Field(description="How long the oldest of them has.")
    paused: list[str] = Field(description="Priorities that are held back.")
    dlq_depth: int = Field(description="Dead letters.")
    parked: str | None = Field(None, description="Why no job is started at all.")


class AlertView(ResponseShape):
    """An alert rule, and how it stands by the scheduler's own readings."""

    name: str = Field(description="The rule's name.")
    condition: str = Field(description="In the grammar of the alert file.")
    window: str = Field(description="For how long it must hold.")
    severity: Literal["P1", "P2", "P3"] = Field(description="P1 wakes somebody.")
    runbook: str | None = Field(description="The page that says what to do; null where there is none.")
    action: Literal["auto-scale"] | None = Field(description="What the cluster does by itself.")
    state: Literal["inactive", "pending", "firing"] = Field(description="Pending: it holds, not long enough yet.")
    since: Timestamp | None = Field(description="In this state; null: since the scheduler began.")
    value: float | None = Field(
        description="What the condition's expression reads now; null where it is not known, or infinite."
    )


class AlertList(ResponseShape):
    """All alert rules."""

    alerts: list[AlertView] = Field(description="In the order of the file.")


class SloView(ResponseShape):
    """A service-level objective, and how it stands. Shares are 0 to 1."""

    name: str = Field(description="The objective's name.")
    summary: str = Field(description="In one sentence.")
    target: float = Field(description="Share of events that must be good.")
    window: str = Field(description="What it is counted over, in days: `28d`.")
    events: int = Field(description="Within the window.")
    bad: int = Field(description="Of them, not good.")
    ratio: float | None = Field(description="Share of good ones; null where nothing happened.")
    budget_left: float = Field(
        description="Share of the budget for bad events that is left; below 0 where more than all of it is spent."
    )
    burn_rate: float | None = Field(
        description="How many times faster than allowed the budget is spent, over the whole window."
    )
    burn_rates: dict[str, float | None] = Field(description="Over shorter windows: 5m, 30m, 1h, 2h, 6h, 1d, 3d.")
    burning: Literal["P1", "P2", "P3"] | None = Field(
        description="The severity of the burn-rate alert that fires; null where none does."
    )


class SloList(ResponseShape):
    """All objectives."""

    slos: list[SloView] = Field(description="In the order of the document.")


class StripeView(ResponseShape):
    """A run of parts, half-open: `firstPart <= number < endPart`."""

    first_part: int = Field(description="Its first part's number.")
    end_part: int = Field(description="The number after its last one.")


class LeaseReport(ResponseShape):
    """A lease, as the scheduler sees it."""

    lease_id: str = Field(description="The lease's id.")
    agent: str = Field(description="That holds it.")
    epoch: int = Field(description="Of two leases for one stripe, the higher one counts.")
    stripe: StripeView = Field(description="The parts that it is for.")
    granted_at: Timestamp = Field(description="When it was given.")
    progress: ProgressView | None = Field(description="Null before the agent's first word.")
    idle_seconds: float | None = Field(description="Since bytes last moved under this lease.")
    doing: str | None = Field(description="What the agent says that it does.")


class AgentJobReport(ResponseShape):
    """What an agent does for a job."""

    agent: str = Field(description="Its name.")
    job_id: str = Field(description="The job's id.")
    status: JobStatus = Field(description="The job's.")
    leases: list[LeaseReport] = Field(description="At least one; one a stripe.")


class SessionView(ResponseShape):
    """A multipart upload."""

    session_id: str = Field(description="Its id in the ledger.")
    bucket: str = Field(description="The bucket.")
    key: str = Field(description="The object's key.")
    upload_id: str = Field(description="Its id in the store.")
    part_bytes: int = Field(description="Length of every part but the last.")
    size_bytes: int | None = Field(description="The file's length; null where the source does not tell it.")
    state: str = Field(description="`open`, `completed`, `aborting` or `aborted`.")
    created_at: Timestamp = Field(description="When it was begun.")


class JobStateReport(ResponseShape):
    """The live state of a job, for a person with a runbook."""

    job: JobView = Field(description="The job.")
    epoch: int = Field(description="Of the newest lease; a report with a lower one is refused.")
    dead_lettered_at: Timestamp | None = Field(description="When it was put aside; null where it was not.")
    leases: list[LeaseReport] = Field(description="Those that are out now.")
    session: SessionView | None = Field(description="The multipart upload in use.")
    parts_done: int = Field(description="Parts of the session that the ledger knows.")
    last_progress: ProgressView | None = Field(description="What was told last, even by a run that was given up since.")
    waits_for: str | None = Field(description="Why the job is not running, in one sentence.")
