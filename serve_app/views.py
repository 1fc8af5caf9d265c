"""From domain values to the wire: what the outside gets to see, and nothing that is secret.

Laws of this file:
1. URLs lose user info, query and fragment wherever they stand: in fields, error messages and event payloads.
2. Header values never leave; `Job.spec.headers` is not read here.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import BaseModel
from starlette.responses import Response

from actors.ports import AgentView, JobState, LeaseView, QueueView
from actors.ports import HostView as HostSeen
from rayhaul.job import EventRecord, Job, JobEvent, JobStatus, Metadata, Priority, Progress, utc
from rayhaul.lease import UploadSession
from rayhaul.ledger.base import ApiKey, ScalingRecord
from rayhaul.policy.alert_rules import window_text
from rayhaul.policy.alerting import Alert
from rayhaul.policy.runbooks import find_page
from rayhaul.redaction import clean, redacted, without_url_secrets
from rayhaul.wire import (
    AgentJobReport,
    AlertList,
    AlertView,
    CapacityView,
    DeadLetterView,
    Destination,
    ErrorView,
    EventView,
    HostView,
    JobStateReport,
    JobView,
    KeyCreated,
    KeyView,
    LeaseReport,
    MetadataView,
    ProgressView,
    QueueReport,
    ResultView,
    ScalingView,
    SessionView,
    StripeView,
)

#: While bytes move, speed and time left mean something.
MOVING = frozenset({JobStatus.DOWNLOADING, JobStatus.UPLOADING})

_NOTHING = Progress()


def reply(model: BaseModel, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the model as a JSON response; written once, without the framework's second validation."""
    return Response(
        model.model_dump_json(by_alias=True),
        status_code=status,
        media_type="application/json",
        headers=None if headers is None else dict(headers),
    )


def job_view(job: Job, live: Progress | None, *, bucket: str) -> JobView:
    """Return the job for its owner. `bucket` is where it goes while no result says so."""
    error, result, metadata = job.error, job.result, job.metadata
    return JobView(
        id=job.id,
        status=job.status,
        url=redacted(job.spec.url),
        filename=job.spec.filename or (metadata.filename if metadata else None),
        priority=job.spec.priority,
        tags=dict(job.spec.tags),
        destination=Destination(bucket=result.bucket if result else bucket, key=job.key),
        metadata=_metadata_view(metadata) if metadata else None,
        progress=_progress_of(job, live),
        attempt=job.attempt,
        requeues=job.requeues,
        checksum=job.spec.checksum,
        result=ResultView(
            bucket=result.bucket,
            key=result.key,
            size_bytes=result.size_bytes,
            etag=result.etag,
            sha256=result.sha256,
            crc64nvme=result.crc64nvme,
        )
        if result
        else None,
        error=ErrorView(
            code=error.code,
            message=without_url_secrets(error.message),
            fault=error.fault,
            retryable=error.retryable,
        )
        if error
        else None,
        agents=list(job.agents),
        correlation_id=job.correlation_id,
        user_id=job.user_id,
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        next_attempt_at=job.next_attempt_at,
    )


def _metadata_view(metadata: Metadata) -> MetadataView:
    return MetadataView(
        size_bytes=metadata.size_bytes,
        content_type=metadata.content_type,
        etag=metadata.etag,
        last_modified=metadata.last_modified,
        rangeable=metadata.rangeable,
        filename=metadata.filename,
        final_url=redacted(metadata.final_url),
        fetch_ms=metadata.fetch_ms,
    )


def _progress_of(job: Job, live: Progress | None) -> ProgressView:
    size = job.metadata.size_bytes if job.metadata else None
    if job.result is not None:
        parts = job.result.parts_count
        done = Progress(
            bytes_done=job.result.size_bytes, bytes_total=job.result.size_bytes, parts_done=parts, parts_total=parts
        )
        return progress_view(done)
    # Without a start, what was told is of an attempt that was given up.
    view = progress_view(live if live is not None and job.started_at is not None else _NOTHING)
    moving = job.status in MOVING
    return view.model_copy(
        update={
            "bytes_total": size if view.bytes_total is None else view.bytes_total,
            "bytes_per_second": view.bytes_per_second if moving else 0.0,
            "eta_seconds": view.eta_seconds if moving else None,
        }
    )


def progress_view(progress: Progress) -> ProgressView:
    return ProgressView(
        bytes=progress.bytes_done,
        bytes_total=progress.bytes_total,
        bytes_per_second=round(progress.bytes_per_s, 1),
        eta_seconds=None if progress.eta_s is None else round(progress.eta_s, 1),
        parts_done=progress.parts_done,
        parts_total=progress.parts_total,
    )


def event_view(record: EventRecord) -> EventView:
    return EventView(
        seq=record.seq,
        ts=record.ts,
        event=record.event,
        job_id=record.job_id,
        user_id=record.user_id,
        correlation_id=record.correlation_id,
        status=record.status,
        payload=clean(record.payload),
    )


def progress_event(
    job_id: str, progress: Progress, *, user_id: str, correlation_id: str, status: JobStatus, now: datetime
) -> EventView:
    """Return a progress message: an event that no ledger holds, so it has no `seq`."""
    payload = {**progress_view(progress).model_dump(by_alias=True), "correlationId": correlation_id}
    return EventView(
        seq=None,
        ts=now,
        event=JobEvent.PROGRESS,
        job_id=job_id,
        user_id=user_id,
        correlation_id=correlation_id,
        status=status,
        payload=payload,
    )


def agent_view(agent: AgentView) -> CapacityView:
    return CapacityView(
        agent=agent.agent,
        state=agent.state,
        capacity_pct=round(agent.capacity.capacity_pct, 1),
        slots=agent.capacity.slots,
        slots_used=agent.capacity.slots_used,
        bytes_per_second=round(agent.capacity.bytes_per_s, 1),
        heartbeat_age_seconds=round(agent.heartbeat_age_s, 3),
        leases=agent.leases_count,
        unfit=_sentence(agent.unfit),
    )


def host_view(host: HostSeen) -> HostView:
    return HostView(
        host=host.host,
        connections=host.connections,
        connections_max=host.connections_max,
        bytes_per_second=round(host.bytes_per_s, 1),
        backing_off_until=host.backing_off_until,
        jobs_waiting=host.jobs_waiting,
    )


def _sentence(text: str | None) -> str | None:
    return None if text is None else without_url_secrets(text)


def queue_report(queue: QueueView) -> QueueReport:
    return QueueReport(
        depth={priority.value: queue.depth.get(priority.value, 0) for priority in Priority},
        oldest_age_seconds=round(queue.oldest_age_s, 3),
        paused=[priority.value for priority in Priority if priority in queue.paused],
        dlq_depth=queue.dead_letters_count,
        parked=_sentence(queue.parked),
    )


def dead_letter_view(job: Job, *, bucket: str) -> DeadLetterView:
    return DeadLetterView(**dict(job_view(job, None, bucket=bucket)), dead_lettered_at=job.dead_lettered_at)


def lease_report(lease: LeaseView) -> LeaseReport:
    return LeaseReport(
        lease_id=lease.lease_id,
        agent=lease.agent,
        epoch=lease.epoch,
        stripe=StripeView(first_part=lease.first_part, end_part=lease.end_part),
        granted_at=lease.granted_at,
        progress=None if lease.progress is None else progress_view(lease.progress),
        idle_seconds=None if lease.idle_s is None else round(lease.idle_s, 3),
        doing=_sentence(lease.doing),
    )


def agent_job_report(agent: str, state: JobState) -> AgentJobReport | None:
    """Return what the agent does for the job; None where it holds no lease of it."""
    leases = [lease_report(lease) for lease in state.leases if lease.agent == agent]
    if not leases:
        return None
    return AgentJobReport(agent=agent, job_id=state.job.id, status=state.job.status, leases=leases)


def job_state_report(state: JobState, live: Progress | None, *, bucket: str) -> JobStateReport:
    return JobStateReport(
        job=job_view(state.job, live, bucket=bucket),
        epoch=state.job.epoch,
        dead_lettered_at=state.job.dead_lettered_at,
        leases=[lease_report(lease) for lease in state.leases],
        session=None if state.session is None else _session_view(state.session),
        parts_done=state.parts_done,
        last_progress=None if live is None else progress_view(live),
        waits_for=_sentence(state.waits_for),
    )


def _session_view(session: UploadSession) -> SessionView:
    return SessionView(
        session_id=session.session_id,
        bucket=session.bucket,
        key=session.key,
        upload_id=session.upload_id,
        part_bytes=session.part_bytes,
        size_bytes=session.size_bytes,
        state=session.state,
        created_at=session.created_at,
    )


def key_view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.key_id,
        user_id=key.user_id,
        role=key.role,
        name=key.name,
        created_at=key.created_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        scopes=sorted(key.scopes),
        last_used_at=key.last_used_at,
    )


def key_created(key: ApiKey, text: str) -> KeyCreated:
    """Return the new key with its text: the only time that it is shown."""
    return KeyCreated(**key_view(key).model_dump(), key=text)


def scaling_view(record: ScalingRecord) -> ScalingView:
    return ScalingView(
        ts=record.ts,
        reason=record.reason,
        wanted=record.wanted,
        online=record.online,
        pending=record.pending,
        draining=record.draining,
        load_pct=record.load_pct,
        jobs_waiting=record.jobs_waiting,
    )


def alert_list(alerts: Sequence[Alert]) -> AlertList:
    return AlertList(alerts=[_alert_view(alert) for alert in alerts])


def _alert_view(alert: Alert) -> AlertView:
    rule = alert.rule
    known = alert.value is not None and math.isfinite(alert.value)
    page = find_page(rule)
    return AlertView(
        name=rule.name,
        condition=str(rule.condition),
        window=window_text(rule.window_s),
        severity=rule.severity.value,
        runbook=None if page is None else f"docs/runbooks/{page}.md",
        action=None if rule.action is None else rule.action.value,
        state=alert.state.value,
        since=None if alert.since_s is None else utc(alert.since_s),
        value=alert.value if known else None,
    )
