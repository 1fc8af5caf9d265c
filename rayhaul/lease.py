"""What agents hold and are told to do: sessions, parts and leases, and the orders that name them.

Laws of this file:
1. Every value is frozen and picklable; nothing here knows Ray, HTTP or S3.
2. A lease is an agent's right to a stripe, with an epoch. What is said under it is in report.py.
3. Part numbers run from 1 (S3); a stripe is half-open: `first_part <= number < end_part`.
4. Only a lease that covers the whole job, and was never shared, completes the upload (ADR 7).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rayhaul.job import Metadata
from rayhaul.origins import HostGrant, Source
from rayhaul.rates import RateGrant


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
    #: Under whose lease it was reported, as the scheduler notes it; None until then, and of ledgers that did not tell.
    agent: str | None = None


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
