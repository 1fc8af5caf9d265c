"""One example of everything the API takes and tells, all of one story: alice asks for a file of 1.5 GB.

They are made as the models they are examples of, so a field that is renamed or mistyped does not pass the type checker.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from rayhaul.errors import RayhaulError
from rayhaul.job import JobStatus, Priority
from rayhaul.wire import (
    AgentJobReport,
    AgentsPage,
    AlertList,
    AlertView,
    BatchAccepted,
    BatchRequest,
    CapacityView,
    DeadLetterPage,
    DeadLetterView,
    DeliveryPage,
    DeliveryView,
    Destination,
    DisabledWebhooksPage,
    DisabledWebhookView,
    DownloadLink,
    ErrorView,
    EventPage,
    EventView,
    HostsPage,
    HostView,
    JobPage,
    JobRef,
    JobRequest,
    JobStateReport,
    JobView,
    KeyCreated,
    KeyRequest,
    KeysPage,
    KeyView,
    LeaseReport,
    LogsPage,
    MetadataView,
    PriorityRequest,
    Problem,
    ProgressView,
    QueueReport,
    ReceiptSource,
    ReceiptTimes,
    ReceiptView,
    ResultView,
    RotateRequest,
    ScalingPage,
    ScalingView,
    SessionReport,
    SessionRequest,
    SessionView,
    SloList,
    SloView,
    StopRequest,
    StripeView,
    ValidatorView,
    WebhookTestReport,
    WebhookTestRequest,
)

CORRELATION_ID = "5f0c6f0a-6c39-4a52-9df5-8f1a2f6f2c11"
_JOB_ID = "job_01k9x3v7c8m2n4p6q8r0s2t4v6"
_LEASE_ID = "lease_01k9x3v8a1b3c5d7e9f1g3h5j7"
_AGENT = "agent-1"
_KEY_ID = "4kQ0ZbR7"
#: Its form alone: neither secret nor checksum.
_KEY_TEXT = f"rayhaul_live_{_KEY_ID}_…"
_URL = "https://files.example/releases/data-2026.tar"
_SIZE_BYTES = 1_503_238_553
_PARTS = 90
_PART_BYTES = 16 * 1024**2
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_CRC64NVME = "O8U3kYmLq2w="
_CREATED = datetime(2026, 3, 14, 9, 26, 53, 589_000, UTC)
_STARTED = datetime(2026, 3, 14, 9, 26, 54, 120_000, UTC)
_COMPLETED = datetime(2026, 3, 14, 9, 27, 31, 904_000, UTC)

_OBJECT_KEY = f"{_JOB_ID}/data-2026.tar"
_PROGRESS = ProgressView(
    bytes=603_979_776,
    bytes_total=_SIZE_BYTES,
    bytes_per_second=48_234_112.0,
    eta_seconds=18.6,
    parts_done=36,
    parts_total=_PARTS,
)
_METADATA = MetadataView(
    size_bytes=_SIZE_BYTES,
    content_type="application/x-tar",
    etag='"65f2c1b5-59999999"',
    last_modified="Thu, 12 Mar 2026 08:00:05 GMT",
    rangeable=True,
    filename="data-2026.tar",
    final_url="https://cdn.files.example/releases/data-2026.tar",
    fetch_ms=184,
)
_JOB = JobView(
    id=_JOB_ID,
    status=JobStatus.DOWNLOADING,
    url=_URL,
    filename="data-2026.tar",
    priority=Priority.NORMAL,
    tags={"project": "atlas"},
    destination=Destination(bucket="downloads", key=_OBJECT_KEY),
    metadata=_METADATA,
    progress=_PROGRESS,
    attempt=1,
    requeues=0,
    checksum=f"sha256:{_SHA256}",
    result=None,
    error=None,
    agents=[_AGENT],
    correlation_id=CORRELATION_ID,
    user_id="alice",
    created_at=_CREATED,
    started_at=_STARTED,
    completed_at=None,
    next_attempt_at=None,
)
_DEAD_LETTER = DeadLetterView(
    **_JOB.model_copy(
        update={
            "status": JobStatus.FAILED,
            "requeues": 4,
            "agents": [],
            "completed_at": _COMPLETED,
            "error": ErrorView(
                code="source_busy", message="The source asks to slow down.", fault="source", retryable=True
            ),
        }
    ).model_dump(),
    dead_lettered_at=_COMPLETED,
)
_EVENT = EventView(
    seq=1042,
    ts=_STARTED,
    event="started",
    job_id=_JOB_ID,
    user_id="alice",
    correlation_id=CORRELATION_ID,
    status=JobStatus.DOWNLOADING,
    payload={"agent": _AGENT, "leaseId": _LEASE_ID, "epoch": 1, "attempt": 1},
)
_CAPACITY = CapacityView(
    agent=_AGENT,
    state="online",
    capacity_pct=37.5,
    slots=32,
    slots_used=12,
    bytes_per_second=96_468_992.0,
    heartbeat_age_seconds=0.4,
    leases=12,
)
_LEASE = LeaseReport(
    lease_id=_LEASE_ID,
    agent=_AGENT,
    epoch=1,
    stripe=StripeView(first_part=1, end_part=_PARTS + 1),
    granted_at=_STARTED,
    progress=_PROGRESS,
    idle_seconds=0.2,
    doing="moving bytes",
)
_KEY = KeyView(
    id=_KEY_ID,
    user_id="alice",
    role="user",
    name="laptop",
    created_at=_CREATED,
    expires_at=None,
    revoked_at=None,
    last_used_at=_COMPLETED,
)

_EXAMPLES: Sequence[BaseModel] = (
    JobRequest(url=_URL, checksum=f"sha256:{_SHA256}", tags={"project": "atlas"}),
    BatchRequest(jobs=[JobRequest(url=_URL), JobRequest(url=f"{_URL}.sig", priority=Priority.LOW)]),
    _JOB,
    _METADATA,
    _PROGRESS,
    _JOB.destination,
    ErrorView(code="source_not_found", message="The source has no such file.", fault="source", retryable=False),
    ResultView(
        bucket="downloads",
        key=_OBJECT_KEY,
        size_bytes=_SIZE_BYTES,
        etag='"6bcf86bed8807b8e78f0fc6e0a53079d-90"',
        sha256=_SHA256,
        crc64nvme=_CRC64NVME,
    ),
    JobPage(jobs=[_JOB], next_cursor=_JOB_ID),
    JobRef(id=_JOB_ID),
    BatchAccepted(jobs=[JobRef(id=_JOB_ID), JobRef(id="job_01k9x3v7c9n3p5q7r9s1t3v5w7")]),
    _EVENT,
    EventPage(events=[_EVENT]),
    DownloadLink(url=f"https://s3.example/downloads/{_OBJECT_KEY}?X-Amz-Expires=900&…", expires_at=_COMPLETED),
    ReceiptView(
        job_id=_JOB_ID,
        correlation_id=CORRELATION_ID,
        source_url=_URL,
        final_url=_METADATA.final_url,
        validator=ValidatorView(etag=_METADATA.etag, last_modified=_METADATA.last_modified, digest=None),
        bucket="downloads",
        key=_OBJECT_KEY,
        size_bytes=_SIZE_BYTES,
        etag='"6bcf86bed8807b8e78f0fc6e0a53079d-90"',
        sha256=_SHA256,
        crc64nvme=_CRC64NVME,
        checksum=f"sha256:{_SHA256}",
        parts=_PARTS,
        sources=[source := ReceiptSource(url=_URL, bytes=_SIZE_BYTES)],
        copied_from=None,
        times=ReceiptTimes(created_at=_CREATED, started_at=_STARTED, completed_at=_COMPLETED),
        agents=[_AGENT],
        attempt=1,
        requeues=0,
    ),
    source,
    ValidatorView(etag=_METADATA.etag, last_modified=_METADATA.last_modified, digest=None),
    ReceiptTimes(created_at=_CREATED, started_at=_STARTED, completed_at=_COMPLETED),
    _CAPACITY,
    AgentsPage(agents=[_CAPACITY]),
    StopRequest(jobId=_JOB_ID),
    AgentJobReport(agent=_AGENT, job_id=_JOB_ID, status=JobStatus.DOWNLOADING, leases=[_LEASE]),
    _LEASE,
    _LEASE.stripe,
    HostsPage(
        hosts=[
            host := HostView(
                host="files.example:443",
                connections=8,
                connections_max=16,
                bytes_per_second=48_234_112.0,
                backing_off_until=None,
                jobs_waiting=0,
            )
        ]
    ),
    host,
    ScalingPage(
        decisions=[
            decision := ScalingView(
                ts=_STARTED,
                reason="scale_out",
                wanted=5,
                online=4,
                pending=0,
                draining=0,
                load_pct=93.4,
                jobs_waiting=61,
            )
        ]
    ),
    decision,
    LogsPage(
        lines=[
            {
                "ts": "2026-03-14T09:26:53.589Z",
                "level": "info",
                "correlationId": CORRELATION_ID,
                "service": "api",
                "handler": "POST /jobs",
                "userId": "alice",
                "jobId": _JOB_ID,
                "durationMs": 6.2,
                "statusCode": 201,
                "msg": "POST /jobs 201",
            }
        ],
        is_cut=False,
        nodes_count=3,
        nodes_silent=0,
    ),
    PriorityRequest(priority=Priority.LOW),
    QueueReport(
        depth={"low": 4, "normal": 17, "high": 0}, oldest_age_seconds=41.7, paused=[], dlq_depth=1, parked=None
    ),
    AlertList(
        alerts=[
            alert := AlertView(
                name="QueueBacklog",
                condition="queue.depth > 2000",
                window="2m",
                severity="P1",
                runbook="docs/runbooks/queue-backlog.md",
                action=None,
                state="inactive",
                since=_CREATED,
                value=21.0,
            )
        ]
    ),
    alert,
    SloList(
        slos=[
            slo := SloView(
                name="ApiAvailability",
                summary="API requests are answered without a server error.",
                target=0.999,
                window="30d",
                events=1_203_554,
                bad=311,
                ratio=0.99974,
                budget_left=0.742,
                burn_rate=0.258,
                burn_rates={"5m": 0.0, "30m": 0.0, "1h": 0.1, "2h": 0.1, "6h": 0.2, "1d": 0.3, "3d": 0.3},
                burning=None,
            )
        ]
    ),
    slo,
    _DEAD_LETTER,
    DeadLetterPage(jobs=[_DEAD_LETTER], next_cursor=None),
    session := SessionView(
        session_id="session_01k9x3v8b2c4d6e8f0g2h4j6k8",
        bucket="downloads",
        key=_OBJECT_KEY,
        upload_id="2~k0l1m2n3",
        part_bytes=_PART_BYTES,
        size_bytes=_SIZE_BYTES,
        state="open",
        created_at=_STARTED,
    ),
    JobStateReport(
        job=_JOB,
        epoch=1,
        dead_lettered_at=None,
        leases=[_LEASE],
        session=session,
        parts_done=36,
        last_progress=_PROGRESS,
        waits_for=None,
    ),
    SessionRequest(key=_KEY_TEXT),
    SessionReport(user_id="alice", role="user", scopes=["read", "write"]),
    delivery := DeliveryView(
        seq=77,
        ts=_COMPLETED,
        message_id="msg_01k9x3w1e3f5g7h9j1k3m5n7p9",
        job_id=_JOB_ID,
        event="completed",
        receiver="hooks.example:443",
        attempt=1,
        result="delivered",
        status=204,
        duration_ms=37,
        next_attempt_at=None,
        why=None,
    ),
    DeliveryPage(deliveries=[delivery], next_cursor=None),
    disabled := DisabledWebhookView(
        receiver="hooks.example:443", user_id="alice", disabled_since=_CREATED, last_given_up_at=_COMPLETED
    ),
    DisabledWebhooksPage(webhooks=[disabled]),
    WebhookTestRequest(url="https://hooks.example/rayhaul"),
    WebhookTestReport(
        message_id="msg_01k9x3w2f4g6h8j0k2m4n6p8q0",
        result="delivered",
        status=204,
        duration_ms=41,
        signed=True,
        disabled_since=None,
        enabled_again=False,
    ),
    KeyRequest(user="alice", name="laptop"),
    RotateRequest(overlapSeconds=86_400),
    _KEY,
    KeysPage(keys=[_KEY]),
    KeyCreated(**_KEY.model_dump() | {"last_used_at": None}, key=_KEY_TEXT),
    Problem(
        title="Not Found",
        status=404,
        detail="There is no such thing, or it is not yours.",
        code="not_found",
        correlation_id=CORRELATION_ID,
    ),
)

#: By the name of the model, which is that of its schema.
BY_MODEL: Mapping[str, Any] = {
    type(example).__name__: example.model_dump(
        mode="json",
        by_alias=True,
        exclude_unset=type(example).__name__.endswith("Request"),
        exclude_none=isinstance(example, Problem),
    )
    for example in _EXAMPLES
} | {"JobStatus": "downloading", "Priority": "normal"}

#: By name, of parameters in paths and queries, and of headers.
BY_PARAMETER: Mapping[str, Any] = {
    "job_id": _JOB_ID,
    "jobId": _JOB_ID,
    "agent": _AGENT,
    "agentId": _AGENT,
    "key_id": _KEY_ID,
    "correlationId": CORRELATION_ID,
    "status": "completed",
    "tag": "project:atlas",
    "limit": 50,
    "json": True,
    "level": "warn",
    "ray": "error",
    "since": "2026-03-14T09:00:00Z",
    "Idempotency-Key": "release-2026-03-14",
}

EVENTS_TEXT = f"retry: 3000\nid: {_EVENT.seq}\nevent: {_EVENT.event}\ndata: {_EVENT.model_dump_json(by_alias=True)}\n\n"
METRICS_TEXT = (
    "# HELP rayhaul_queue_depth Jobs waiting for an agent.\n# TYPE rayhaul_queue_depth gauge\n"
    'rayhaul_queue_depth{priority="normal"} 17.0\n'
)


def problem(error: RayhaulError, title: str, status: int) -> Mapping[str, Any]:
    """Return the problem that tells of `error`."""
    return Problem(
        title=title, status=status, detail=error.message, code=error.code, correlation_id=CORRELATION_ID
    ).model_dump(mode="json", by_alias=True, exclude_none=True)
