"""Dead letters over HTTP: listed, replayed once, deleted; by their owners and by operators."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from answers import check_problem
from control_scene import SECRET, Scene, ask, scene_of
from plane import site_at

from rayhaul.errors import Conflict, SourceBusy
from rayhaul.job import JobEvent
from rayhaul.ledger.base import Viewer


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with site_at(tmp_path) as site:
        yield await scene_of(site)


async def test_dead_letters_are_listed(scene: Scene) -> None:
    """A dead letter is the job with its error and since when; a user sees the own ones, an operator all."""
    of_bob = await scene.site.submit("bob")
    error = SourceBusy(f"GET https://me:{SECRET}@files.example/x?sig={SECRET} 503").failure()
    await scene.site.plane.bury(of_bob, error)

    async def listed(user: str) -> list[dict[str, Any]]:
        answer = await ask(scene, user, "GET", "/dlq")
        assert SECRET not in answer.text
        assert answer.json()["nextCursor"] is None
        jobs: list[dict[str, Any]] = answer.json()["jobs"]
        return jobs

    assert [job["id"] for job in await listed("alice")] == [scene.dead]
    assert [job["id"] for job in await listed("olga")] == [of_bob, scene.dead]
    (shown,) = await listed("bob")
    assert shown["error"]["message"] == "GET https://files.example/x 503"
    assert shown["deadLetteredAt"] == shown["completedAt"] is not None
    job = (await ask(scene, "bob", "GET", f"/jobs/{of_bob}")).json()
    assert shown == {**job, "deadLetteredAt": shown["deadLetteredAt"]}


async def test_dead_letters_are_paged(scene: Scene) -> None:
    """Following `nextCursor` shows each once, newest first; limits and cursors are checked."""
    dead = [scene.dead]
    for _ in range(4):
        dead.append(await scene.site.submit("alice"))
        await scene.site.plane.bury(dead[-1])
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await ask(scene, "alice", "GET", f"/dlq?limit=2&cursor={cursor}")).json()
        assert len(page["jobs"]) <= 2
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["nextCursor"]
    assert seen == dead[::-1]
    for query in ("limit=0", "limit=1001", "limit=x", "cursor=%00", "cursor=" + "x" * 65):
        problem = check_problem(await ask(scene, "alice", "GET", f"/dlq?{query}"), 422, "invalid_request")
        assert [error["field"] for error in problem["errors"]] == [query.partition("=")[0]]


async def test_a_replay_is_another_life_once(scene: Scene) -> None:
    """The job is queued with all its attempts and out of the dead letters; the second replay is a conflict (F55)."""
    first = await ask(scene, "alice", "POST", "/dlq/{dead}/replay")
    job = first.json()
    assert (job["status"], job["attempt"], job["requeues"], job["error"]) == ("queued", 0, 0, None)
    check_problem(await ask(scene, "alice", "POST", "/dlq/{dead}/replay"), 409, "conflict")
    assert (await ask(scene, "alice", "GET", "/dlq")).json()["jobs"] == []
    history = await scene.site.ledger.history(Viewer("alice"), scene.dead)
    assert [record.event for record in history][-2:] == [JobEvent.DEADLETTERED, JobEvent.REQUEUED]


async def test_replays_at_once_are_one(scene: Scene) -> None:
    """Ten replays at the same time: one is carried out, nine are told of it (F55)."""
    answers = await asyncio.gather(*(ask(scene, "alice", "POST", "/dlq/{dead}/replay") for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 9]
    history = await scene.site.ledger.history(Viewer("alice"), scene.dead)
    after = [record.event for record in history][-2:]
    assert after == [JobEvent.DEADLETTERED, JobEvent.REQUEUED]


async def test_a_deleted_dead_letter_stays_failed(scene: Scene) -> None:
    """It is gone from the list and not from the jobs; a second delete changes nothing, a replay comes too late."""
    for _ in range(2):
        answer = await ask(scene, "alice", "DELETE", "/dlq/{dead}")
        assert (answer.status_code, answer.json()["status"]) == (200, "failed")
        assert answer.json()["error"]["code"] == "source_busy"
    assert (await ask(scene, "olga", "GET", "/dlq")).json()["jobs"] == []
    assert (await ask(scene, "alice", "GET", f"/jobs/{scene.dead}")).json()["status"] == "failed"
    check_problem(await ask(scene, "alice", "POST", "/dlq/{dead}/replay"), 409, "conflict")


async def test_only_dead_letters_can_be_deleted(scene: Scene) -> None:
    """A job that runs is a conflict, as is one that the scheduler would not give up."""
    check_problem(await ask(scene, "alice", "DELETE", "/dlq/{running}"), 409, "conflict")
    check_problem(await ask(scene, "alice", "POST", "/dlq/{running}/replay"), 409, "conflict")
    scene.site.plane_seam.fail["discard"] = Conflict("not now")
    check_problem(await ask(scene, "alice", "DELETE", "/dlq/{dead}"), 409, "conflict")


async def test_a_foreign_dead_letter_is_left_alone(scene: Scene) -> None:
    """The scheduler, which does not ask whose job it is, is never asked about a foreign one."""
    scene.site.plane_seam.fail |= {verb: AssertionError("asked") for verb in ("replay", "discard")}
    for method, path in (("POST", "/dlq/{dead}/replay"), ("DELETE", "/dlq/{dead}")):
        check_problem(await ask(scene, "bob", method, path), 404, "not_found")
    assert (await scene.site.ledger.job(Viewer("alice"), scene.dead)).dead_lettered_at is not None
