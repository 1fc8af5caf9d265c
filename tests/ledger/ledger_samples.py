"""Values for the ledger's tests: short to make, complete where it matters."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rayhaul.errors import Failure, Fault
from rayhaul.ids import IdFactory
from rayhaul.job import EventRecord, Job, JobEvent, JobResult, JobSpec, JobStatus, Metadata, Priority
from rayhaul.lease import Lease, PartDone, SessionState, UploadSession
from rayhaul.ledger.base import ApiKey, Batch, IdempotencyRecord, Role, Viewer
from rayhaul.ledger.deliveries import OutboxRecord

NOW = datetime(2026, 3, 1, 12, 0, 0, 123000, UTC)
ANN, BOB = Viewer("ann"), Viewer("bob")
OPERATOR = Viewer("olga", Role.OPERATOR)

new_id = IdFactory()


def a_job(user: Viewer = ANN, *, tags: dict[str, str] | None = None, **fields: Any) -> Job:
    spec = JobSpec(url="https://files.example/a.iso", tags=tags or {})
    return replace(
        Job(id=new_id("job"), user_id=user.user_id, correlation_id="corr-1234", spec=spec, created_at=NOW), **fields
    )


def a_full_job() -> Job:
    """Return a job with every field set to something that is not its default."""
    return Job(
        id=new_id("job"),
        user_id="ann",
        correlation_id="corr-5678",
        spec=JobSpec(
            url="https://files.example/ünïcode/a.iso?x=%20",
            mirrors=("https://one.example/a", "https://two.example/a"),
            key="data/a.iso",
            filename="a.iso",
            headers={"Authorization": "Bearer t"},
            checksum="sha256:" + "ab" * 32,
            priority=Priority.HIGH,
            tags={"team": "vidéo", "tier": "1"},
            webhook="https://hooks.example/x",
            connections=3,
            bandwidth_bytes_per_s=1 << 40,
            not_before=NOW + timedelta(hours=1),
            size_bytes_max=1 << 45,
            dedupe=True,
            compute_sha256=True,
            refresh_webhook="https://hooks.example/refresh",
        ),
        created_at=NOW,
        status=JobStatus.FAILED,
        key="data/a.iso",
        traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        metadata=Metadata(
            size_bytes=5 << 40,
            content_type="application/x-iso",
            etag='"v1"',
            last_modified="Sun, 01 Mar 2026 12:00:00 GMT",
            rangeable=True,
            filename="a.iso",
            final_url="https://cdn.example/a.iso",
            described_place=1,
            other_hosts=("files.example:443", "cdn.example:443"),
            fetch_ms=321,
            crc32c="4waSgw==",
        ),
        result=JobResult(
            bucket="bucket",
            key="data/a.iso",
            size_bytes=5 << 40,
            etag="abc-7",
            sha256="cd" * 32,
            crc64nvme="AAAAAAAAAAA=",
            parts_count=7,
            checksum="sha256:" + "ab" * 32,
        ),
        error=Failure(code="source_busy", message="busy", fault=Fault.SOURCE, retryable=True, retry_after_s=1.5),
        attempt=4,
        requeues=2,
        epoch=1 << 40,
        version=9,
        agents=("agent-1", "agent-2"),
        started_at=NOW + timedelta(seconds=1),
        completed_at=NOW + timedelta(seconds=2),
        next_attempt_at=NOW + timedelta(seconds=3),
        dead_lettered_at=NOW + timedelta(seconds=4),
    )


def changed(job: Job, **fields: Any) -> Job:
    return replace(job, version=job.version + 1, **fields)


def an_event(job: Job, event: JobEvent = JobEvent.CREATED, **payload: Any) -> EventRecord:
    return EventRecord(
        ts=NOW,
        event=event,
        job_id=job.id,
        user_id=job.user_id,
        correlation_id=job.correlation_id,
        status=job.status,
        payload={"correlationId": job.correlation_id, **payload},
    )


def a_lease(job: Job, **fields: Any) -> Lease:
    lease = Lease(
        lease_id=new_id("lease"),
        job_id=job.id,
        epoch=1,
        agent="agent-1",
        incarnation="inc-1",
        first_part=1,
        end_part=5,
        granted_at=NOW,
    )
    return replace(lease, **fields)


def a_session(job: Job, **fields: Any) -> UploadSession:
    session = UploadSession(
        session_id=new_id("ses"),
        job_id=job.id,
        bucket="bucket",
        key="data/a.iso",
        upload_id="upload-1",
        part_bytes=16 << 20,
        size_bytes=5 << 40,
        state=SessionState.OPEN,
        created_at=NOW,
    )
    return replace(session, **fields)


def a_part(session: UploadSession, number: int, **fields: Any) -> PartDone:
    part = PartDone(session_id=session.session_id, number=number, size_bytes=16 << 20, etag=f"etag-{number}")
    return replace(part, **fields)


def a_record(user: Viewer, key: str, *jobs: Job, **fields: Any) -> IdempotencyRecord:
    record = IdempotencyRecord(
        user_id=user.user_id, key=key, fingerprint="ff" * 32, job_ids=tuple(job.id for job in jobs), created_at=NOW
    )
    return replace(record, **fields)


def a_message(job: Job, **fields: Any) -> OutboxRecord:
    message = OutboxRecord(
        outbox_id=new_id("msg"),
        job_id=job.id,
        user_id=job.user_id,
        url="https://hooks.example/x",
        event="completed",
        payload={"jobId": job.id},
        created_at=NOW,
    )
    return replace(message, **fields)


def a_key(user: Viewer, **fields: Any) -> ApiKey:
    key = ApiKey(
        key_id=new_id("key"),
        user_id=user.user_id,
        role=user.role,
        secret_sha256="ee" * 32,
        name="laptop",
        created_at=NOW,
    )
    return replace(key, **fields)


def one_of_each(job: Job) -> Batch:
    """Return a batch that makes `job` and one of everything that belongs to it."""
    session = a_session(job)
    return Batch(
        jobs_new=[job],
        events=[an_event(job)],
        leases_granted=[a_lease(job)],
        sessions=[session],
        parts=[a_part(session, 1)],
        idempotency=[a_record(Viewer(job.user_id), new_id("idem"), job)],
        outbox=[a_message(job)],
        keys=[a_key(Viewer(job.user_id))],
    )
