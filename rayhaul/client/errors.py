"""What the client raises.

    ClientError
    ├─ ApiError                      the API said no: code, status, detail, correlation_id
    │   ├─ BadRequest                invalid_request, idempotency_mismatch, egress_denied
    │   ├─ AccessDenied              unauthorized, forbidden
    │   ├─ NotFound                  not_found
    │   ├─ Conflict                  conflict, cancelled
    │   ├─ Throttled                 rate_limited, quota_exceeded
    │   ├─ SourceFailed              source_*, checksum_mismatch
    │   ├─ SinkFailed                sink_*, upload_lost
    │   └─ ServiceFailed             agent_lost, requeues_exhausted, internal
    ├─ ConnectionFailed              there was no answer, or none of Rayhaul's
    │   └─ NoCluster                 nobody said where the cluster is
    ├─ JobFailed · JobCancelled      how a job that was waited for ended
    ├─ WaitTimeout                   it did not end in time; it goes on
    └─ DownloadMismatch              the bytes that arrived are not the object

`code` is the API's stable word, so that `except ApiError as error: if error.code == "egress_denied"` goes on working.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rayhaul.wire import JobView, Problem


class ClientError(Exception):
    """Anything the client raises on purpose."""


class ApiError(ClientError):
    """The API refused, or failed. `code` is stable, `detail` is one sentence for people."""

    def __init__(
        self,
        code: str,
        status: int,
        detail: str,
        correlation_id: str | None = None,
        fields: tuple[Mapping[str, Any], ...] = (),
    ) -> None:
        # All of them, so that the error survives pickling.
        super().__init__(code, status, detail, correlation_id, fields)
        self.code = code
        self.status = status
        self.detail = detail
        self.correlation_id = correlation_id
        #: Which fields of the request were wrong, where that is known: `field` and `message` each.
        self.fields = fields

    def __str__(self) -> str:
        wrong = "; ".join(f"{field.get('field', '?')}: {field.get('message', '?')}" for field in self.fields)
        return f"{self.code}: {self.detail}{f' ({wrong})' if wrong else ''}"


class BadRequest(ApiError):
    """What was asked for is wrong; asking again changes nothing."""


class AccessDenied(ApiError):
    """The API key is missing, wrong, or may not do that."""


class NotFound(ApiError):
    """There is no such thing, or it is not yours."""


class Conflict(ApiError):
    """The job's state does not allow this."""


class Throttled(ApiError):
    """Too many requests, or a quota is used up."""


class SourceFailed(ApiError):
    """The site that is read from failed."""


class SinkFailed(ApiError):
    """The bucket failed."""


class ServiceFailed(ApiError):
    """The cluster failed."""


class ConnectionFailed(ClientError):
    """There was no answer from the cluster."""


class NoCluster(ConnectionFailed):
    """Nobody said where the cluster is."""


class JobFailed(ClientError):
    def __init__(self, job: JobView) -> None:
        super().__init__(job)
        self.job = job
        self.code = job.error.code if job.error else "internal"
        self.message = job.error.message if job.error else "The job failed without saying why."

    def __str__(self) -> str:
        return f"{self.job.id} failed: {self.code}: {self.message}"


class JobCancelled(ClientError):
    def __init__(self, job: JobView) -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        return f"{self.job.id} was cancelled"


class WaitTimeout(ClientError):
    """The job did not end in time. It goes on."""

    def __init__(self, job_id: str, timeout_s: float) -> None:
        super().__init__(job_id, timeout_s)
        self.job_id = job_id
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        goes = "they go on" if " " in self.job_id else "it goes on"
        return f"{self.job_id} did not end within {self.timeout_s:g} s; {goes}"


class DownloadMismatch(ClientError):
    """The bytes that arrived are not the object that was promised."""


_BY_CODE: Mapping[str, type[ApiError]] = {
    "invalid_request": BadRequest,
    "idempotency_mismatch": BadRequest,
    "egress_denied": BadRequest,
    "unauthorized": AccessDenied,
    "forbidden": AccessDenied,
    "not_found": NotFound,
    "conflict": Conflict,
    "cancelled": Conflict,
    "rate_limited": Throttled,
    "quota_exceeded": Throttled,
    "checksum_mismatch": SourceFailed,
    "upload_lost": SinkFailed,
    "agent_lost": ServiceFailed,
    "requeues_exhausted": ServiceFailed,
    "internal": ServiceFailed,
}

#: For codes newer than this client, and for answers that are no problem documents.
_BY_STATUS: Mapping[int, tuple[str, type[ApiError]]] = {
    401: ("unauthorized", AccessDenied),
    403: ("forbidden", AccessDenied),
    404: ("not_found", NotFound),
    409: ("conflict", Conflict),
    429: ("rate_limited", Throttled),
}


def _by_status(status: int) -> tuple[str, type[ApiError]]:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return ("internal", ServiceFailed) if status >= 500 else ("invalid_request", BadRequest)


def _by_code(code: str, status: int) -> type[ApiError]:
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code.startswith("source_"):
        return SourceFailed
    if code.startswith("sink_"):
        return SinkFailed
    return _by_status(status)[1]


def api_error(status: int, body: bytes, correlation_id: str | None) -> ApiError:
    """Return the error that an answer of 400 and above stands for, whether or not Rayhaul wrote it."""
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        code, kind = _by_status(status)
        return kind(code, status, f"The cluster, or something before it, answered HTTP {status}.", correlation_id)
    kind = _by_code(problem.code, status)
    return kind(problem.code, status, problem.detail, problem.correlation_id, tuple(problem.errors or ()))
