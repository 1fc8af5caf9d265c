"""From domain values to the wire: names, rounding, and that nothing secret gets out."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from actors.ports import AgentView, JobState, LeaseView, QueueView
from rayhaul.capacity import AgentState, Capacity
from rayhaul.errors import Failure, Fault
from rayhaul.job import EventRecord, Job, JobEvent, JobResult, JobSpec, JobStatus, Metadata, Progress
from rayhaul.lease import SessionState, UploadSession
from rayhaul.ledger.base import ApiKey, Role
from rayhaul.wire import DeadLetterView, JobStateReport, JobView
from serve_app.views import (
    agent_job_report,
    agent_view,
    dead_letter_view,
    event_view,
    job_state_report,
    job_view,
    key_created,
    key_view,
    progress_event,
    queue_report,
    reply,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
SECRET = "s3cr3t"


def job(**changes: Any) -> Job:
    spec = JobSpec(
        url=f"https://me:{SECRET}@files.example:8443/a/b.bin?sig={SECRET}#{SECRET}",
        mirrors=(f"https://m.example/?{SECRET}",),
        headers={"Authorization": SECRET},
        webhook=f"https://hook.example/{SECRET}",
        refresh_webhook=f"https://hook.example/{SECRET}",
    )
    facts: dict[str, Any] = {"id": "job_1", "user_id": "alice", "correlation_id": "corr", "spec": spec}
    return Job(**{**facts, "created_at": NOW, **changes})


METADATA = Metadata(
    size_bytes=100,
    content_type="text/plain",
    etag='"v1"',
    last_modified=None,
    rangeable=True,
    filename="b.bin",
    final_url=f"https://cdn.example/b.bin?sig={SECRET}",
    fetch_ms=7,
)


def shown(value: Job, live: Progress | None = None) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(bytes(reply(job_view(value, live, bucket="bucket")).body))
    return told


def test_a_job_in_full() -> None:
    """Every field of the contract, in camelCase, times in UTC with milliseconds."""
    told = shown(job(metadata=METADATA, next_attempt_at=NOW, attempt=2, requeues=1, agents=("a1",), key="b.bin"))
    assert told == {
        "id": "job_1",
        "status": "queued",
        "url": "https://files.example:8443/a/b.bin",
        "filename": "b.bin",
        "priority": "normal",
        "tags": {},
        "destination": {"bucket": "bucket", "key": "b.bin"},
        "metadata": {
            "sizeBytes": 100,
            "contentType": "text/plain",
            "etag": '"v1"',
            "lastModified": None,
            "rangeable": True,
            "filename": "b.bin",
            "finalUrl": "https://cdn.example/b.bin",
            "fetchMs": 7,
        },
        "progress": {
            "bytes": 0,
            "bytesTotal": 100,
            "bytesPerSecond": 0.0,
            "etaSeconds": None,
            "partsDone": 0,
            "partsTotal": None,
        },
        "attempt": 2,
        "requeues": 1,
        "checksum": None,
        "result": None,
        "error": None,
        "agents": ["a1"],
        "correlationId": "corr",
        "userId": "alice",
        "createdAt": "2026-01-02T03:04:05.678Z",
        "startedAt": None,
        "completedAt": None,
        "nextAttemptAt": "2026-01-02T03:04:05.678Z",
    }


def test_no_secret_gets_out() -> None:
    """User info, query, fragment, header values and webhooks: not in the job, its error or its events."""
    failure = Failure(
        code="source_refused",
        message=f"GET https://me:{SECRET}@files.example/b.bin?sig={SECRET} 403",
        fault=Fault.SOURCE,
        retryable=False,
    )
    told = shown(job(status=JobStatus.FAILED, metadata=METADATA, error=failure))
    assert SECRET not in json.dumps(told)
    assert told["error"] == {
        "code": "source_refused",
        "message": "GET https://files.example/b.bin 403",
        "fault": "source",
        "retryable": False,
    }
    record = EventRecord(
        seq=7,
        ts=NOW,
        event=JobEvent.METADATA,
        job_id="job_1",
        user_id="alice",
        correlation_id="corr",
        status=JobStatus.QUEUED,
        payload={"correlationId": "corr", "deep": [{"url": METADATA.final_url}], "size": 3, "none": None},
    )
    event = json.loads(event_view(record).model_dump_json(by_alias=True))
    assert event["payload"] == {
        "correlationId": "corr",
        "deep": [{"url": "https://cdn.example/b.bin"}],
        "size": 3,
        "none": None,
    }


LIVE = Progress(bytes_done=40, bytes_total=None, bytes_per_s=12.345, eta_s=4.86, parts_done=2, parts_total=5)


@pytest.mark.parametrize(
    ("status", "started", "expected"),
    [
        (JobStatus.DOWNLOADING, True, (40, 100, 12.3, 4.9, 2, 5)),
        (JobStatus.UPLOADING, True, (40, 100, 12.3, 4.9, 2, 5)),
        (JobStatus.PAUSED, True, (40, 100, 0.0, None, 2, 5)),
        (JobStatus.FAILED, True, (40, 100, 0.0, None, 2, 5)),
        (JobStatus.QUEUED, False, (0, 100, 0.0, None, 0, None)),
    ],
)
def test_live_progress_counts_as_far_as_it_can(status: JobStatus, *, started: bool, expected: tuple[Any, ...]) -> None:
    """Speed and time left only while bytes move; nothing of an attempt that was given up."""
    value = job(status=status, metadata=METADATA, started_at=NOW if started else None)
    assert tuple(shown(value, LIVE)["progress"].values()) == expected


def test_a_completed_job_is_all_there() -> None:
    """Whatever was told last, the result says how much it is."""
    result = JobResult(bucket="other", key="b.bin", size_bytes=100, etag="e", sha256="00", parts_count=3)
    told = shown(job(status=JobStatus.COMPLETED, started_at=NOW, result=result, key="b.bin"), LIVE)
    assert tuple(told["progress"].values()) == (100, 100, 0.0, None, 3, 3)
    assert told["destination"] == {"bucket": "other", "key": "b.bin"}
    assert told["result"] == {
        "bucket": "other",
        "key": "b.bin",
        "sizeBytes": 100,
        "etag": "e",
        "sha256": "00",
        "crc64nvme": None,
    }


def test_a_client_reads_what_the_server_writes() -> None:
    """The wire model takes its own JSON back."""
    view = job_view(job(metadata=METADATA), LIVE, bucket="bucket")
    assert JobView.model_validate_json(view.model_dump_json(by_alias=True)) == view


def test_progress_is_an_event_without_a_number() -> None:
    """`seq` is null, and the payload has the correlation id like any other."""
    view = progress_event("job_1", LIVE, user_id="alice", correlation_id="corr", status=JobStatus.DOWNLOADING, now=NOW)
    assert (view.seq, view.event, view.status) == (None, "progress", JobStatus.DOWNLOADING)
    assert view.payload["correlationId"] == "corr"
    assert view.payload["bytes"] == 40


def test_a_keys_text_is_shown_once() -> None:
    """The view has neither text nor hash; the answer to its making has the text."""
    key = ApiKey(key_id="k1", user_id="alice", role=Role.USER, secret_sha256="f" * 64, name="laptop", created_at=NOW)
    assert "f" * 64 not in key_view(key).model_dump_json()
    created = json.loads(key_created(key, "the-text").model_dump_json(by_alias=True))
    assert created == {
        "id": "k1",
        "userId": "alice",
        "role": "user",
        "name": "laptop",
        "createdAt": "2026-01-02T03:04:05.678Z",
        "expiresAt": None,
        "revokedAt": None,
        "scopes": ["read", "write"],
        "lastUsedAt": None,
        "key": "the-text",
    }


SAID = f"PUT https://s3.example/b/k?X-Amz-Signature={SECRET} 403"
CLEAN = "PUT https://s3.example/b/k 403"


def a_lease(agent: str = "a1", **changes: Any) -> LeaseView:
    facts: dict[str, Any] = {"lease_id": "lease_1", "agent": agent, "epoch": 7, "first_part": 3, "end_part": 5}
    told: dict[str, Any] = {"granted_at": NOW, "progress": None, "idle_s": None, "doing": None}
    return LeaseView(**{**facts, **told, **changes})


def a_state(*leases: LeaseView, **changes: Any) -> JobState:
    facts: dict[str, Any] = {"job": job(epoch=9, dead_lettered_at=NOW), "session": None, "parts_done": 4}
    return JobState(**{**facts, "leases": leases, "waits_for": None, **changes})


def test_an_agent() -> None:
    """Percent and seconds are rounded; why it is unfit is told without secrets."""
    capacity = Capacity(slots=3, slots_used=2, bytes_per_s=10.06)
    view = agent_view(
        AgentView(
            agent="a1", state=AgentState.UNFIT, capacity=capacity, heartbeat_age_s=0.12345, leases_count=2, unfit=SAID
        )
    )
    assert (view.capacity_pct, view.bytes_per_second, view.heartbeat_age_seconds) == (66.7, 10.1, 0.123)
    assert (view.state, view.unfit) == ("unfit", CLEAN)


def test_the_queue() -> None:
    """Every priority is named, in its order; what parks it is told without secrets."""
    queue = QueueView(
        depth={"high": 2}, oldest_age_s=1.23456, paused=["high", "low"], dead_letters_count=3, parked=SAID
    )
    assert json.loads(queue_report(queue).model_dump_json(by_alias=True)) == {
        "depth": {"low": 0, "normal": 0, "high": 2},
        "oldestAgeSeconds": 1.235,
        "paused": ["low", "high"],
        "dlqDepth": 3,
        "parked": CLEAN,
    }


def test_a_dead_letter_is_the_job_and_since_when() -> None:
    """Nothing of the job is missing, nothing secret is in it, and a client reads it back."""
    dead = job(status=JobStatus.FAILED, dead_lettered_at=NOW, metadata=METADATA)
    view = dead_letter_view(dead, bucket="bucket")
    told = json.loads(view.model_dump_json(by_alias=True))
    assert told == {**shown(dead), "deadLetteredAt": "2026-01-02T03:04:05.678Z"}
    assert DeadLetterView.model_validate_json(view.model_dump_json(by_alias=True)) == view


def test_what_an_agent_does() -> None:
    """Only its own leases; stripes are half-open; none is no report; what it says has no secrets."""
    state = a_state(a_lease(doing=SAID, idle_s=1.23456, progress=LIVE), a_lease("a2"))
    report = agent_job_report("a1", state)
    assert report is not None
    (lease,) = report.leases
    assert (lease.stripe.first_part, lease.stripe.end_part, lease.idle_seconds, lease.doing) == (3, 5, 1.235, CLEAN)
    assert lease.progress is not None
    assert lease.progress.bytes == 40
    assert agent_job_report("a3", state) is None


def test_the_live_state() -> None:
    """What was told last is there even where the job has no progress to show; sentences have no secrets."""
    session = UploadSession(
        session_id="s1",
        job_id="job_1",
        bucket="bucket",
        key="k",
        upload_id="u1",
        part_bytes=5,
        size_bytes=9,
        state=SessionState.ABORTING,
        created_at=NOW,
    )
    report = job_state_report(a_state(a_lease(), session=session, waits_for=SAID), LIVE, bucket="bucket")
    told = json.loads(report.model_dump_json(by_alias=True))
    assert SECRET not in json.dumps(told)
    assert (told["epoch"], told["partsDone"], told["waitsFor"]) == (9, 4, CLEAN)
    assert (told["job"]["progress"]["bytes"], told["lastProgress"]["bytes"]) == (0, 40)
    assert told["session"]["state"] == "aborting"
    assert JobStateReport.model_validate_json(report.model_dump_json(by_alias=True)) == report
