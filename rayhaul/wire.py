"""The JSON shapes of the HTTP API, shared by server and client.

camelCase outside, snake case inside; times are RFC 3339 UTC with milliseconds. Requests refuse unknown fields;
responses take them, so that an old client reads a newer server. Domain values are never serialised; serve_app maps.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

from rayhaul import notebook
from rayhaul.job import JobStatus, Priority


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds.

    >>> timestamp(datetime(2026, 1, 2, 3, 4, 5, 678901, UTC))
    '2026-01-02T03:04:05.678Z'
    """
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Timestamp = Annotated[datetime, PlainSerializer(timestamp, return_type=str, when_used="json")]


class _Request(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_alias=True, validate_by_name=False, extra="forbid")


class _Response(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_alias=True, validate_by_name=True, extra="ignore", frozen=True
    )


def _as_whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


#: 5.0 is an integer too (JSON Schema, Validation 6.1.1), as some languages write all their numbers.
_Whole = Annotated[int, BeforeValidator(_as_whole)]

#: What a generator of clients or tests should know of a URL; the rest is the guard's to say.
_URI: dict[str, Any] = {"format": "uri"}


class JobRequest(_Request):
    """A job, asked for: only `url` is needed."""

    url: str = Field(
        min_length=1,
        max_length=8192,
        description="Of a kind that the cluster reads; user info in it is sent to the source.",
        json_schema_extra=_URI,
    )
    mirrors: list[Annotated[str, Field(min_length=1, max_length=8192, json_schema_extra=_URI)]] = Field(
        default=[],
        max_length=16,
        description="Other places where the file may be had; read from where they are shown to have the same one.",
    )
    key: str | None = Field(None, min_length=1, max_length=1024, description="Object key wanted in the bucket.")
    filename: str | None = Field(
        None, min_length=1, max_length=255, description="Name the file is delivered under; empty: what the source says."
    )
    headers: dict[str, str] = Field(default={}, max_length=64, description="Sent to the source; never shown again.")
    checksum: str | None = Field(None, description="`sha256:hex`, `md5:hex` or `crc64nvme:base64`.")
    priority: Priority = Field(Priority.NORMAL, description="High, normal and low ones start as 16 to 4 to 1.")
    tags: dict[str, str] = Field(default={}, max_length=32, description="Yours, to find jobs by.")
    webhook: str | None = Field(None, max_length=8192, description="URL that is told how the job ended.")
    connections: _Whole = Field(8, ge=1, le=64, description="To the source at once, at most.")
    bandwidth_bytes_per_second: _Whole | None = Field(
        None, ge=1, description="The most that all agents together read for it; empty: no limit."
    )
    not_before: datetime | None = Field(None, description="The download begins no earlier; RFC 3339 with its offset.")
    size_bytes_max: _Whole | None = Field(None, ge=0, description="A larger file is refused; empty: no limit.")
    dedupe: bool = Field(
        default=False, description="Copy the file within the bucket, where a completed job of yours has brought it."
    )
    refresh_webhook: str | None = Field(
        None, max_length=8192, description="URL that is asked for a fresh link when the source's has expired."
    )


class BatchRequest(_Request):
    """Many jobs, asked for at once: all of them or none."""

    #: The most is a setting (`api.batch_jobs_max`), checked by the route.
    jobs: list[JobRequest] = Field(min_length=1, description="At most 10,000, where nothing else is set.")


class Destination(_Response):
    """Where the object comes to stand; its key is known once the metadata is."""

    bucket: str
    key: str | None


class MetadataView(_Response):
    """What the source says of the file, at the last look."""

    size_bytes: int | None
    content_type: str | None
    etag: str | None
    last_modified: str | None
    rangeable: bool
    filename: str
    final_url: str
    fetch_ms: int


class ProgressView(_Response):
    """How far a job is; what is not known is null."""

    bytes: int
    bytes_total: int | None
    bytes_per_second: float
    eta_seconds: float | None
    parts_done: int
    parts_total: int | None


class ResultView(_Response):
    """The object that a completed job made."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    sha256: str | None = None
    #: Named by hand: the generator would write crc64Nvme.
    crc64nvme: str | None = Field(None, alias="crc64nvme")


class ErrorView(_Response):
    """Why a job failed, or what it met last; `fault` says whose it is."""

    code: str
    message: str
    fault: str
    retryable: bool


class JobView(_Response):
    """A job, answered. Secrets (user info, header values, query strings) never come back."""

    id: str
    status: JobStatus
    url: str
    filename: str | None
    priority: Priority
    tags: dict[str, str]
    destination: Destination
    metadata: MetadataView | None
    progress: ProgressView
    attempt: int
    requeues: int
    checksum: str | None
    result: ResultView | None
    error: ErrorView | None
    agents: list[str]
    correlation_id: str
    user_id: str
    created_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None
    next_attempt_at: Timestamp | None

    def _repr_html_(self) -> str:
        return notebook.job_html(self)


class JobPage(_Response):
    """Some jobs, newest first; `nextCursor` is null on the last page."""

    jobs: list[JobView]
    next_cursor: str | None

    def _repr_html_(self) -> str:
        return notebook.jobs_html(self.jobs, is_last=self.next_cursor is None)


class JobRef(_Response):
    """A job, by its id."""

    id: str


class BatchAccepted(_Response):
    """The jobs of a batch, in its order."""

    jobs: list[JobRef]


class EventView(_Response):
    """A row of the history, and the `data:` of a server-sent event. `seq` is None for progress."""

    seq: int | None
    ts: Timestamp
    event: str
    job_id: str
    user_id: str
    correlation_id: str
    status: JobStatus
    payload: dict[str, Any]


class EventPage(_Response):
    """The events of a job, oldest first."""

    events: list[EventView]


class DownloadLink(_Response):
    """A link to the object that needs no key, and until when it holds."""

    url: str
    expires_at: Timestamp


class ValidatorView(_Response):
    """By what the version of the source was told: all that it showed of these."""

    etag: str | None
    last_modified: str | None
    #: `algorithm:hex` of the whole file.
    digest: str | None


class ReceiptTimes(_Response):
    """When the job was asked for, began and was completed."""

    created_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None


class ReceiptSource(_Response):
    """One of a job's sources, and how many of the object's bytes came from it. No secrets."""

    url: str
    bytes: int


class ReceiptView(_Response):
    """What a completed job moved from where to where, and by what it was compared. No secrets."""

    job_id: str
    correlation_id: str
    source_url: str
    final_url: str | None
    validator: ValidatorView | None
    bucket: str
    key: str
    size_bytes: int
    etag: str
    #: Hex; null where neither the caller nor the source told one to compare with.
    sha256: str | None
    #: Base64 of the whole object; computed of the bytes as they came from the source.
    crc64nvme: str | None = Field(alias="crc64nvme")
    #: What the caller asked to compare with, and what the source told.
    checksum: str | None
    parts: int
    #: Which of the job's sources brought how much; empty where it has no mirrors.
    sources: list[ReceiptSource] = []
    #: The job whose object was copied within the bucket, where nothing was fetched (`dedupe`).
    copied_from: str | None = None
    times: ReceiptTimes
    #: All that moved bytes of it, in any attempt.
    agents: list[str]
    attempt: int
    requeues: int


class CapacityView(_Response):
    """An agent and how much of it is in use."""

    agent: str
    state: str
    capacity_pct: float
    slots: int
    slots_used: int
    bytes_per_second: float
    heartbeat_age_seconds: float
    leases: int
    #: Why it takes no leases though it reports.
    unfit: str | None = None


class AgentsPage(_Response):
    """All agents."""

    agents: list[CapacityView]


class ScalingView(_Response):
    """A decision about the number of agents, with what it was made from."""

    ts: Timestamp
    #: One of the words that the metric rayhaul_scaling_decisions_total has for its label.
    reason: str
    #: Agents that there should be.
    wanted: int
    online: int
    pending: int
    draining: int
    #: The average share of the agents in use; null where none was known.
    load_pct: float | None
    jobs_waiting: int


class ScalingPage(_Response):
    """The newest decisions about the number of agents, newest first."""

    decisions: list[ScalingView]


class HostView(_Response):
    """An origin host, as the cluster knows it."""

    #: `host:port`.
    host: str
    #: Open now, as the agents last said, of as many as the cluster may have there now.
    connections: int
    connections_max: int
    bytes_per_second: float
    #: No request begins before this; none: the host may be asked.
    backing_off_until: Timestamp | None
    #: Jobs that wait for one of its connections.
    jobs_waiting: int


class HostsPage(_Response):
    """The origin hosts in use."""

    hosts: list[HostView]


class LogsPage(_Response):
    """Log lines of all nodes, oldest first."""

    #: As rayhaul/log_schema.json has them.
    lines: list[dict[str, Any]]
    #: Whether there are older ones.
    is_cut: bool
    nodes_count: int
    #: Nodes whose lines are missing: they did not answer in time.
    nodes_silent: int


class StopRequest(_Request):
    """Names the job that an agent is to stop."""

    job_id: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="The job's id.")


class PriorityRequest(_Request):
    """Names the priority that is paused or resumed."""

    priority: Priority = Field(description="All jobs of it.")


class QueueReport(_Response):
    """What waits, by priority, and how long the oldest has."""

    depth: dict[str, int]
    oldest_age_seconds: float
    paused: list[str]
    dlq_depth: int
    #: Why no job is started at all.
    parked: str | None = None


class AlertView(_Response):
    """An alert rule, and how it stands by the scheduler's own readings."""

    name: str
    #: In the grammar of the alert file.
    condition: str
    window: str
    severity: Literal["P1", "P2", "P3"]
    #: The page that says what to do; none where the rule names none that there is.
    runbook: str | None
    action: Literal["auto-scale"] | None
    state: Literal["inactive", "pending", "firing"]
    #: Since when it is in this state; none: since the scheduler began.
    since: Timestamp | None
    #: What the condition's expression reads now; none where it is not known, or infinite.
    value: float | None


class AlertList(_Response):
    """All alert rules."""

    alerts: list[AlertView]


class SloView(_Response):
    """A service-level objective, and how it stands. Shares are 0 to 1."""

    name: str
    summary: str
    target: float
    #: Days.
    window: str
    #: Within the window; `bad` of them were not good.
    events: int
    bad: int
    #: None where nothing happened.
    ratio: float | None
    #: Share of the budget for bad events that is left; below 0 where more than all of it is spent.
    budget_left: float
    #: How many times faster than allowed the budget is spent, over the whole window.
    burn_rate: float | None
    #: The same over shorter windows: 5m, 30m, 1h, 2h, 6h, 1d, 3d.
    burn_rates: dict[str, float | None]
    #: The severity of the burn-rate alert that fires; none where none does.
    burning: Literal["P1", "P2", "P3"] | None


class SloList(_Response):
    """All objectives."""

    slos: list[SloView]


class DeadLetterView(JobView):
    """A job that ran out of deliveries."""

    dead_lettered_at: Timestamp | None


class DeadLetterPage(_Response):
    """Some dead letters, newest first; `nextCursor` is null on the last page."""

    jobs: list[DeadLetterView]
    next_cursor: str | None


class StripeView(_Response):
    """A run of parts, half-open: `firstPart <= number < endPart`."""

    first_part: int
    end_part: int


class LeaseReport(_Response):
    """A lease, as the scheduler sees it. What the agent tells is null before its first word."""

    lease_id: str
    agent: str
    epoch: int
    stripe: StripeView
    granted_at: Timestamp
    progress: ProgressView | None
    #: Since bytes last moved under this lease.
    idle_seconds: float | None
    doing: str | None


class AgentJobReport(_Response):
    """What an agent does for a job: at least one lease, for each a stripe."""

    agent: str
    job_id: str
    status: JobStatus
    leases: list[LeaseReport]


class SessionView(_Response):
    """A multipart upload."""

    session_id: str
    bucket: str
    key: str
    upload_id: str
    part_bytes: int
    size_bytes: int | None
    state: str
    created_at: Timestamp


class JobStateReport(_Response):
    """The live state of a job, for a person with a runbook."""

    job: JobView
    #: Of the newest lease; a report with a lower one is refused.
    epoch: int
    dead_lettered_at: Timestamp | None
    leases: list[LeaseReport]
    session: SessionView | None
    #: Parts of the session that the ledger knows.
    parts_done: int
    #: What was told last, even by a run that was given up since.
    last_progress: ProgressView | None
    #: Why the job is not running, in one sentence.
    waits_for: str | None


class SessionRequest(_Request):
    """Signs the page in."""

    key: str = Field(min_length=1, max_length=200, description="An API key.")


class SessionReport(_Response):
    """Who is signed in, and what the key may do."""

    user_id: str
    role: str
    scopes: list[str]


class DeliveryView(_Response):
    """One try to deliver a webhook message."""

    seq: int
    ts: Timestamp
    #: The `webhook-id` header.
    message_id: str
    job_id: str
    event: str
    #: Host and port.
    receiver: str
    attempt: int
    result: str
    #: Null where there was no answer.
    status: int | None
    duration_ms: int
    #: Null where it is not tried again.
    next_attempt_at: Timestamp | None


class DeliveryPage(_Response):
    """Some deliveries, newest first; `nextCursor` is null on the last page."""

    deliveries: list[DeliveryView]
    next_cursor: str | None


class WebhookTestRequest(_Request):
    """Names the receiver of a test message."""

    url: str = Field(min_length=1, max_length=8192, description="The receiver's URL.", json_schema_extra=_URI)


class WebhookTestReport(_Response):
    """What became of a test message."""

    message_id: str
    result: str
    #: Null where there was no answer.
    status: int | None
    duration_ms: int
    signed: bool


class KeyRequest(_Request):
    """A key, asked for."""

    user: str = Field(
        min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._@-]+$", description="Whose jobs it asks for and sees."
    )
    role: Literal["user", "operator"] = Field("user", description="An operator sees and steers everybody's.")
    name: str = Field("", max_length=100, description="To know it by in the list.")
    scopes: list[Literal["read", "write"]] = Field(
        default=["read", "write"], min_length=1, max_length=2, description="What it may do of what its role may."
    )
    expires_at: datetime | None = Field(None, description="It is refused from then on; empty: until it is revoked.")


class RotateRequest(_Request):
    """How a key is followed by its successor."""

    overlap_seconds: _Whole = Field(
        86_400, ge=0, le=30 * 86_400, description="How long the old key still holds beside the new one."
    )


class KeyView(_Response):
    """An API key without its secret."""

    id: str
    user_id: str
    role: str
    name: str
    created_at: Timestamp
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    scopes: list[str] = ["read", "write"]
    #: To within some minutes; written seldom.
    last_used_at: Timestamp | None = None


class KeyCreated(KeyView):
    """A new API key, and its text."""

    #: Shown this once.
    key: str


class KeysPage(_Response):
    """All keys."""

    keys: list[KeyView]


class Problem(_Response):
    """An error (RFC 9457), with the stable `code` and the correlation id."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    correlation_id: str
    instance: str | None = None
    #: Which fields were wrong, where that is known.
    errors: list[dict[str, Any]] | None = None
    #: Which rate limits are reached (draft-ietf-httpapi-ratelimit-headers-10, 5).
    violated_policies: list[str] | None = Field(None, alias="violated-policies")
