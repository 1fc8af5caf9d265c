"""The story that all examples of the API tell: alice asks for a file of 1.5 GB, and agent-1 moves it.

Who, what and when stand here once, so that examples that show the same thing show it alike.
"""

from datetime import UTC, datetime

from rayhaul.job import JobStatus, Priority
from rayhaul.wire import (
    CapacityView,
    DeadLetterView,
    Destination,
    ErrorView,
    EventView,
    JobView,
    KeyView,
    LeaseReport,
    MetadataView,
    ProgressView,
    StripeView,
)

CORRELATION_ID = "5f0c6f0a-6c39-4a52-9df5-8f1a2f6f2c11"
JOB_ID = "job_01k9x3v7c8m2n4p6q8r0s2t4v6"
LEASE_ID = "lease_01k9x3v8a1b3c5d7e9f1g3h5j7"
AGENT = "agent-1"
KEY_ID = "4kQ0ZbR7"
#: Its form alone: neither secret nor checksum.
KEY_TEXT = f"rayhaul_live_{KEY_ID}_…"
URL = "https://files.example/releases/data-2026.tar"
SIZE_BYTES = 1_503_238_553
PARTS = 90
PART_BYTES = 16 * 1024**2
SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
CRC64NVME = "O8U3kYmLq2w="
CREATED = datetime(2026, 3, 14, 9, 26, 53, 589_000, UTC)
STARTED = datetime(2026, 3, 14, 9, 26, 54, 120_000, UTC)
COMPLETED = datetime(2026, 3, 14, 9, 27, 31, 904_000, UTC)

OBJECT_KEY = f"{JOB_ID}/data-2026.tar"
PROGRESS = ProgressView(
    bytes=603_979_776,
    bytes_total=SIZE_BYTES,
    bytes_per_second=48_234_112.0,
    eta_seconds=18.6,
    parts_done=36,
    parts_total=PARTS,
)
METADATA = MetadataView(
    size_bytes=SIZE_BYTES,
    content_type="application/x-tar",
    etag='"65f2c1b5-59999999"',
    last_modified="Thu, 12 Mar 2026 08:00:05 GMT",
    rangeable=True,
    filename="data-2026.tar",
    final_url="https://cdn.files.example/releases/data-2026.tar",
    fetch_ms=184,
)
JOB = JobView(
    id=JOB_ID,
    status=JobStatus.DOWNLOADING,
    url=URL,
    filename="data-2026.tar",
    priority=Priority.NORMAL,
    tags={"project": "atlas"},
    destination=Destination(bucket="downloads", key=OBJECT_KEY),
    metadata=METADATA,
    progress=PROGRESS,
    attempt=1,
    requeues=0,
    checksum=f"sha256:{SHA256}",
    result=None,
    error=None,
    agents=[AGENT],
    correlation_id=CORRELATION_ID,
    user_id="alice",
    created_at=CREATED,
    started_at=STARTED,
    completed_at=None,
    next_attempt_at=None,
)
DEAD_LETTER = DeadLetterView(
    **JOB.model_copy(
        update={
            "status": JobStatus.FAILED,
            "requeues": 4,
            "agents": [],
            "completed_at": COMPLETED,
            "error": ErrorView(
                code="source_busy", message="The source asks to slow down.", fault="source", retryable=True
            ),
        }
    ).model_dump(),
    dead_lettered_at=COMPLETED,
)
EVENT = EventView(
    seq=1042,
    ts=STARTED,
    event="started",
    job_id=JOB_ID,
    user_id="alice",
    correlation_id=CORRELATION_ID,
    status=JobStatus.DOWNLOADING,
    payload={"agent": AGENT, "leaseId": LEASE_ID, "epoch": 1, "attempt": 1},
)
CAPACITY = CapacityView(
    agent=AGENT,
    state="online",
    capacity_pct=37.5,
    slots=32,
    slots_used=12,
    bytes_per_second=96_468_992.0,
    heartbeat_age_seconds=0.4,
    leases=12,
)
LEASE = LeaseReport(
    lease_id=LEASE_ID,
    agent=AGENT,
    epoch=1,
    stripe=StripeView(first_part=1, end_part=PARTS + 1),
    granted_at=STARTED,
    progress=PROGRESS,
    idle_seconds=0.2,
    doing="moving bytes",
)
KEY = KeyView(
    id=KEY_ID,
    user_id="alice",
    role="user",
    name="laptop",
    created_at=CREATED,
    expires_at=None,
    revoked_at=None,
    last_used_at=COMPLETED,
)
