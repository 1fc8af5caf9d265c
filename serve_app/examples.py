"""One example of everything the API takes and tells, all of one story (story.py).

They are made as the models they are examples of, so a field that is renamed or mistyped does not pass the type checker.
"""

from collections.abc import Mapping, Sequence
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
    DeadLetterPage,
    DeliveryPage,
    DeliveryView,
    DisabledWebhooksPage,
    DisabledWebhookView,
    DownloadLink,
    ErrorView,
    EventPage,
    HostsPage,
    HostView,
    JobPage,
    JobPartsView,
    JobRef,
    JobRequest,
    JobStateReport,
    KeyCreated,
    KeyRequest,
    KeysPage,
    LogsPage,
    PartsBrought,
    PartsToCome,
    PriorityRequest,
    Problem,
    QueueReport,
    ReceiptAgent,
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
from serve_app.story import (
    AGENT,
    CAPACITY,
    COMPLETED,
    CORRELATION_ID,
    CRC64NVME,
    CREATED,
    DEAD_LETTER,
    EVENT,
    JOB,
    JOB_ID,
    KEY,
    KEY_ID,
    KEY_TEXT,
    LEASE,
    METADATA,
    OBJECT_KEY,
    PART_BYTES,
    PARTS,
    PROGRESS,
    SHA256,
    SIZE_BYTES,
    STARTED,
    URL,
)

_EXAMPLES: Sequence[BaseModel] = (
    JobRequest(url=URL, checksum=f"sha256:{SHA256}", tags={"project": "atlas"}),
    BatchRequest(jobs=[JobRequest(url=URL), JobRequest(url=f"{URL}.sig", priority=Priority.LOW)]),
    JOB,
    METADATA,
    PROGRESS,
    JOB.destination,
    ErrorView(code="source_not_found", message="The source has no such file.", fault="source", retryable=False),
    ResultView(
        bucket="downloads",
        key=OBJECT_KEY,
        size_bytes=SIZE_BYTES,
        etag='"6bcf86bed8807b8e78f0fc6e0a53079d-90"',
        sha256=SHA256,
        crc64nvme=CRC64NVME,
    ),
    JobPage(jobs=[JOB], next_cursor=JOB_ID),
    JobRef(id=JOB_ID),
    BatchAccepted(jobs=[JobRef(id=JOB_ID), JobRef(id="job_01k9x3v7c9n3p5q7r9s1t3v5w7")]),
    EVENT,
    EventPage(events=[EVENT]),
    JobPartsView(
        job_id=JOB_ID,
        parts_done=36,
        parts_total=PARTS,
        brought=[
            brought := PartsBrought(agent=AGENT, parts=22, bytes=369_098_752, numbers="1-20,22,24"),
            PartsBrought(agent="agent-2", parts=14, bytes=234_881_024, numbers="46-59"),
        ],
        to_come=[
            to_come := PartsToCome(agent=AGENT, stripe=StripeView(first_part=1, end_part=46)),
            PartsToCome(agent="agent-2", stripe=StripeView(first_part=46, end_part=PARTS + 1)),
        ],
    ),
    brought,
    to_come,
    DownloadLink(url=f"https://s3.example/downloads/{OBJECT_KEY}?X-Amz-Expires=900&…", expires_at=COMPLETED),
    ReceiptView(
        job_id=JOB_ID,
        correlation_id=CORRELATION_ID,
        source_url=URL,
        final_url=METADATA.final_url,
        validator=ValidatorView(etag=METADATA.etag, last_modified=METADATA.last_modified, digest=None),
        bucket="downloads",
        key=OBJECT_KEY,
        size_bytes=SIZE_BYTES,
        etag='"6bcf86bed8807b8e78f0fc6e0a53079d-90"',
        sha256=SHA256,
        crc64nvme=CRC64NVME,
        checksum=f"sha256:{SHA256}",
        parts=PARTS,
        sources=[source := ReceiptSource(url=URL, bytes=SIZE_BYTES)],
        copied_from=None,
        times=ReceiptTimes(created_at=CREATED, started_at=STARTED, completed_at=COMPLETED),
        agents=[AGENT],
        brought_by=[receipt_agent := ReceiptAgent(agent=AGENT, bytes=SIZE_BYTES)],
        attempt=1,
        requeues=0,
    ),
    source,
    receipt_agent,
    ValidatorView(etag=METADATA.etag, last_modified=METADATA.last_modified, digest=None),
    ReceiptTimes(created_at=CREATED, started_at=STARTED, completed_at=COMPLETED),
    CAPACITY,
    AgentsPage(agents=[CAPACITY]),
    StopRequest(jobId=JOB_ID),
    AgentJobReport(agent=AGENT, job_id=JOB_ID, status=JobStatus.DOWNLOADING, leases=[LEASE]),
    LEASE,
    LEASE.stripe,
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
                ts=STARTED,
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
                "jobId": JOB_ID,
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
                since=CREATED,
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
    DEAD_LETTER,
    DeadLetterPage(jobs=[DEAD_LETTER], next_cursor=None),
    session := SessionView(
        session_id="session_01k9x3v8b2c4d6e8f0g2h4j6k8",
        bucket="downloads",
        key=OBJECT_KEY,
        upload_id="2~k0l1m2n3",
        part_bytes=PART_BYTES,
        size_bytes=SIZE_BYTES,
        state="open",
        created_at=STARTED,
    ),
    JobStateReport(
        job=JOB,
        epoch=1,
        dead_lettered_at=None,
        leases=[LEASE],
        session=session,
        parts_done=36,
        last_progress=PROGRESS,
        waits_for=None,
    ),
    SessionRequest(key=KEY_TEXT),
    SessionReport(user_id="alice", role="user", scopes=["read", "write"]),
    delivery := DeliveryView(
        seq=77,
        ts=COMPLETED,
        message_id="msg_01k9x3w1e3f5g7h9j1k3m5n7p9",
        job_id=JOB_ID,
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
        receiver="hooks.example:443", user_id="alice", disabled_since=CREATED, last_given_up_at=COMPLETED
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
    KEY,
    KeysPage(keys=[KEY]),
    KeyCreated(**KEY.model_dump() | {"last_used_at": None}, key=KEY_TEXT),
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
    "job_id": JOB_ID,
    "jobId": JOB_ID,
    "agent": AGENT,
    "agentId": AGENT,
    "key_id": KEY_ID,
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

EVENTS_TEXT = f"retry: 3000\nid: {EVENT.seq}\nevent: {EVENT.event}\ndata: {EVENT.model_dump_json(by_alias=True)}\n\n"
METRICS_TEXT = (
    "# HELP rayhaul_queue_depth Jobs waiting for an agent.\n# TYPE rayhaul_queue_depth gauge\n"
    'rayhaul_queue_depth{priority="normal"} 17.0\n'
)


def problem(error: RayhaulError, title: str, status: int) -> Mapping[str, Any]:
    """Return the problem that tells of `error`."""
    return Problem(
        title=title, status=status, detail=error.message, code=error.code, correlation_id=CORRELATION_ID
    ).model_dump(mode="json", by_alias=True, exclude_none=True)
