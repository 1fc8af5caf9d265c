"""Every failure Rayhaul knows, by whose fault it is.

    RayhaulError                     code, http_status, fault, retryable
    ├─ RequestError                  fault: caller; 4xx; never retried
    │   ├─ InvalidRequest · Unauthorized · Forbidden · NotFound
    │   ├─ Conflict · IdempotencyMismatch
    │   ├─ RateLimited · QuotaExceeded
    │   ├─ EgressDenied              the URL leads where nobody may fetch
    │   └─ Cancelled                 a user stopped it
    ├─ SourceError                   fault: source, the site we read from
    │   ├─ SourceUnreachable* · SourceTimeout* · SourceStalled* · SourceTruncated*
    │   ├─ SourceRefused · SourceNotFound · SourceTooLarge
    │   ├─ SourceBusy* (429, 503) · SourceFailed* (5xx)
    │   │  └─ HostFull*              our own budget of its host is used up: the job waits, and no attempt is charged
    │   └─ SourceChanged*            validator or length differs: a new session starts from byte 0
    ├─ ChecksumMismatch*             fault: source; what arrived is not what was promised
    ├─ SinkError                     fault: sink, the bucket we write to
    │   └─ SinkBusy* · SinkRefused · UploadLost*
    └─ ServiceError                  fault: us
        ├─ AgentLost* · RequeuesExhausted · LeaseLost · Unavailable* · Internal*
        └─ AgentFull*                one agent's own: another one may do it, and no attempt is charged

    * = retryable

`code` is the one stable word used by the API's problems, events, metrics, runbooks and exit codes. Errors cross process
borders as a `Failure` value, never as a pickled exception.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Fault(StrEnum):
    CALLER = "caller"
    SOURCE = "source"
    SINK = "sink"
    US = "us"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as a value: what an agent reports and the ledger keeps."""

    code: str
    message: str
    fault: Fault
    retryable: bool
    #: What the other side asked us to wait, in seconds; None where it said nothing.
    retry_after_s: float | None = None
    #: It befell the agent that tells it, and says nothing of the job: another agent may do it.
    of_agent: bool = False
    #: Nobody asked: the host has no connection for the job until others are done with theirs.
    of_host: bool = False

    @property
    def is_of_job(self) -> bool:
        """Whether it says anything of the job; else no attempt is charged."""
        return not (self.of_agent or self.of_host)


class RayhaulError(Exception):
    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    fault: ClassVar[Fault] = Fault.US
    retryable: ClassVar[bool] = False
    of_agent: ClassVar[bool] = False
    of_host: ClassVar[bool] = False

    def __init__(self, message: str = "", *, retry_after_s: float | None = None, status: int | None = None) -> None:
        self.message = message or (type(self).__doc__ or self.code).strip().splitlines()[0]
        self.retry_after_s = retry_after_s
        #: The HTTP status behind it, where what follows depends on that.
        self.status = status
        super().__init__(self.message)

    def failure(self) -> Failure:
        return Failure(
            code=self.code,
            message=self.message,
            fault=self.fault,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
            of_agent=self.of_agent,
            of_host=self.of_host,
        )


class RequestError(RayhaulError):
    http_status = 400
    fault = Fault.CALLER


class InvalidRequest(RequestError):
    """The request cannot be understood."""

    code = "invalid_request"
    http_status = 422


class Unauthorized(RequestError):
    """The API key is missing, wrong, expired or revoked."""

    code = "unauthorized"
    http_status = 401


class Forbidden(RequestError):
    """The API key may not do that."""

    code = "forbidden"
    http_status = 403


class NotFound(RequestError):
    """There is no such thing, or it is not yours."""

    code = "not_found"
    http_status = 404


class Conflict(RequestError):
    """The job's state does not allow this."""

    code = "conflict"
    http_status = 409


class IdempotencyMismatch(RequestError):
    """The Idempotency-Key was used with another body."""

    code = "idempotency_mismatch"
    http_status = 422


class RateLimited(RequestError):
    """Too many requests; wait and try again."""

    code = "rate_limited"
    http_status = 429


class QuotaExceeded(RequestError):
    """A limit of this user is reached."""

    code = "quota_exceeded"
    http_status = 429


class EgressDenied(RequestError):
    """The URL leads to an address that may not be fetched."""

    code = "egress_denied"
    http_status = 422


class Cancelled(RequestError):
    """The job was cancelled."""

    code = "cancelled"
    http_status = 409


class SourceError(RayhaulError):
    http_status = 502
    fault = Fault.SOURCE


class SourceUnreachable(SourceError):
    """The source cannot be reached (name, connection or TLS)."""

    code = "source_unreachable"
    retryable = True


class SourceTimeout(SourceError):
    """The source did not answer in time."""

    code = "source_timeout"
    http_status = 504
    retryable = True


class SourceStalled(SourceError):
    """The source stopped sending, or sends too slowly."""

    code = "source_stalled"
    retryable = True


class SourceRefused(SourceError):
    """The source refused the request."""

    code = "source_refused"


class SourceNotFound(SourceError):
    """The source has no such file."""

    code = "source_not_found"


class SourceBusy(SourceError):
    """The source asks to slow down."""

    code = "source_busy"
    retryable = True
    #: `host:port` of who asks for it, where that may be another one than was to be asked: redirects lead to others.
    host: str | None = None


class HostFull(SourceBusy):
    """The source's host is not to be asked by more of us now."""

    of_host = True


class SourceFailed(SourceError):
    """The source failed on its side."""

    code = "source_failed"
    retryable = True


class SourceTruncated(SourceError):
    """The source ended the body before its announced length."""

    code = "source_truncated"
    retryable = True


class SourceChanged(SourceError):
    """The file changed at the source while it was being read."""

    code = "source_changed"
    retryable = True


class SourceTooLarge(SourceError):
    """The file is larger than this job or this store allows."""

    code = "source_too_large"
    http_status = 413


class ChecksumMismatch(SourceError):
    """The bytes do not have the checksum that was promised."""

    code = "checksum_mismatch"
    retryable = True


class SinkError(RayhaulError):
    http_status = 502
    fault = Fault.SINK


class SinkBusy(SinkError):
    """The bucket is busy or out of reach for the moment."""

    code = "sink_busy"
    retryable = True


class SinkRefused(SinkError):
    """The bucket refuses us (credentials, permissions, no such bucket)."""

    code = "sink_refused"


class UploadLost(SinkError):
    """The multipart upload no longer exists; a new session is needed."""

    code = "upload_lost"
    retryable = True


class ServiceError(RayhaulError):
    pass


class AgentLost(ServiceError):
    """The agent that held the job disappeared."""

    code = "agent_lost"
    retryable = True


class RequeuesExhausted(ServiceError):
    """The job was handed back to the queue too many times."""

    code = "requeues_exhausted"


class LeaseLost(ServiceError):
    """Another lease owns the job now: stop, write nothing."""

    code = "agent_lost"
    retryable = True


class Unavailable(ServiceError):
    """The control plane cannot be reached for the moment; try again."""

    code = "internal"
    http_status = 503
    retryable = True


class AgentFull(ServiceError):
    """An agent has no room for the job now."""

    code = "internal"
    retryable = True
    of_agent = True


class Internal(ServiceError):
    """Something on our side went wrong."""

    code = "internal"
    retryable = True


def faults() -> Mapping[str, Fault]:
    """Return code -> whose fault, of every error that has a code of its own."""
    return {kind.code: kind.fault for kind in kinds() if "code" in vars(kind)}


def codes() -> frozenset[str]:
    """Return every code that a Rayhaul error can carry."""
    return frozenset(kind.code for kind in kinds())


def kinds() -> Iterator[type[RayhaulError]]:
    """Yield every class of the tree."""
    pending: list[type[RayhaulError]] = [RayhaulError]
    while pending:
        kind = pending.pop()
        yield kind
        pending.extend(kind.__subclasses__())
