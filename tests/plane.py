"""The small plane: a control plane without agents, and the API over it.

It writes what it is asked for straight into the real ledger; the test moves the jobs on. Routes see the same Protocol
as in production.
"""

import asyncio
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from ledger_files import sqlite_url
from seams import BUCKET, Clock, FakeLinks, Seam

from actors.log_files import LocalLogs
from actors.ports import (
    Accepted,
    AgentView,
    Command,
    ControlPlane,
    HostView,
    JobState,
    LeaseView,
    LogReader,
    ProgressPage,
    QueueView,
    Submission,
)
from rayhaul.capacity import AgentState
from rayhaul.errors import Conflict, Failure, IdempotencyMismatch, NotFound, SourceBusy
from rayhaul.ids import IdFactory
from rayhaul.job import EventRecord, Job, JobEvent, JobResult, JobStatus, Metadata, Priority, Progress, utc
from rayhaul.keys import new_key, retiring
from rayhaul.lease import UploadSession
from rayhaul.ledger.base import ApiKey, Batch, IdempotencyRecord, JobFilter, Ledger, Role, Viewer
from rayhaul.ledger.store import SqlLedger, open_ledger
from rayhaul.metrics import Meter, Snapshot, merge
from rayhaul.policy.alerting import Alert
from rayhaul.settings import ApiSettings, LedgerSettings, Settings
from serve_app.app import create_app

_EVERYTHING = Viewer("plane", Role.OPERATOR)
_COMMANDS = {
    Command.CANCEL: JobEvent.CANCELLED,
    Command.PAUSE: JobEvent.PAUSED,
    Command.RESUME: JobEvent.RESUMED,
    Command.RETRY: JobEvent.REQUEUED,
    Command.REQUEUE: JobEvent.REQUEUED,
}


class SmallPlane:
    """`ControlPlane` (actors/ports.py) on a ledger, and `move` for what agents would cause."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time) -> None:
        self._ledger = ledger
        self._clock = clock
        self._new_id = IdFactory(clock)
        #: One writer: commands of many requests take turns.
        self._turn = asyncio.Lock()
        self.meter = Meter()
        self.version = 0
        self.live: dict[str, tuple[int, Progress]] = {}
        self.asked_for_progress = 0
        self.known_agents: list[AgentView] = []
        self.known_hosts: list[HostView] = []
        #: The hosts that a user's running jobs use.
        self.hosts_of: defaultdict[str, set[str]] = defaultdict(set)
        self.paused: set[Priority] = set()
        self.parked: str | None = None
        #: By job id: what agents hold of it, its upload, and why it waits.
        self.leases: dict[str, list[LeaseView]] = {}
        self.sessions: dict[str, UploadSession] = {}
        self.waits_for: dict[str, str] = {}
        self.is_ready = True
        self.known_alerts: Sequence[Alert] = ()

    async def submit(self, submission: Submission) -> Accepted:
        async with self._turn:
            spend = submission.idempotency
            if spend is not None:
                spent = await self._ledger.spent([(submission.user_id, spend[0])])
                for known in spent.values():
                    if known.fingerprint != spend[1]:
                        raise IdempotencyMismatch
                    return Accepted(job_ids=known.job_ids, replayed=True)
            now = utc(self._clock())
            jobs = [
                Job(
                    id=self._new_id("job"),
                    user_id=submission.user_id,
                    correlation_id=submission.correlation_id,
                    traceparent=submission.traceparent,
                    spec=spec,
                    created_at=now,
                    key=spec.key,
                )
                for spec in submission.specs
            ]
            ids = tuple(job.id for job in jobs)
            records = []
            if spend is not None:
                records.append(
                    IdempotencyRecord(
                        user_id=submission.user_id, key=spend[0], fingerprint=spend[1], job_ids=ids, created_at=now
                    )
                )
            events = [self._event(job, JobEvent.CREATED, {"url": job.spec.url}) for job in jobs]
            await self._ledger.commit(Batch(jobs_new=jobs, events=events, idempotency=records))
            return Accepted(job_ids=ids, job=jobs[0] if len(jobs) == 1 else None)

    async def command(self, viewer: Viewer, job_id: str, command: Command) -> Job:
        job = await self._ledger.job(viewer, job_id)
        if command is Command.CANCEL and job.status is JobStatus.CANCELLED:
            return job
        if command is Command.RETRY and not job.is_final:
            raise Conflict(f"a {job.status} job can not be retried")
        return await self.move(job_id, _COMMANDS[command])

    async def move(self, job_id: str, *events: JobEvent, **changes: Any) -> Job:
        """Let these events happen to a job, in one commit; `changes` come with the last one."""
        async with self._turn:
            return await self._move(await self._ledger.job(_EVERYTHING, job_id), *events, **changes)

    async def _move(self, before: Job, *events: JobEvent, **changes: Any) -> Job:
        job, records = before, []
        for event in events:
            job = job.after(event)
            records.append(self._event(job, event, {}))
        started = job.started_at or (utc(self._clock()) if job.status is JobStatus.DOWNLOADING else None)
        job = replace(job, version=before.version + 1, **{"started_at": started, **changes})
        await self._ledger.commit(Batch(jobs_changed=[job], events=records))
        return job

    async def complete(self, job_id: str, size_bytes: int = 1000, key: str = "a/file.bin") -> Job:
        """Let a queued job run to its end."""
        result = JobResult(bucket=BUCKET, key=key, size_bytes=size_bytes, etag="abc", sha256="00" * 32, parts_count=2)
        found = Metadata(
            size_bytes=size_bytes,
            content_type="application/octet-stream",
            etag='"v1"',
            last_modified=None,
            rangeable=True,
            filename="file.bin",
            final_url="https://cdn.example/file.bin?signature=SECRET",
            fetch_ms=12,
        )
        happened = (JobEvent.METADATA, JobEvent.STARTED, JobEvent.UPLOADING, JobEvent.COMPLETED)
        return await self.move(
            job_id, *happened, metadata=found, result=result, key=key, completed_at=utc(self._clock())
        )

    async def bury(self, job_id: str, error: Failure | None = None) -> Job:
        """Let a queued job run out of deliveries."""
        now = utc(self._clock())
        happened = (JobEvent.STARTED, JobEvent.REQUEUED, JobEvent.FAILED, JobEvent.DEADLETTERED)
        died = {"error": error or SourceBusy().failure(), "completed_at": now, "dead_lettered_at": now}
        return await self.move(job_id, *happened, attempt=5, requeues=1, **died)

    def tell_progress(self, job_id: str, progress: Progress) -> None:
        self.version += 1
        self.live[job_id] = (self.version, progress)

    def _event(self, job: Job, event: JobEvent, payload: Mapping[str, Any]) -> EventRecord:
        return EventRecord(
            ts=utc(self._clock()),
            event=event,
            job_id=job.id,
            user_id=job.user_id,
            correlation_id=job.correlation_id,
            status=job.status,
            payload={"correlationId": job.correlation_id, **payload},
        )

    async def progress(self, since: int) -> ProgressPage:
        self.asked_for_progress += 1
        since = 0 if since > self.version else since
        changed = {job_id: progress for job_id, (version, progress) in self.live.items() if version > since}
        return ProgressPage(version=self.version, jobs=changed)

    async def agents(self) -> Sequence[AgentView]:
        return self.known_agents

    async def hosts(self, viewer: Viewer) -> Sequence[HostView]:
        return [host for host in self.known_hosts if viewer.sees_all or host.host in self.hosts_of[viewer.user_id]]

    async def queue(self) -> QueueView:
        everything = 10_000
        waiting = await self._ledger.jobs(_EVERYTHING, JobFilter(status=JobStatus.QUEUED, limit=everything))
        dead = await self._ledger.jobs(_EVERYTHING, JobFilter(dead_lettered=True, limit=everything))
        oldest = min((job.created_at for job in waiting), default=utc(self._clock()))
        return QueueView(
            depth=Counter(job.spec.priority.value for job in waiting),
            oldest_age_s=(utc(self._clock()) - oldest).total_seconds(),
            paused=sorted(self.paused),
            dead_letters_count=len(dead),
            parked=self.parked,
        )

    async def set_paused(self, priority: Priority, *, paused: bool) -> QueueView:
        (self.paused.add if paused else self.paused.discard)(priority)
        return await self.queue()

    async def replay(self, job_id: str) -> Job:
        async with self._turn:
            job = await self._dead(job_id)
            alive = {"attempt": 0, "requeues": 0, "error": None, "started_at": None, "completed_at": None}
            return await self._move(job, JobEvent.REQUEUED, dead_lettered_at=None, **alive)

    async def discard(self, job_id: str) -> Job:
        async with self._turn:
            return await self._move(await self._dead(job_id), dead_lettered_at=None)

    async def _dead(self, job_id: str) -> Job:
        job = await self._ledger.job(_EVERYTHING, job_id)
        if job.dead_lettered_at is None:
            raise Conflict("the job is not dead-lettered")
        return job

    async def job_state(self, job_id: str) -> JobState:
        session = self.sessions.get(job_id)
        return JobState(
            job=await self._ledger.job(_EVERYTHING, job_id),
            leases=self.leases.get(job_id, []),
            session=session,
            parts_done=len(await self._ledger.parts(session.session_id)) if session else 0,
            waits_for=self.waits_for.get(job_id),
        )

    async def stop_job(self, agent: str, job_id: str) -> Job:
        leases = self.leases.get(job_id, [])
        kept = [lease for lease in leases if lease.agent != agent]
        if kept == leases:
            raise NotFound
        self.leases[job_id] = kept
        return await self.move(job_id, JobEvent.REQUEUED)

    async def drain(self, agent: str) -> AgentView:
        for index, known in enumerate(self.known_agents):
            if known.agent == agent:
                self.known_agents[index] = replace(known, state=AgentState.DRAINING)
                return self.known_agents[index]
        raise NotFound

    async def enable_webhook(self, user_id: str, url: str) -> None:
        await self._ledger.commit(Batch(webhooks_enabled=[(user_id, url)]))

    async def create_key(self, key: ApiKey) -> None:
        await self._ledger.commit(Batch(keys=[key]))

    async def revoke_key(self, key_id: str, now: datetime) -> ApiKey:
        known = await self._ledger.key(key_id)
        if known is None:
            raise NotFound
        revoked = replace(known, revoked_at=known.revoked_at or now)
        await self._ledger.commit(Batch(keys=[revoked]))
        return revoked

    async def rotate_key(self, key_id: str, successor: ApiKey, now: datetime, overlap: timedelta) -> ApiKey:
        known = await self._ledger.key(key_id)
        if known is None:
            raise NotFound
        if known.revoked_at is not None:
            raise Conflict
        old = retiring(known, now, overlap)
        await self._ledger.commit(Batch(keys=[successor, old]))
        return old

    async def note_keys_used(self, used: Mapping[str, datetime]) -> None:
        await self._ledger.commit(Batch(keys_used=used))

    async def metrics(self, replica: str, snapshot: Snapshot) -> Snapshot:
        return merge([self.meter.snapshot(), snapshot])

    async def alerts(self) -> Sequence[Alert]:
        return self.known_alerts

    async def ready(self) -> bool:
        return self.is_ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The API over the small plane, called in this process."""

    app: FastAPI
    http: httpx.AsyncClient
    plane: SmallPlane
    #: In front of the plane and the ledger, as the API has them.
    plane_seam: Seam
    ledger_seam: Seam
    ledger: SqlLedger
    clock: Clock
    #: `Authorization` headers by the name of who they belong to.
    auth: dict[str, dict[str, str]] = field(default_factory=dict)

    async def add_key(self, user: str, role: Role = Role.USER, **changes: Any) -> ApiKey:
        """Make a key; `changes` to its record make it revoked or expired."""
        text, key = new_key(user, role, "test", datetime.now(UTC), secrets.token_bytes)
        await self.ledger.commit(Batch(keys=[replace(key, **changes)]))
        self.auth[user] = {"Authorization": f"Bearer {text}"}
        return key

    async def submit(self, user: str = "alice", **fields: Any) -> str:
        """Ask for a job as `user`; return its id."""
        body = {"url": "https://files.example/data.bin", **fields}
        answer = await self.http.post("/jobs", json=body, headers=self.auth[user])
        assert answer.status_code == 201, answer.text
        job_id: str = answer.json()["id"]
        return job_id


def api_settings(**api: Any) -> Settings:
    return Settings().model_copy(
        update={
            "api": ApiSettings(**{"key_cache_s": 0, **api}),
        }
    )


@asynccontextmanager
async def site_at(
    directory: Path, settings: Settings | None = None, ledger: SqlLedger | None = None, logs: LogReader | None = None
) -> AsyncIterator[Site]:
    """Yield the API with keys for alice, bob (users) and olga (operator).

    It is over `ledger`, which it closes in the end, or over a fresh one on SQLite.
    """
    ledger = ledger or open_ledger(LedgerSettings(event_poll_s=0.01), sqlite_url(directory))
    clock = Clock()
    plane = SmallPlane(ledger, clock)
    plane_seam, ledger_seam = Seam(plane), Seam(ledger)
    app = create_app(
        plane=_as_plane(plane_seam),
        ledger=_as_ledger(ledger_seam),
        links=FakeLinks(),
        settings=settings or api_settings(),
        replica="api/test",
        logs=logs or LocalLogs(),
        clock=clock,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as http:
        site = Site(
            app=app,
            http=http,
            plane=plane,
            plane_seam=plane_seam,
            ledger_seam=ledger_seam,
            ledger=ledger,
            clock=clock,
        )
        await site.add_key("alice")
        await site.add_key("bob")
        await site.add_key("olga", Role.OPERATOR)
        try:
            yield site
        finally:
            await ledger.close()


def _as_plane(seam: Any) -> ControlPlane:
    plane: ControlPlane = seam
    return plane


def _as_ledger(seam: Any) -> Ledger:
    ledger: Ledger = seam
    return ledger


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """Serve the app on a free port of 127.0.0.1, in this loop; yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if serving.done():
                serving.result()
            await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await serving
