"""Rows and values: each way one explicit function per kind. Pure, and on the hot path of every commit.

A row going in is a dict by column name, a row coming out anything with the columns as attributes; times are datetimes
and documents are dicts on this side, the column types do the rest.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rayhaul.contents import source_text
from rayhaul.errors import Failure, Fault
from rayhaul.job import EventRecord, Job, JobEvent, JobResult, JobSpec, JobStatus, Metadata, Priority
from rayhaul.lease import Lease, PartDone, SessionState, UploadSession
from rayhaul.ledger import sealing
from rayhaul.ledger.base import ApiKey, IdempotencyRecord, Role, Scope
from rayhaul.ledger.deliveries import DisabledWebhook, OutboxRecord
from rayhaul.ledger.sealing import Sealer
from rayhaul.metrics import Labels

Values = dict[str, Any]


def _spec_document(spec: JobSpec) -> Values:
    """Return what was asked for, without priority and tags: they have columns."""
    return {
        "url": spec.url,
        "mirrors": spec.mirrors,
        "key": spec.key,
        "filename": spec.filename,
        "headers": dict(spec.headers),
        "checksum": spec.checksum,
        "compute_sha256": spec.compute_sha256,
        "webhook": spec.webhook,
        "connections": spec.connections,
        "bandwidth_bytes_per_s": spec.bandwidth_bytes_per_s,
        "not_before": None if spec.not_before is None else spec.not_before.timestamp(),
        "size_bytes_max": spec.size_bytes_max,
        "dedupe": spec.dedupe,
        "refresh_webhook": spec.refresh_webhook,
    }


def _spec(document: Mapping[str, Any], priority: str, tags: Mapping[str, str]) -> JobSpec:
    not_before = document["not_before"]
    return JobSpec(
        url=document["url"],
        mirrors=tuple(document["mirrors"]),
        key=document["key"],
        filename=document["filename"],
        headers=document["headers"],
        checksum=document["checksum"],
        # Jobs from before one could ask for it have none.
        compute_sha256=document.get("compute_sha256", False),
        priority=Priority(priority),
        tags=tags,
        webhook=document["webhook"],
        connections=document["connections"],
        bandwidth_bytes_per_s=document["bandwidth_bytes_per_s"],
        not_before=None if not_before is None else datetime.fromtimestamp(not_before, UTC),
        size_bytes_max=document["size_bytes_max"],
        dedupe=document["dedupe"],
        refresh_webhook=document["refresh_webhook"],
    )


def _metadata_document(metadata: Metadata, job_id: str, sealer: Sealer) -> Values:
    return {
        "size_bytes": metadata.size_bytes,
        "content_type": metadata.content_type,
        "etag": metadata.etag,
        "last_modified": metadata.last_modified,
        "rangeable": metadata.rangeable,
        "filename": metadata.filename,
        # Where a redirect led: often a link that was signed for us.
        "final_url": sealer.seal(metadata.final_url, f"final URL of {job_id}"),
        "fetch_ms": metadata.fetch_ms,
        "digest": metadata.digest,
        "crc32c": metadata.crc32c,
        "described_by": metadata.described_by,
        "described_place": metadata.described_place,
        "other_hosts": metadata.other_hosts,
        "source": metadata.source,
    }


def _metadata(document: Mapping[str, Any], job_id: str, sealer: Sealer) -> Metadata:
    final_url = sealer.open(document["final_url"], f"final URL of {job_id}")
    return Metadata(**{**document, "final_url": final_url, "other_hosts": tuple(document.get("other_hosts", ()))})


def _result_document(result: JobResult) -> Values:
    return {
        "bucket": result.bucket,
        "key": result.key,
        "size_bytes": result.size_bytes,
        "etag": result.etag,
        "sha256": result.sha256,
        "crc64nvme": result.crc64nvme,
        "parts_count": result.parts_count,
        "sources": result.sources,
        "copied_from": result.copied_from,
        "checksum": result.checksum,
    }


def _result(document: Mapping[str, Any]) -> JobResult:
    sources = tuple((source, bytes_count) for source, bytes_count in document.get("sources", ()))
    return JobResult(**{**document, "sources": sources})


def _failure_document(failure: Failure) -> Values:
    return {
        "code": failure.code,
        "message": failure.message,
        "fault": failure.fault,
        "retryable": failure.retryable,
        "retry_after_s": failure.retry_after_s,
    }


def _failure(document: Mapping[str, Any]) -> Failure:
    return Failure(
        code=document["code"],
        message=document["message"],
        fault=Fault(document["fault"]),
        retryable=document["retryable"],
        retry_after_s=document["retry_after_s"],
    )


def job_asked(job: Job, sealer: Sealer) -> Values:
    """Return the columns that never change."""
    return {
        "id": job.id,
        "user_id": job.user_id,
        "correlation_id": job.correlation_id,
        "traceparent": job.traceparent,
        "priority": job.spec.priority,
        "tags": dict(job.spec.tags),
        "spec": sealing.seal_spec(_spec_document(job.spec), job.id, sealer),
        "created_at": job.created_at,
    }


def job_state(job: Job, sealer: Sealer) -> Values:
    """Return the columns that change, the version included."""
    is_known = job.status is JobStatus.COMPLETED and job.result is not None
    source = source_text(job) if is_known else None
    return {
        "source_id": None if source is None else sealer.fingerprints(source)[0],
        "sha256": job.result.sha256 if is_known and job.result is not None else None,
        "status": job.status,
        "key": job.key,
        "metadata": None if job.metadata is None else _metadata_document(job.metadata, job.id, sealer),
        "result": None if job.result is None else _result_document(job.result),
        "error": None if job.error is None else _failure_document(job.error),
        "attempt": job.attempt,
        "requeues": job.requeues,
        "epoch": job.epoch,
        "version": job.version,
        "agents": job.agents,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "next_attempt_at": job.next_attempt_at,
        "dead_lettered_at": job.dead_lettered_at,
    }


def job(row: Any, sealer: Sealer) -> Job:
    """Raises: SealBroken."""
    return Job(
        id=row.id,
        user_id=row.user_id,
        correlation_id=row.correlation_id,
        spec=_spec(sealing.open_spec(row.spec, row.id, sealer), row.priority, row.tags),
        created_at=row.created_at,
        status=JobStatus(row.status),
        key=row.key,
        traceparent=row.traceparent,
        metadata=None if row.metadata is None else _metadata(row.metadata, row.id, sealer),
        result=None if row.result is None else _result(row.result),
        error=None if row.error is None else _failure(row.error),
        attempt=row.attempt,
        requeues=row.requeues,
        epoch=row.epoch,
        version=row.version,
        agents=tuple(row.agents),
        started_at=row.started_at,
        completed_at=row.completed_at,
        next_attempt_at=row.next_attempt_at,
        dead_lettered_at=row.dead_lettered_at,
    )


def event_values(event: EventRecord) -> Values:
    """Return the row without `seq`: the database gives it."""
    return {
        "ts": event.ts,
        "event": event.event,
        "job_id": event.job_id,
        "user_id": event.user_id,
        "correlation_id": event.correlation_id,
        "status": event.status,
        "payload": dict(event.payload),
    }


def event(row: Any) -> EventRecord:
    return EventRecord(
        seq=row.seq,
        ts=row.ts,
        event=JobEvent(row.event),
        job_id=row.job_id,
        user_id=row.user_id,
        correlation_id=row.correlation_id,
        status=JobStatus(row.status),
        payload=row.payload,
    )


def session_values(session: UploadSession) -> Values:
    return {
        "session_id": session.session_id,
        "job_id": session.job_id,
        "bucket": session.bucket,
        "key": session.key,
        "upload_id": session.upload_id,
        "part_bytes": session.part_bytes,
        "size_bytes": session.size_bytes,
        "state": session.state,
        "created_at": session.created_at,
    }


def session(row: Any) -> UploadSession:
    return UploadSession(
        session_id=row.session_id,
        job_id=row.job_id,
        bucket=row.bucket,
        key=row.key,
        upload_id=row.upload_id,
        part_bytes=row.part_bytes,
        size_bytes=row.size_bytes,
        state=SessionState(row.state),
        created_at=row.created_at,
    )


def part_values(part: PartDone) -> Values:
    return {
        "session_id": part.session_id,
        "number": part.number,
        "size_bytes": part.size_bytes,
        "etag": part.etag,
        "crc64nvme": part.crc64nvme,
        "crc32c": part.crc32c,
        "source": part.source,
        "agent": part.agent,
    }


def part(row: Any) -> PartDone:
    return PartDone(
        session_id=row.session_id,
        number=row.number,
        size_bytes=row.size_bytes,
        etag=row.etag,
        crc64nvme=row.crc64nvme,
        crc32c=row.crc32c,
        source=row.source,
        agent=row.agent,
    )


def lease_values(lease: Lease) -> Values:
    return {
        "lease_id": lease.lease_id,
        "job_id": lease.job_id,
        "epoch": lease.epoch,
        "agent": lease.agent,
        "incarnation": lease.incarnation,
        "first_part": lease.first_part,
        "end_part": lease.end_part,
        "granted_at": lease.granted_at,
    }


def lease(row: Any) -> Lease:
    return Lease(
        lease_id=row.lease_id,
        job_id=row.job_id,
        epoch=row.epoch,
        agent=row.agent,
        incarnation=row.incarnation,
        first_part=row.first_part,
        end_part=row.end_part,
        granted_at=row.granted_at,
    )


def idempotency_values(record: IdempotencyRecord) -> Values:
    return {
        "user_id": record.user_id,
        "key": record.key,
        "fingerprint": record.fingerprint,
        "job_ids": record.job_ids,
        "created_at": record.created_at,
    }


def idempotency(row: Any) -> IdempotencyRecord:
    return IdempotencyRecord(
        user_id=row.user_id,
        key=row.key,
        fingerprint=row.fingerprint,
        job_ids=tuple(row.job_ids),
        created_at=row.created_at,
    )


def outbox_values(record: OutboxRecord, sealer: Sealer) -> Values:
    return {
        "outbox_id": record.outbox_id,
        "job_id": record.job_id,
        "user_id": record.user_id,
        "url": sealer.seal(record.url, f"message {record.outbox_id}"),
        "event": record.event,
        "payload": dict(record.payload),
        "created_at": record.created_at,
        "attempts": record.attempts,
        "next_attempt_at": record.next_attempt_at,
    }


def outbox(row: Any, sealer: Sealer) -> OutboxRecord:
    """Raises: SealBroken."""
    return OutboxRecord(
        outbox_id=row.outbox_id,
        job_id=row.job_id,
        user_id=row.user_id,
        url=sealer.open(row.url, f"message {row.outbox_id}"),
        event=row.event,
        payload=row.payload,
        created_at=row.created_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
    )


def disabled_values(webhook: DisabledWebhook, sealer: Sealer) -> Values:
    return {
        "url_id": sealer.fingerprints(webhook.url)[0],
        "user_id": webhook.user_id,
        "receiver": webhook.receiver,
        "disabled_at": webhook.disabled_at,
        "last_at": webhook.last_at,
    }


def key_values(key: ApiKey) -> Values:
    return {
        "key_id": key.key_id,
        "user_id": key.user_id,
        "role": key.role,
        "secret_sha256": key.secret_sha256,
        "name": key.name,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "scopes": " ".join(sorted(key.scopes)),
        "last_used_at": key.last_used_at,
    }


def key(row: Any) -> ApiKey:
    return ApiKey(
        key_id=row.key_id,
        user_id=row.user_id,
        role=Role(row.role),
        secret_sha256=row.secret_sha256,
        name=row.name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        scopes=frozenset(map(Scope, row.scopes.split())),
        last_used_at=row.last_used_at,
    )


def count_values(counter: tuple[str, Labels], value: int) -> Values:
    name, labels = counter
    return {"name": name, "labels": json.dumps(labels), "value": value}


def count(row: Any) -> tuple[tuple[str, Labels], int]:
    return (row.name, tuple(json.loads(row.labels))), row.value
