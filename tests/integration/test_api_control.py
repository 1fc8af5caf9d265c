"""The operator's verbs over HTTP: who may what, the queue's valve, the agents, the live state of a job."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from answers import check_problem
from control_scene import SECRET, UNFIT, Scene, ask, scene_of
from plane import site_at
from seams import BUCKET

from rayhaul.errors import Unavailable
from rayhaul.job import Progress
from rayhaul.ledger.base import Role

UNKNOWN = "job_00000000000000000000000000"

#: What a request without a key gets, the job's owner, another user, and an operator.
DOORS: list[tuple[str, str, dict[str, str] | None, tuple[int, int, int, int]]] = [
    ("GET", "/dlq", None, (401, 200, 200, 200)),
    ("POST", "/dlq/{dead}/replay", None, (401, 200, 404, 200)),
    ("DELETE", "/dlq/{dead}", None, (401, 200, 404, 200)),
    ("GET", "/queue", None, (401, 200, 200, 200)),
    ("POST", "/queue/pause", {"priority": "low"}, (401, 403, 403, 200)),
    ("POST", "/queue/resume", {"priority": "low"}, (401, 403, 403, 200)),
    ("GET", "/hosts", None, (401, 200, 200, 200)),
    ("GET", "/scaling", None, (401, 403, 403, 200)),
    ("GET", "/agents", None, (401, 403, 403, 200)),
    ("GET", "/agents/agent-1", None, (401, 403, 403, 200)),
    ("GET", "/agents/agent-1/status/{running}", None, (401, 403, 403, 200)),
    ("POST", "/agents/agent-1/stop", {"jobId": "{running}"}, (401, 403, 403, 200)),
    ("POST", "/agents/agent-1/drain", None, (401, 403, 403, 200)),
    ("GET", "/internal/jobs/{running}/state", None, (401, 403, 403, 200)),
]
CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found"}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with site_at(tmp_path) as site:
        yield await scene_of(site)


@pytest.mark.parametrize(("place", "caller"), list(enumerate(("nobody", "alice", "bob", "olga"))))
@pytest.mark.parametrize(("method", "path", "body", "statuses"), DOORS)
async def test_who_may(
    scene: Scene,
    *,
    method: str,
    path: str,
    body: dict[str, str] | None,
    statuses: tuple[int, int, int, int],
    place: int,
    caller: str,
) -> None:
    """Each route for nobody, the owner, another user and an operator."""
    answer = await ask(scene, caller, method, path, body)
    if statuses[place] == 200:
        assert answer.status_code == 200, answer.text
    else:
        check_problem(answer, statuses[place], CODES[statuses[place]])


async def test_the_document_declares_every_door(scene: Scene) -> None:
    """The OpenAPI document has each route, each status that it was seen to answer, and the bodies that it takes."""
    document = (await scene.site.http.get("/openapi.json")).json()
    for method, path, body, statuses in DOORS:
        template = path.replace("agent-1", "{agent}").replace("{dead}", "{job_id}").replace("{running}", "{job_id}")
        operation = document["paths"][template][method.lower()]
        expected = {200, 503, *statuses}
        expected |= {404} if "{job_id}" in template or "{agent}" in template else set()
        expected |= {409} if template.startswith("/dlq/") else set()
        expected |= {400, 413, 422} if body else set()
        expected |= {422} if template in {"/dlq", "/scaling"} else set()
        # The edge and the key's limits stand before every route.
        expected |= {400, 403, 414, 429, 431}
        assert {int(status) for status in operation["responses"]} == expected, template
        assert ("requestBody" in operation) == bool(body)


@pytest.mark.parametrize(
    ("method", "path", "body", "verb"),
    [
        ("POST", "/dlq/{dead}/replay", None, "replay"),
        ("DELETE", "/dlq/{dead}", None, "discard"),
        ("GET", "/queue", None, "queue"),
        ("POST", "/queue/pause", {"priority": "low"}, "set_paused"),
        ("POST", "/queue/resume", {"priority": "low"}, "set_paused"),
        ("GET", "/hosts", None, "hosts"),
        ("GET", "/agents", None, "agents"),
        ("GET", "/agents/agent-1", None, "agents"),
        ("GET", "/agents/agent-1/status/{running}", None, "job_state"),
        ("POST", "/agents/agent-1/stop", {"jobId": "{running}"}, "stop_job"),
        ("POST", "/agents/agent-1/drain", None, "drain"),
        ("GET", "/internal/jobs/{running}/state", None, "job_state"),
    ],
)
async def test_a_scheduler_out_of_reach(
    scene: Scene, method: str, path: str, body: dict[str, str] | None, verb: str
) -> None:
    """Each route says 503 and when to come back while the scheduler cannot be asked."""
    scene.site.plane_seam.fail[verb] = Unavailable(retry_after_s=3)
    answer = await ask(scene, "olga", method, path, body)
    check_problem(answer, 503, "internal")
    assert answer.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", f"/dlq/{UNKNOWN}/replay", None),
        ("DELETE", f"/dlq/{UNKNOWN}", None),
        ("POST", "/dlq/a.b/replay", None),
        ("DELETE", "/dlq/%00", None),
        ("GET", "/agents/agent-9", None),
        ("GET", "/agents/%00", None),
        ("GET", "/agents/agent-9/status/{running}", None),
        ("GET", "/agents/agent-1/status/{dead}", None),
        ("GET", f"/agents/agent-1/status/{UNKNOWN}", None),
        ("GET", "/agents/agent-1/status/a.b", None),
        ("POST", "/agents/agent-9/stop", {"jobId": "{running}"}),
        ("POST", "/agents/agent-1/stop", {"jobId": "{dead}"}),
        ("POST", "/agents/agent-1/stop", {"jobId": UNKNOWN}),
        ("POST", "/agents/agent-9/drain", None),
        ("POST", "/agents/a.b/drain", None),
        ("GET", f"/internal/jobs/{UNKNOWN}/state", None),
        ("GET", "/internal/jobs/a.b/state", None),
    ],
)
async def test_what_is_not_there(scene: Scene, method: str, path: str, body: dict[str, str] | None) -> None:
    """A job, an agent, a lease that there is not: 404, for an operator too."""
    check_problem(await ask(scene, "olga", method, path, body), 404, "not_found")


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("/queue/pause", b"", 400, None),
        ("/queue/pause", b"{", 400, None),
        ("/queue/pause", b"{}", 422, "priority"),
        ("/queue/pause", b'{"priority": "s3cr3t"}', 422, "priority"),
        ("/queue/resume", b'{"priority": null}', 422, "priority"),
        ("/queue/resume", b'{"priority": "low", "surprise": 1}', 422, "surprise"),
        ("/queue/resume", b'"' + b"x" * 1024 * 1024 + b'"', 413, None),
        ("/agents/agent-1/stop", b"{", 400, None),
        ("/agents/agent-1/stop", b"{}", 422, "jobId"),
        ("/agents/agent-1/stop", b'{"jobId": "s3cr3t/../x"}', 422, "jobId"),
        ("/agents/agent-1/stop", b'{"job_id": "job_1"}', 422, "jobId"),
        ("/agents/agent-1/stop", b'{"jobId": "job_1", "surprise": 1}', 422, "surprise"),
        ("/agents/agent-1/stop", b'"' + b"x" * 1024 * 1024 + b'"', 413, None),
    ],
)
async def test_bad_bodies(scene: Scene, path: str, body: bytes, status: int, field: str | None) -> None:
    """What cannot be read is refused with the field's name and not its value; nothing is done."""
    answer = await scene.site.http.post(path, content=body, headers=scene.site.auth["olga"])
    problem = check_problem(answer, status, "invalid_request")
    assert field is None or field in [error["field"] for error in problem["errors"]]
    assert SECRET not in answer.text
    assert scene.site.plane.paused == set()
    assert len(scene.site.plane.leases[scene.running]) == 3


# --- the queue ---


async def test_the_valve(scene: Scene) -> None:
    """A priority is held back and let go; each answer is the queue as it is then, for users too; twice is once."""
    await scene.site.submit("bob", priority="low")
    shown = (await ask(scene, "bob", "GET", "/queue")).json()
    assert shown.pop("oldestAgeSeconds") >= 0
    assert shown == {"depth": {"low": 1, "normal": 0, "high": 0}, "paused": [], "dlqDepth": 1, "parked": None}
    steps = [
        ("pause", "normal", ["normal"]),
        ("pause", "low", ["low", "normal"]),
        ("pause", "low", ["low", "normal"]),
        ("resume", "normal", ["low"]),
        ("resume", "normal", ["low"]),
    ]
    for verb, priority, paused in steps:
        answer = await ask(scene, "olga", "POST", f"/queue/{verb}", {"priority": priority})
        assert answer.json()["paused"] == paused
        assert (await ask(scene, "alice", "GET", "/queue")).json()["paused"] == paused


async def test_a_parked_queue_says_why(scene: Scene) -> None:
    """Where no job is started at all the queue tells the reason, without secrets."""
    scene.site.plane.parked = f"the bucket refuses us: PUT https://s3.example/b/k?X-Amz-Signature={SECRET} 403"
    parked = (await ask(scene, "alice", "GET", "/queue")).json()["parked"]
    assert parked == "the bucket refuses us: PUT https://s3.example/b/k 403"


# --- the agents ---


async def test_agents_are_shown(scene: Scene) -> None:
    """Capacity in percent, ages in seconds, and why one is unfit."""
    expected = {
        "agent": "agent-1",
        "state": "online",
        "capacityPct": 75.0,
        "slots": 8,
        "slotsUsed": 6,
        "bytesPerSecond": 1000.0,
        "heartbeatAgeSeconds": 0.123,
        "leases": 2,
        "unfit": None,
    }
    shown = (await ask(scene, "olga", "GET", "/agents")).json()["agents"]
    assert shown[0] == expected
    assert (shown[1]["state"], shown[1]["unfit"]) == ("unfit", UNFIT)
    assert (await ask(scene, "olga", "GET", "/agents/agent-1")).json() == expected


async def test_the_hosts(scene: Scene) -> None:
    """Their connections, and until when none is opened; users see those that their running jobs use."""
    busy = {
        "host": "busy.example:443",
        "connections": 7,
        "connectionsMax": 32,
        "bytesPerSecond": 1000.0,
        "backingOffUntil": None,
        "jobsWaiting": 0,
    }
    shown = (await ask(scene, "olga", "GET", "/hosts")).json()["hosts"]
    assert shown[0] == busy
    assert shown[1]["backingOffUntil"] == "2099-01-02T03:04:05.000Z"
    assert (await ask(scene, "alice", "GET", "/hosts")).json() == {"hosts": [busy]}
    assert (await ask(scene, "bob", "GET", "/hosts")).json() == {"hosts": []}


async def test_what_an_agent_does_for_a_job(scene: Scene) -> None:
    """Its leases and nobody else's; what it has not told yet is null."""
    shown = (await ask(scene, "olga", "GET", "/agents/agent-1/status/{running}")).json()
    first = {
        "leaseId": "lease_0",
        "agent": "agent-1",
        "epoch": 7,
        "stripe": {"firstPart": 1, "endPart": 11},
        "grantedAt": "2026-01-02T03:04:05.678Z",
        "progress": {
            "bytes": 40,
            "bytesTotal": 100,
            "bytesPerSecond": 2048.0,
            "etaSeconds": 4.9,
            "partsDone": 2,
            "partsTotal": 5,
        },
        "idleSeconds": 12.346,
        "doing": "waits for the source",
    }
    silent = {"leaseId": "lease_1", "stripe": {"firstPart": 11, "endPart": 21}}
    nothing = {"progress": None, "idleSeconds": None, "doing": None}
    assert shown == {
        "agent": "agent-1",
        "jobId": scene.running,
        "status": "downloading",
        "leases": [first, first | silent | nothing],
    }


async def test_a_job_is_taken_from_an_agent(scene: Scene) -> None:
    """It goes back to the queue; the agent that holds nothing of it any more is told so the second time."""
    answer = await ask(scene, "olga", "POST", "/agents/agent-1/stop", {"jobId": "{running}"})
    assert (answer.json()["id"], answer.json()["status"]) == (scene.running, "queued")
    assert [lease.agent for lease in scene.site.plane.leases[scene.running]] == ["agent-2"]
    again = await ask(scene, "olga", "POST", "/agents/agent-1/stop", {"jobId": "{running}"})
    check_problem(again, 404, "not_found")


async def test_an_agent_is_drained(scene: Scene) -> None:
    """It is shown as draining, at once and from then on; a second time changes nothing."""
    for _ in range(2):
        answer = await ask(scene, "olga", "POST", "/agents/agent-1/drain")
        assert (answer.status_code, answer.json()["state"]) == (200, "draining")
    assert (await ask(scene, "olga", "GET", "/agents/agent-1")).json()["state"] == "draining"


# --- the live state ---


async def test_the_live_state_of_a_job(scene: Scene) -> None:
    """The job, its leases on all agents, its upload and the parts the ledger has, the last progress."""
    scene.site.plane.tell_progress(scene.running, Progress(bytes_done=60, bytes_total=100))
    shown = (await ask(scene, "olga", "GET", "/internal/jobs/{running}/state")).json()
    assert shown["job"] == (await ask(scene, "alice", "GET", f"/jobs/{scene.running}")).json()
    assert shown["job"]["progress"] == shown["lastProgress"]
    assert shown["lastProgress"]["bytes"] == 60
    assert [(lease["agent"], lease["leaseId"]) for lease in shown["leases"]] == [
        ("agent-1", "lease_0"),
        ("agent-1", "lease_1"),
        ("agent-2", "lease_2"),
    ]
    assert shown["session"] == {
        "sessionId": "session_1",
        "bucket": BUCKET,
        "key": "a/file.bin",
        "uploadId": "upload-1",
        "partBytes": 5_242_880,
        "sizeBytes": None,
        "state": "open",
        "createdAt": "2026-01-02T03:04:05.678Z",
    }
    facts = ("epoch", "partsDone", "waitsFor", "deadLetteredAt")
    assert [shown[name] for name in facts] == [7, 3, None, None]


async def test_the_state_of_a_job_that_waits(scene: Scene) -> None:
    """A job without an agent says what it waits for, without secrets, and what was told of it last."""
    waiting = await scene.site.submit("alice")
    scene.site.plane.waits_for[waiting] = f"its source asks to slow down: https://files.example/x?sig={SECRET}"
    scene.site.plane.tell_progress(waiting, Progress(bytes_done=9))
    shown = (await ask(scene, "olga", "GET", f"/internal/jobs/{waiting}/state")).json()
    assert shown["waitsFor"] == "its source asks to slow down: https://files.example/x"
    assert (shown["leases"], shown["session"], shown["partsDone"]) == ([], None, 0)
    # The job was never started: to its owner there is no progress, to the operator there is the last word.
    assert (shown["job"]["progress"]["bytes"], shown["lastProgress"]["bytes"]) == (0, 9)


async def test_the_state_is_shown_although_progress_cannot_be_had(scene: Scene) -> None:
    """Progress is a courtesy here too."""
    scene.site.plane_seam.fail["progress"] = Unavailable()
    shown = await ask(scene, "olga", "GET", "/internal/jobs/{running}/state")
    assert (shown.status_code, shown.json()["lastProgress"]) == (200, None)


async def test_an_operator_steers_without_owning(scene: Scene) -> None:
    """A second operator may all that the first may: it is the role, not the name."""
    await scene.site.add_key("otto", Role.OPERATOR)
    assert (await ask(scene, "otto", "POST", "/dlq/{dead}/replay")).json()["userId"] == "alice"
