"""The operator's commands, as processes, over the real API and the small plane: dlq, queue, agents, job --state."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from cli_call import called
from cli_process import Environ, bare_environ
from control_scene import UNFIT, Scene, scene_of
from plane import listening, site_at

from rayhaul.errors import SourceBusy, Unavailable
from rayhaul.job import Progress
from rayhaul.ledger.base import Viewer


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with site_at(tmp_path) as site:
        yield await scene_of(site)


@pytest.fixture
async def environs(scene: Scene, tmp_path: Path) -> AsyncIterator[dict[str, Environ]]:
    """By user: the environment in which `rayhaul` asks the scene's API as that user."""
    async with listening(scene.site.app) as url:
        yield {
            user: {
                **bare_environ(tmp_path),
                "RAYHAUL_URL": url,
                "RAYHAUL_API_KEY": headers["Authorization"].partition(" ")[2],
            }
            for user, headers in scene.site.auth.items()
        }


@pytest.fixture
def alice(environs: dict[str, Environ]) -> Environ:
    return environs["alice"]


@pytest.fixture
def olga(environs: dict[str, Environ]) -> Environ:
    return environs["olga"]


# --- dlq ---


async def test_dead_letters_are_listed(scene: Scene, environs: dict[str, Environ]) -> None:
    """With and without `list`, as a table and as JSON: the own ones, an operator everybody's, the newest so many."""
    newer = await scene.site.submit("bob")
    await scene.site.plane.bury(newer, SourceBusy("slow\x1b[2J down").failure())
    for command in (["dlq"], ["dlq", "list"]):
        listed = await called(environs["alice"], *command)
        assert (listed.code, listed.stderr) == (0, "")
        header, row = listed.stdout.splitlines()
        assert header.split() == ["ID", "SINCE", "ATTEMPTS", "REQUEUES", "USER", "NAME", "WHY"]
        assert re.fullmatch(
            rf"{scene.dead} +\d+ s ago +5 +1 +alice +data.bin +source_busy: The source asks to slow down\. *", row
        )
        found = (await called(environs["olga"], *command, "--json")).json["jobs"]
        assert [job["id"] for job in found] == [newer, scene.dead]
        assert all(job["deadLetteredAt"] for job in found)
    assert [job["id"] for job in (await called(environs["olga"], "dlq", "--limit", "1", "--json")).json["jobs"]] == [
        newer
    ]
    assert "\x1b" not in (await called(environs["olga"], "dlq")).stdout


async def test_dead_letters_are_replayed(scene: Scene, alice: Environ) -> None:
    """Each id is replayed; one that refuses keeps none of the others from it; twice is once (F55)."""
    ran = await called(alice, "dlq", "replay", "job_none", scene.dead)
    assert (ran.code, ran.stdout) == (1, f"{scene.dead} queued\n")
    assert ran.stderr.startswith("rayhaul: job_none: not_found: ")
    again = await called(alice, "dlq", "replay", scene.dead, "--json")
    assert (again.code, again.json) == (1, {"jobs": []})
    assert again.stderr.startswith(f"rayhaul: {scene.dead}: conflict: ")


async def test_all_dead_letters_are_replayed(scene: Scene, environs: dict[str, Environ]) -> None:
    """Page by page, for a user only the own ones; one that somebody else replayed meanwhile is no error."""
    of_bob = await scene.site.submit("bob")
    await scene.site.plane.bury(of_bob)
    dead = [scene.dead]
    for _ in range(44):
        dead.append(await scene.site.submit("alice"))
        await scene.site.plane.bury(dead[-1])
    replay = scene.site.plane.replay

    async def two_want_it(job_id: str) -> object:
        if job_id == dead[3]:
            await replay(job_id)
        return await replay(job_id)

    scene.site.plane_seam.instead["replay"] = two_want_it
    ran = await called(environs["alice"], "dlq", "replay", "--all")
    told = dead[:3] + dead[4:]
    assert (ran.code, ran.stdout.splitlines()) == (0, [f"{job_id} queued" for job_id in reversed(told)])
    assert ran.stderr == "44 replayed.\n"
    for job_id in dead:
        assert (await scene.site.ledger.job(Viewer("alice"), job_id)).dead_lettered_at is None
    assert (await called(environs["alice"], "dlq", "--json")).json == {"jobs": []}
    left = await called(environs["olga"], "dlq", "replay", "--all", "--json")
    assert [(job["id"], job["status"]) for job in left.json["jobs"]] == [(of_bob, "queued")]
    assert (await called(environs["olga"], "dlq", "replay", "--all", "--json")).json == {"jobs": []}


async def test_a_replay_of_all_that_is_stopped(scene: Scene, alice: Environ) -> None:
    """One that fails is told and makes the exit code; the others are replayed; JSON has what was done."""
    other = await scene.site.submit("alice")
    await scene.site.plane.bury(other)
    replay = scene.site.plane.replay

    async def one_fails(job_id: str) -> object:
        if job_id == other:
            raise Unavailable("the scheduler is starting", retry_after_s=100)
        return await replay(job_id)

    scene.site.plane_seam.instead["replay"] = one_fails
    ran = await called(alice, "dlq", "replay", "--all", "--json")
    assert ran.code == 1
    assert [job["id"] for job in ran.json["jobs"]] == [scene.dead]
    assert ran.stderr == f"rayhaul: {other}: internal: the scheduler is starting\n"


async def test_dead_letters_are_deleted(scene: Scene, alice: Environ) -> None:
    """The job stays failed; a second time changes nothing; a running one cannot be."""
    for _ in range(2):
        ran = await called(alice, "dlq", "delete", scene.dead)
        assert (ran.code, ran.stdout, ran.stderr) == (0, f"{scene.dead} failed\n", "")
    refused = await called(alice, "dlq", "delete", scene.running, scene.dead, "--json")
    assert (refused.code, [job["id"] for job in refused.json["jobs"]]) == (1, [scene.dead])
    assert refused.stderr.startswith(f"rayhaul: {scene.running}: conflict: ")


# --- queue ---


async def test_the_valve(scene: Scene, environs: dict[str, Environ]) -> None:
    """Anybody sees the queue, operators hold back a priority and let it go, and are shown what came of it."""
    await scene.site.submit("bob", priority="low")
    shown = await called(environs["bob"], "queue")
    assert [line.split() for line in shown.stdout.splitlines()[:4]] == [
        ["PRIORITY", "WAITING"],
        ["low", "1"],
        ["normal", "0"],
        ["high", "0"],
    ]
    assert re.search(r"^oldest waits +\d+ s *\ndead letters +1 *$", shown.stdout, re.MULTILINE)
    paused = await called(environs["olga"], "queue", "pause", "low")
    assert ["low", "1", "paused"] in [line.split() for line in paused.stdout.splitlines()]
    assert (await called(environs["bob"], "queue", "--json")).json["paused"] == ["low"]
    resumed = await called(environs["olga"], "queue", "resume", "low", "--json")
    assert (resumed.json["paused"], resumed.json["depth"]["low"]) == ([], 1)
    scene.site.plane.parked = "the bucket refuses us: no such bucket"
    parked = await called(environs["bob"], "queue")
    assert re.search(r"^nothing starts +the bucket refuses us: no such bucket *$", parked.stdout, re.MULTILINE)


# --- agents ---


async def test_agents_are_listed(olga: Environ) -> None:
    """With and without `list`; an unfit one says why."""
    for command in (["agents"], ["agents", "list"]):
        ran = await called(olga, *command)
        header, online, unfit = ran.stdout.splitlines()
        assert header.rstrip().endswith("WHY UNFIT")
        assert re.fullmatch(r"agent-1 +online +75% +6/8 +1000 B/s +2 +0 s ago *", online)
        assert re.fullmatch(rf"agent-2 +unfit .* {UNFIT} *", unfit)
        found = (await called(olga, *command, "--json")).json["agents"]
        assert [(agent["agent"], agent["unfit"]) for agent in found] == [("agent-1", None), ("agent-2", UNFIT)]


async def test_hosts_are_listed(scene: Scene, environs: dict[str, Environ]) -> None:
    """Operators see all hosts, a user those of its running jobs; one that backs off says for how long."""
    header, busy, backing_off = (await called(environs["olga"], "hosts")).stdout.splitlines()
    assert header.split() == ["HOST", "CONNECTIONS", "SPEED", "JOBS", "WAITING", "BACKS", "OFF", "FOR"]
    assert re.fullmatch(r"busy.example:443 +7/32 +1000 B/s +0 *", busy)
    assert re.fullmatch(r"slow.example:8443 +1/2 +0 B/s +3 +.*\d+ (min|h|d|s).*", backing_off)
    shown = (await called(environs["alice"], "hosts", "--json")).json["hosts"]
    assert [host["host"] for host in shown] == ["busy.example:443"]
    assert (await called(environs["bob"], "hosts")).stdout == "no origin is in use\n"


async def test_what_an_agent_does_for_a_job(scene: Scene, olga: Environ) -> None:
    """A row for each stripe, with what the agent has told; the second one has told nothing yet."""
    leases = scene.site.plane.leases[scene.running]
    leases[0] = replace(leases[0], doing="waits\x1b[2J")
    ran = await called(olga, "agents", "status", "agent-1", scene.running)
    title, header, first, second = ran.stdout.splitlines()
    assert title.split() == ["agent-1", scene.running, "downloading"]
    assert header.split() == ["LEASE", "AGENT", "EPOCH", "PARTS", "DONE", "SPEED", "IDLE", "SINCE", "DOING"]
    assert re.fullmatch(r"lease_0 +agent-1 +7 +1-10 +40% +2.0 KiB/s +12 s +2026-\S+ \S+ +waits�\[2J *", first)
    assert re.fullmatch(r"lease_1 +agent-1 +7 +11-20 +2026-\S+ \S+ *", second)
    found = (await called(olga, "agents", "status", "agent-1", scene.running, "--json")).json
    assert [lease["leaseId"] for lease in found["leases"]] == ["lease_0", "lease_1"]
    nothing = await called(olga, "agents", "status", "agent-2", scene.dead)
    assert (nothing.code, nothing.stdout) == (1, "")
    assert nothing.stderr.startswith("rayhaul: not_found: ")


async def test_a_job_is_taken_from_an_agent(scene: Scene, olga: Environ) -> None:
    """The job is queued; the second time the agent holds nothing of it."""
    ran = await called(olga, "agents", "stop", "agent-1", scene.running)
    assert (ran.code, ran.stdout) == (0, f"{scene.running} queued\n")
    assert (await called(olga, "agents", "stop", "agent-1", scene.running)).code == 1
    ran = await called(olga, "agents", "stop", "agent-2", scene.running, "--json")
    assert (ran.json["id"], ran.json["status"]) == (scene.running, "queued")


async def test_an_agent_is_drained(olga: Environ) -> None:
    """It is draining, and what it still holds is said."""
    ran = await called(olga, "agents", "drain", "agent-1")
    assert (ran.code, ran.stdout, ran.stderr) == (0, "agent-1 draining\n", "It finishes 2 leases first.\n")
    assert (await called(olga, "agents", "drain", "agent-1", "--json")).json["state"] == "draining"
    assert (await called(olga, "agents", "drain", "agent-9")).code == 1


# --- job --state ---


async def test_the_live_state_of_a_job(scene: Scene, olga: Environ) -> None:
    """As the scheduler sees it: facts and a row for each lease; why it waits where it has none."""
    scene.site.plane.tell_progress(scene.running, Progress(bytes_done=2048, bytes_total=4096))
    ran = await called(olga, "job", scene.running, "--state")
    facts, leases = ran.stdout.split("\n\n")
    told = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in facts.splitlines())
    assert told == {
        "id": scene.running,
        "status": "downloading",
        "attempt": "0",
        "requeues": "0",
        "epoch": "7",
        "last progress": "2.0 KiB of 4.0 KiB",
        "parts done": "3",
        "session": "session_1 (open)",
        "upload": "upload-1",
        "object": "bucket/a/file.bin",
        "part size": "5.0 MiB",
    }
    assert [line.split()[1] for line in leases.splitlines()[1:]] == ["agent-1", "agent-1", "agent-2"]
    found = (await called(olga, "job", scene.running, "--state", "--json")).json
    assert (found["epoch"], found["partsDone"], len(found["leases"])) == (7, 3, 3)
    scene.site.plane.waits_for[scene.dead] = "it was given up"
    waiting = await called(olga, "job", scene.dead, "--state")
    assert "LEASE" not in waiting.stdout
    assert re.search(r"^waits for +it was given up *$", waiting.stdout, re.MULTILINE)
    assert re.search(r"^dead since +20\d\d-", waiting.stdout, re.MULTILINE)


# --- refusals ---


@pytest.mark.parametrize(
    "arguments",
    [
        ["queue", "pause", "low"],
        ["queue", "resume", "low", "--json"],
        ["agents"],
        ["agents", "status", "agent-1", "job_1"],
        ["agents", "stop", "agent-1", "job_1"],
        ["agents", "drain", "agent-1", "--json"],
        ["job", "job_1", "--state"],
    ],
)
async def test_users_are_no_operators(scene: Scene, alice: Environ, arguments: list[str]) -> None:
    """What only operators may ends with the code for that, nothing on stdout, and nothing done."""
    ran = await called(alice, *arguments)
    assert (ran.code, ran.stdout) == (4, "")
    assert re.fullmatch(r"rayhaul: forbidden: .+\n", ran.stderr)
    assert scene.site.plane.paused == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dlq", "replay"], "give the ids of jobs, or --all"),
        (["dlq", "replay", "job_1", "--all"], "give the ids of jobs, or --all"),
        (["dlq", "delete"], "Missing argument"),
        (["dlq", "job_1"], "No such command"),
        (["dlq", "--json", "replay", "--all"], "--json stands after the command: rayhaul dlq replay --json"),
        (["agents", "--json", "drain", "agent-1"], "--json stands after the command"),
        (["queue", "--json", "pause", "low"], "--json stands after the command"),
        (["queue", "pause"], "Missing argument"),
        (["queue", "pause", "urgent"], "urgent"),
        (["agents", "stop", "agent-1"], "Missing argument"),
        (["dlq", "--limit", "0"], "--limit"),
    ],
)
async def test_wrong_command_lines(tmp_path: Path, arguments: list[str], said: str) -> None:
    """What cannot be asked is refused in words before anything is sent."""
    ran = await called(bare_environ(tmp_path), *arguments)
    assert (ran.code, ran.stdout) == (2, "")
    assert said in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["dlq"],
        ["dlq", "replay", "--all"],
        ["dlq", "delete", "job_1"],
        ["queue"],
        ["agents"],
        ["hosts"],
        ["job", "j", "--state"],
    ],
)
async def test_nobody_there(tmp_path: Path, arguments: list[str]) -> None:
    """Where there is no cluster each ends with the code for that."""
    environ = {**bare_environ(tmp_path), "RAYHAUL_URL": "http://127.0.0.1:1", "RAYHAUL_API_KEY": "k"}
    ran = await called(environ, *arguments)
    assert (ran.code, ran.stdout) == (3, "")
    assert ran.stderr.startswith("rayhaul: cannot reach http://127.0.0.1:1")


async def test_help_names_every_command(tmp_path: Path) -> None:
    """Each group says what it is for and what its commands do."""
    groups = {"dlq": ("list", "replay", "delete"), "queue": ("pause", "resume")}
    groups["agents"] = ("list", "status", "stop", "drain")
    for group, commands in groups.items():
        helped = (await called(bare_environ(tmp_path), group, "--help")).stdout
        assert "Without a command" in helped
        assert all(f" {command} " in helped for command in commands)


async def test_requeue(scene: Scene, environs: dict[str, Environ]) -> None:
    """An operator hands a job back to the queue; a user may not."""
    job_id = await scene.site.submit("alice")
    refused = await called(environs["alice"], "requeue", job_id)
    assert (refused.code, "forbidden" in refused.stderr) == (4, True)
    done = await called(environs["olga"], "requeue", job_id)
    assert (done.code, done.stdout) == (0, f"{job_id} queued\n")
