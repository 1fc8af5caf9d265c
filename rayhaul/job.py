"""What a job is, the states it passes through and the events that move it.

Laws of this file:
1. A job's status changes only along TRANSITIONS, and each change is one event.
2. COMPLETED has no way out; FAILED and CANCELLED only by an explicit requeue (retry, replay).
3. Values are frozen; `Job.after` makes the next one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from rayhaul.errors import Conflict, Failure

#: Places of a job's file besides its URL: those that the caller named, and those that a Metalink document does.
MIRRORS_MAX = 16


class JobStatus(StrEnum):
    """Where a job is; completed, failed and cancelled are final."""

    #: Waits for metadata, for a free slot, or for its next attempt (`next_attempt_at`).
    QUEUED = "queued"
    #: At least one lease moves its bytes.
    DOWNLOADING = "downloading"
    #: All parts are in the bucket; the object is being completed and verified.
    UPLOADING = "uploading"
    #: Stopped by its owner, to go on later from where it was.
    PAUSED = "paused"
    #: One verified object stands in the bucket.
    COMPLETED = "completed"
    #: Given up; `error` says why.
    FAILED = "failed"
    #: Stopped by its owner, for good.
    CANCELLED = "cancelled"


class JobEvent(StrEnum):
    CREATED = "created"
    METADATA = "metadata"
    STARTED = "started"
    #: Live only: sent to listeners, never written to the ledger.
    PROGRESS = "progress"
    UPLOADING = "uploading"
    COMPLETED = "completed"
    FAILED = "failed"
    REQUEUED = "requeued"
    PAUSED = "paused"
    RESUMED = "resumed"
    CANCELLED = "cancelled"
    DEADLETTERED = "deadlettered"


class Priority(StrEnum):
    """Which jobs start sooner: high, normal and low ones as 16 to 4 to 1."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


_S, _E = JobStatus, JobEvent

TRANSITIONS: Mapping[JobStatus, Mapping[JobEvent, JobStatus]] = {
    _S.QUEUED: {
        _E.METADATA: _S.QUEUED,
        _E.STARTED: _S.DOWNLOADING,
        _E.REQUEUED: _S.QUEUED,
        _E.PAUSED: _S.PAUSED,
        _E.FAILED: _S.FAILED,
        _E.CANCELLED: _S.CANCELLED,
    },
    _S.DOWNLOADING: {
        #: Another agent has joined, with a stripe of its own.
        _E.STARTED: _S.DOWNLOADING,
        _E.UPLOADING: _S.UPLOADING,
        _E.REQUEUED: _S.QUEUED,
        _E.PAUSED: _S.PAUSED,
        _E.FAILED: _S.FAILED,
        _E.CANCELLED: _S.CANCELLED,
    },
    _S.UPLOADING: {
        _E.COMPLETED: _S.COMPLETED,
        _E.REQUEUED: _S.QUEUED,
        _E.FAILED: _S.FAILED,
    },
    _S.PAUSED: {_E.RESUMED: _S.QUEUED, _E.CANCELLED: _S.CANCELLED},
    _S.FAILED: {_E.DEADLETTERED: _S.FAILED, _E.REQUEUED: _S.QUEUED},
    _S.CANCELLED: {_E.REQUEUED: _S.QUEUED},
    _S.COMPLETED: {},
}

FINAL = frozenset({_S.COMPLETED, _S.FAILED, _S.CANCELLED})


def next_status(status: JobStatus, event: JobEvent) -> JobStatus:
    """Return the status after `event`.

    Raises: Conflict where the table has no such arrow.
    """
    try:
        return TRANSITIONS[status][event]
    except KeyError:
        raise Conflict(f"a {status} job can not be {event}") from None


def utc(timestamp_s: float) -> datetime:
    """Return a Unix time as an aware datetime, cut to whole milliseconds (what the ledger keeps)."""
    return datetime.fromtimestamp(int(timestamp_s * 1000) / 1000, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What was asked for. Field names follow the wire, in snake case."""

    url: str
    mirrors: tuple[str, ...] = ()
    key: str | None = None
    filename: str | None = None
    #: Request headers for the source; values are secrets and never come back.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: `algorithm:hex` (base64 for crc64nvme), algorithm one of sha256, md5, crc64nvme.
    checksum: str | None = None
    #: The receipt tells the SHA-256 of the bytes, whatever they are compared with.
    compute_sha256: bool = False
    priority: Priority = Priority.NORMAL
    tags: Mapping[str, str] = field(default_factory=dict)
    webhook: str | None = None
    connections: int = 8
    bandwidth_bytes_per_s: int | None = None
    not_before: datetime | None = None
    size_bytes_max: int | None = None
    dedupe: bool = False
    refresh_webhook: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What the probe learned about the file; it pins the version that all ranges must show."""

    #: None where the source does not say.
    size_bytes: int | None
    content_type: str | None
    etag: str | None
    #: The Last-Modified header as sent, where it tells versions apart (RFC 9110 8.8.2).
    last_modified: str | None
    rangeable: bool
    filename: str
    final_url: str
    fetch_ms: int
    #: `algorithm:hex` of the whole file, as the source tells it; algorithm sha256, sha512 or md5.
    digest: str | None = None
    #: CRC-32C of the whole file, as the source tells it: base64 of 4 big-endian bytes.
    crc32c: str | None = None
    #: What the URL serves in place of the file: the SHA-256 in hex of a Metalink document, or the info-hash (`urn:bt…`)
    #: of a .torrent; None: it serves the file.
    described_by: str | None = None
    #: Which of that document's URLs this is of, the best being 0.
    described_place: int = 0
    #: Hosts of its other URLs, which bytes may come from as well.
    other_hosts: tuple[str, ...] = ()
    #: Which of the job's sources said so: 0 is its URL, n its n-th mirror.
    source: int = 0

    @property
    def has_version(self) -> bool:
        """Whether ranges can be told to be of one version. Without that, or a checksum, they are not combined.

        Source: RFC 9110 15.3.7.3; a weak ETag does not promise the same bytes.
        """
        return (self.etag is not None and not self.etag.startswith(("W/", "w/"))) or self.last_modified is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """The one published object. `etag` is unquoted; `crc64nvme` is base64 of 8 big-endian bytes, as S3 writes it."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    sha256: str | None = None
    crc64nvme: str | None = None
    parts_count: int = 1
    #: How many of its bytes came from which of the job's sources; empty where the job has no mirrors.
    sources: tuple[tuple[int, int], ...] = ()
    #: The job whose object was copied, where nothing was fetched.
    copied_from: str | None = None
    #: What its bytes were compared with before it was published, `algorithm:value`.
    checksum: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is, now. Not durable: the parts in the ledger are."""

    bytes_done: int = 0
    bytes_total: int | None = None
    bytes_per_s: float = 0.0
    eta_s: float | None = None
    parts_done: int = 0
    parts_total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the ledger holds it."""

    id: str
    user_id: str
    correlation_id: str
    spec: JobSpec
    created_at: datetime
    status: JobStatus = JobStatus.QUEUED
    #: Object key in the sink; fixed at submit when the caller named it, else when the file name is known.
    key: str | None = None
    #: W3C traceparent of the request that created the job.
    traceparent: str | None = None
    metadata: Metadata | None = None
    result: JobResult | None = None
    error: Failure | None = None
    #: Runs begun so far.
    attempt: int = 0
    #: Times it was handed back because an agent was lost or got stuck.
    requeues: int = 0
    #: Of the newest lease; a report with a lower one is stale.
    epoch: int = 0
    #: Counts the row's changes; the ledger refuses a write that skips one.
    version: int = 0
    #: Agents that hold or held its leases in this attempt.
    agents: tuple[str, ...] = ()
    started_at: datetime | None = None
    completed_at: datetime | None = None
    next_attempt_at: datetime | None = None
    #: When it ran out of deliveries; None while it is not in the dead-letter queue.
    dead_lettered_at: datetime | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    def after(self, event: JobEvent, **changes: Any) -> Self:
        """Return the job that `event` leads to, with `changes` to its other fields.

        Raises: Conflict where the table has no such arrow.
        """
        return replace(self, status=next_status(self.status, event), **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One row of a job's history: at once audit, SSE message and outbox."""

    #: Given by the ledger, growing with each commit; 0 before.
    seq: int = 0
    ts: datetime
    event: JobEvent
    job_id: str
    user_id: str
    correlation_id: str
    status: JobStatus
    #: JSON; always has `correlationId`.
    payload: Mapping[str, Any]
