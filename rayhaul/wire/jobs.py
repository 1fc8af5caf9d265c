"""Jobs: how they are asked for, and what is told of them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from rayhaul import notebook
from rayhaul.job import MIRRORS_MAX, JobStatus, Priority
from rayhaul.wire.base import URI, RequestShape, ResponseShape, Timestamp, Whole


class JobRequest(RequestShape):
    """A job, asked for: only `url` is needed."""

    url: str = Field(
        min_length=1,
        max_length=8192,
        description="Of a kind that the cluster reads; user info in it is sent to the source.",
        json_schema_extra=URI,
    )
    mirrors: list[Annotated[str, Field(min_length=1, max_length=8192, json_schema_extra=URI)]] = Field(
        default=[],
        max_length=MIRRORS_MAX,
        description="Other places where the file may be had; read from where they are shown to have the same one.",
    )
    key: str | None = Field(None, min_length=1, max_length=1024, description="Object key wanted in the bucket.")
    filename: str | None = Field(
        None, min_length=1, max_length=255, description="Name the file is delivered under; empty: what the source says."
    )
    headers: dict[str, str] = Field(default={}, max_length=64, description="Sent to the source; never shown again.")
    checksum: str | None = Field(
        None, description="`sha256:hex`, `sha512:hex`, `md5:hex`, `crc64nvme:base64` or `crc32c:base64`."
    )
    compute_sha256: bool = Field(
        default=False,
        description="Have the SHA-256 in the receipt, also where there is none to compare with. It needs the bytes in "
        "order, so one agent moves the file alone.",
    )
    priority: Priority = Field(Priority.NORMAL, description="High, normal and low ones start as 16 to 4 to 1.")
    tags: dict[str, str] = Field(default={}, max_length=32, description="Yours, to find jobs by.")
    webhook: str | None = Field(None, max_length=8192, description="URL that is told how the job ended.")
    connections: Whole = Field(8, ge=1, le=64, description="To the source at once, at most.")
    bandwidth_bytes_per_second: Whole | None = Field(
        None, ge=1, description="The most that all agents together read for it; empty: no limit."
    )
    not_before: datetime | None = Field(None, description="The download begins no earlier; RFC 3339 with its offset.")
    size_bytes_max: Whole | None = Field(None, ge=0, description="A larger file is refused; empty: no limit.")
    dedupe: bool = Field(
        default=False, description="Copy the file within the bucket, where a completed job of yours has brought it."
    )
    refresh_webhook: str | None = Field(
        None, max_length=8192, description="URL that is asked for a fresh link when the source's has expired."
    )


class BatchRequest(RequestShape):
    """Many jobs, asked for at once: all of them or none."""

    #: The most is a setting (`api.batch_jobs_max`), checked by the route.
    jobs: list[JobRequest] = Field(min_length=1, description="At most 10,000, where nothing else is set.")


class Destination(ResponseShape):
    """Where the object comes to stand."""

    bucket: str = Field(description="The bucket of the cluster.")
    key: str | None = Field(description="The object's key; null until the metadata is known.")


class MetadataView(ResponseShape):
    """What the source says of the file, at the last look."""

    size_bytes: int | None = Field(description="Null where the source does not tell it.")
    content_type: str | None = Field(description="As the source has it.")
    etag: str | None = Field(description="As the source has it, quotes and W/ included.")
    last_modified: str | None = Field(description="As the source has it: an HTTP date.")
    rangeable: bool = Field(description="Whether parts of the file can be asked for.")
    filename: str = Field(description="Name that the file is delivered under.")
    final_url: str = Field(description="Where redirects led, without its query string.")
    fetch_ms: int = Field(description="What the look took, in milliseconds.")


class ProgressView(ResponseShape):
    """How far a job is; what is not known is null."""

    bytes: int = Field(description="That are in the bucket or on their way into it.")
    bytes_total: int | None = Field(description="The file's length.")
    bytes_per_second: float = Field(description="Lately, over all agents that move it.")
    eta_seconds: float | None = Field(description="Until it is done, at that pace.")
    parts_done: int = Field(description="Parts that the store has answered for.")
    parts_total: int | None = Field(description="Parts that the file is planned in.")


class ResultView(ResponseShape):
    """The object that a completed job made."""

    bucket: str = Field(description="The bucket that it is in.")
    key: str = Field(description="Its key there.")
    size_bytes: int = Field(description="Its length.")
    etag: str = Field(description="As the store has it.")
    sha256: str | None = Field(
        None, description="Hex; null where nobody told one to compare with, or asked for it (`computeSha256`)."
    )
    #: Named by hand: the generator would write crc64Nvme.
    crc64nvme: str | None = Field(None, alias="crc64nvme", description="Base64, of the whole object.")


class ErrorView(ResponseShape):
    """Why a job failed, or what it met last."""

    code: str = Field(description="One of the stable error codes.")
    message: str = Field(description="For people; may change.")
    fault: str = Field(description="Whose it is: `caller`, `source`, `sink` or `us`.")
    retryable: bool = Field(description="Whether another try may go better.")


class JobView(ResponseShape):
    """A job, answered. Secrets (user info, header values, query strings) never come back."""

    id: str = Field(description="The job's id.")
    status: JobStatus = Field(description="Where it stands; completed, failed and cancelled are final.")
    url: str = Field(description="The source that was asked for, without secrets.")
    filename: str | None = Field(description="Name that the file is delivered under; null until it is known.")
    priority: Priority = Field(description="As it was asked for.")
    tags: dict[str, str] = Field(description="As they were given.")
    destination: Destination = Field(description="Bucket and key, as far as they are known.")
    metadata: MetadataView | None = Field(description="Null until the source was looked at.")
    progress: ProgressView = Field(description="How far it is.")
    attempt: int = Field(description="Tries so far, this one included; 0 before the first.")
    requeues: int = Field(description="How often it was taken back from an agent that was lost or silent.")
    checksum: str | None = Field(description="What the caller asked to compare with.")
    result: ResultView | None = Field(description="Of a completed job.")
    error: ErrorView | None = Field(description="Why it failed, or what the last try met.")
    agents: list[str] = Field(description="Those that move it now, or moved it last.")
    correlation_id: str = Field(description="By which its lines in the logs are found.")
    user_id: str = Field(description="Whose job it is.")
    created_at: Timestamp = Field(description="When it was asked for.")
    started_at: Timestamp | None = Field(description="When an agent first took it.")
    completed_at: Timestamp | None = Field(description="When it became final.")
    next_attempt_at: Timestamp | None = Field(description="It is not begun before; null: as soon as there is room.")

    def _repr_html_(self) -> str:
        return notebook.job_html(self)


class JobPage(ResponseShape):
    """Some jobs, newest first."""

    jobs: list[JobView] = Field(description="Newest first.")
    next_cursor: str | None = Field(description="For `cursor` of the next page; null on the last one.")

    def _repr_html_(self) -> str:
        return notebook.jobs_html(self.jobs, is_last=self.next_cursor is None)


class JobRef(ResponseShape):
    """A job, by its id."""

    id: str = Field(description="The job's id.")


class BatchAccepted(ResponseShape):
    """The jobs of a batch."""

    # Ids are read once: pydantic would keep the last 16,384 of them as text.
    model_config = ConfigDict(cache_strings="keys")

    jobs: list[JobRef] = Field(description="In the order of the request.")


class EventView(ResponseShape):
    """A row of the history, and the `data:` of a server-sent event."""

    seq: int | None = Field(description="Its place in the cluster's history; null for progress, which is not kept.")
    ts: Timestamp = Field(description="When it happened.")
    event: str = Field(description="What happened.")
    job_id: str = Field(description="To which job.")
    user_id: str = Field(description="Whose job it is.")
    correlation_id: str = Field(description="By which the job's lines in the logs are found.")
    status: JobStatus = Field(description="Of the job, after it.")
    payload: dict[str, Any] = Field(description="What else is known, by the kind of the event.")


class EventPage(ResponseShape):
    """The events of a job."""

    events: list[EventView] = Field(description="Oldest first.")


class DownloadLink(ResponseShape):
    """A link to the object that needs no key."""

    url: str = Field(description="Presigned: who has it can read the object.")
    expires_at: Timestamp = Field(description="Until when it holds.")


class DeadLetterView(JobView):
    """A job that ran out of deliveries."""

    dead_lettered_at: Timestamp | None = Field(description="When it was put aside.")


class DeadLetterPage(ResponseShape):
    """Some dead letters, newest first."""

    jobs: list[DeadLetterView] = Field(description="Newest first.")
    next_cursor: str | None = Field(description="For `cursor` of the next page; null on the last one.")


class Problem(ResponseShape):
    """An error (RFC 9457), with the stable `code` and the correlation id."""

    type: str = Field("about:blank", description="`about:blank`: `code` tells the kind.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The answer's HTTP status.")
    detail: str = Field(description="For people; may change.")
    code: str = Field(description="One of the stable error codes.")
    correlation_id: str = Field(description="By which the request's lines in the logs are found.")
    instance: str | None = Field(None, description="The path that was asked for.")
    errors: list[dict[str, Any]] | None = Field(None, description="Which fields were wrong, where that is known.")
    violated_policies: list[str] | None = Field(
        None,
        alias="violated-policies",
        description="Which rate limits are reached (draft-ietf-httpapi-ratelimit-headers-10, 5).",
    )
