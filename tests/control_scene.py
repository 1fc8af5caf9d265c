"""A scene for tests of the operator's verbs: a dead letter, a job in two agents' hands, an agent that is unfit."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from plane import Site
from seams import BUCKET

from actors.ports import AgentView, HostView, LeaseView
from rayhaul.capacity import AgentState, Capacity
from rayhaul.job import JobEvent, Progress
from rayhaul.lease import Lease, PartDone, SessionState, UploadSession
from rayhaul.ledger.base import Batch

SECRET = "s3cr3t"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
PART = 5_242_880
PROGRESS = Progress(bytes_done=40, bytes_total=100, bytes_per_s=2048.04, eta_s=4.86, parts_done=2, parts_total=5)
UNFIT = "the disk is full"
BACKING_OFF_UNTIL = datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Scene:
    site: Site
    #: Of alice: in the dead-letter queue.
    dead: str
    #: Of alice: `agent-1` holds two stripes of it, `agent-2` one.
    running: str


def lease(number: int, agent: str, **changes: Any) -> LeaseView:
    facts: dict[str, Any] = {
        "lease_id": f"lease_{number}",
        "agent": agent,
        "epoch": 7,
        "first_part": 10 * number + 1,
        "end_part": 10 * number + 11,
        "granted_at": NOW,
        "progress": PROGRESS,
        "idle_s": 12.34567,
        "doing": "waits for the source",
    }
    return LeaseView(**{**facts, **changes})


async def scene_of(site: Site) -> Scene:
    dead, running = await site.submit("alice"), await site.submit("alice")
    await site.plane.bury(dead)
    await site.plane.move(running, JobEvent.STARTED, epoch=7)
    session = UploadSession(
        session_id="session_1",
        job_id=running,
        bucket=BUCKET,
        key="a/file.bin",
        upload_id="upload-1",
        part_bytes=PART,
        size_bytes=None,
        state=SessionState.OPEN,
        created_at=NOW,
    )
    agents = ("agent-1", "agent-1", "agent-2")
    parts = [
        PartDone(session_id="session_1", number=number, size_bytes=PART, etag="e", agent=agent)
        for number, agent in enumerate(agents, 1)
    ]
    held = Lease(
        lease_id=f"lease_{running}",
        job_id=running,
        epoch=7,
        agent="agent-1",
        incarnation="1",
        first_part=1,
        end_part=11,
        granted_at=NOW,
    )
    await site.ledger.commit(Batch(sessions=[session], parts=parts, leases_granted=[held]))
    plane = site.plane
    plane.sessions[running] = session
    plane.leases[running] = [
        lease(0, "agent-1"),
        lease(1, "agent-1", progress=None, idle_s=None, doing=None),
        lease(2, "agent-2"),
    ]
    capacity = Capacity(slots=8, slots_used=6, bytes_per_s=1000.04)
    plane.known_agents = [
        AgentView(agent="agent-1", state=AgentState.ONLINE, capacity=capacity, heartbeat_age_s=0.12345, leases_count=2),
        AgentView(
            agent="agent-2",
            state=AgentState.UNFIT,
            capacity=capacity,
            heartbeat_age_s=1,
            leases_count=1,
            unfit=UNFIT,
        ),
    ]
    plane.known_hosts = [
        HostView(
            host="busy.example:443",
            connections=7,
            connections_max=32,
            bytes_per_s=1000.04,
            backing_off_until=None,
            jobs_waiting=0,
        ),
        HostView(
            host="slow.example:8443",
            connections=1,
            connections_max=2,
            bytes_per_s=0,
            backing_off_until=BACKING_OFF_UNTIL,
            jobs_waiting=3,
        ),
    ]
    plane.hosts_of["alice"].add("busy.example:443")
    return Scene(site, dead, running)


async def add_upload(scene: Scene, agents: Sequence[str | None], **changes: Any) -> None:
    """Record a newer upload of the running job, whose parts are of these agents."""
    facts: dict[str, Any] = {
        "session_id": "session_2",
        "job_id": scene.running,
        "bucket": "bucket",
        "key": "a/file.bin",
        "upload_id": "upload-2",
        "part_bytes": PART,
        "size_bytes": PART * len(agents),
        "state": SessionState.OPEN,
        "created_at": NOW + timedelta(seconds=1),
    }
    session = UploadSession(**{**facts, **changes})
    parts = [
        PartDone(session_id="session_2", number=number, size_bytes=PART, etag="e", agent=agent)
        for number, agent in enumerate(agents, 1)
    ]
    await scene.site.ledger.commit(Batch(sessions=[session], parts=parts))


async def ask(scene: Scene, user: str, method: str, path: str, body: dict[str, str] | None = None) -> httpx.Response:
    """Ask as `user`; ids of the scene are put where `path` and `body` name them."""
    ids = {"dead": scene.dead, "running": scene.running}
    filled = None if body is None else {name: value.format(**ids) for name, value in body.items()}
    headers = scene.site.auth.get(user, {})
    return await scene.site.http.request(method, path.format(**ids), json=filled, headers=headers)
