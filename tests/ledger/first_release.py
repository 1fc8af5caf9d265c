"""What was committed to a ledger of the first release; released/v0001.json has its rows, as that release wrote them.

The rows are never written anew: they are what customers have.
"""

from dataclasses import replace
from datetime import timedelta

from ledger_samples import (
    ANN,
    BOB,
    NOW,
    OPERATOR,
    a_full_job,
    a_job,
    a_key,
    a_lease,
    a_message,
    a_part,
    a_record,
    a_session,
    an_event,
)

from rayhaul.job import Job, JobEvent, JobStatus
from rayhaul.lease import SessionState
from rayhaul.ledger.base import Batch, Viewer


def _job(number: int, viewer: Viewer = ANN, status: JobStatus = JobStatus.QUEUED) -> Job:
    return a_job(viewer, id=f"job_0000000000000000000000000{number}", status=status)


def _as_it_was_then(job: Job) -> Job:
    """Return the job without what later releases know of a source and a result, and can be asked for."""
    assert job.metadata is not None
    assert job.result is not None
    metadata = replace(job.metadata, described_place=0, other_hosts=(), crc32c=None)
    result = replace(job.result, checksum=None)
    return replace(job, metadata=metadata, result=result, spec=replace(job.spec, compute_sha256=False))


FULL = _as_it_was_then(replace(a_full_job(), id="job_00000000000000000000000001"))
QUEUED = _job(2, BOB)
RUNNING = replace(_job(3, status=JobStatus.DOWNLOADING), started_at=NOW, agents=("agent-1",), epoch=2, version=5)
DONE = replace(_job(4, BOB, JobStatus.COMPLETED), completed_at=NOW + timedelta(seconds=9), version=7)
JOBS = (FULL, QUEUED, RUNNING, DONE)

OPEN_SESSION = a_session(RUNNING, session_id="ses_1")
OLD_SESSION = a_session(DONE, session_id="ses_2", state=SessionState.COMPLETED)

EVERYTHING = Batch(
    jobs_new=JOBS,
    events=[
        *(an_event(replace(job, status=JobStatus.QUEUED), url=job.spec.url) for job in JOBS),
        an_event(RUNNING, JobEvent.STARTED, agent="agent-1"),
        an_event(DONE, JobEvent.COMPLETED, sizeBytes=5 << 40),
        an_event(FULL, JobEvent.FAILED, code="source_busy"),
        an_event(FULL, JobEvent.DEADLETTERED),
    ],
    leases_granted=[a_lease(RUNNING, lease_id="lease_1", epoch=2), a_lease(RUNNING, lease_id="lease_2", first_part=5)],
    sessions=[OPEN_SESSION, OLD_SESSION],
    parts=[a_part(OPEN_SESSION, 1), a_part(OPEN_SESSION, 2, crc64nvme=(1 << 64) - 1), a_part(OLD_SESSION, 1)],
    idempotency=[a_record(ANN, "key-1", FULL, RUNNING), a_record(BOB, "key-1", QUEUED)],
    outbox=[replace(a_message(job), outbox_id=f"msg_{number}") for number, job in enumerate((FULL, DONE), 1)],
    keys=[
        a_key(ANN, key_id="key_1", expires_at=NOW + timedelta(days=1)),
        a_key(OPERATOR, key_id="key_2", revoked_at=NOW),
    ],
)
