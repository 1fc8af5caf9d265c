"""The command line as people and scripts run it: its streams and its exit code; as a process where it is about that."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cli_call import called
from cli_process import MAIN, Environ, bare_environ, rayhaul, shown_on, started, until
from faulty_api import FAILS, IS_CANCELLED, Fault, FaultyApi, running_faulty_api
from inprocess import Service, quick_settings, running_service
from origin import Origin, content_bytes, content_sha256

from serve_app.seaweed import Seaweed


@pytest.fixture
def bare(tmp_path: Path) -> Environ:
    return bare_environ(tmp_path)


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as origin:
        yield origin


@pytest.fixture
async def service(tmp_path: Path, store: Seaweed) -> AsyncIterator[Service]:
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))
    async with running_service(tmp_path, settings) as service:
        yield service


@pytest.fixture
def alice(bare: Environ, service: Service) -> Environ:
    return {**bare, "RAYHAUL_URL": service.url, "RAYHAUL_API_KEY": service.alice}


@pytest.fixture
def operator(bare: Environ, service: Service) -> Environ:
    return {**bare, "RAYHAUL_URL": service.url, "RAYHAUL_API_KEY": service.operator}


@pytest.fixture
async def api() -> AsyncIterator[FaultyApi]:
    async with running_faulty_api() as api:
        yield api


@pytest.fixture
def faulty(bare: Environ, api: FaultyApi) -> Environ:
    return {**bare, "RAYHAUL_URL": api.url, "RAYHAUL_API_KEY": api.key}


async def test_get(alice: Environ, origin: Origin) -> None:
    """A fetched file's key and link stand on stdout, the way there on stderr, and the link leads to the bytes."""
    url = origin.add("data.bin", size=6_000_000, seed=3, stall_after=2_000_000)
    async with started(alice, "get", url, "-o", "mine/data.bin", "--priority", "high", "--tag", "team=film") as process:
        told = [await until(process.stderr, word) for word in ("data.bin", "metadata", "started", "%")]
        origin.resume()
        stdout, stderr = (stream.decode() for stream in await process.communicate())
        assert process.returncode == 0
    assert re.fullmatch(r"job_\w+ data.bin [\d.]+ [KM]iB of 5.7 MiB, \d+%.*\n", told[-1])
    assert re.search(r"^job_\w+ data.bin completed 5.7 MiB$", stderr, re.MULTILINE)
    place, link = stdout.splitlines()
    assert re.fullmatch(r"rayhaul/\S*mine/data.bin  5.7 MiB", place)
    assert "\x1b" not in "".join(told) + stdout + stderr
    async with aiohttp.ClientSession() as session, session.get(link.split()[0]) as response:
        assert await response.read() == content_bytes(3, 0, 6_000_000)


async def test_get_many_as_json(alice: Environ, origin: Origin) -> None:
    """With --json there is one document, in the order that was asked for, and silence besides."""
    urls = [origin.add(f"{index}.bin", size=1000 * index, seed=index) for index in range(1, 4)]
    ran = await rayhaul(alice, "get", *urls, "--json")
    assert (ran.code, ran.stderr) == (0, "")
    jobs = ran.json["jobs"]
    assert [(job["status"], job["result"]["sizeBytes"]) for job in jobs] == [
        ("completed", 1000),
        ("completed", 2000),
        ("completed", 3000),
    ]
    assert all(job["download"]["url"].startswith("http") for job in jobs)


async def test_get_with_a_failure(alice: Environ, origin: Origin) -> None:
    """One file that is missing makes the whole a failure; the other one is there."""
    ran = await rayhaul(alice, "get", origin.add("a.bin", size=10), origin.base_url + "/missing.bin")
    assert ran.code == 1
    assert "a.bin  10 B" in ran.stdout
    assert re.search(r"^rayhaul: job_\S+ failed: source_not_found: .+", ran.stderr, re.MULTILINE)
    assert "Traceback" not in ran.stderr


async def test_get_is_cancelled(alice: Environ, origin: Origin) -> None:
    """Who follows a job that another one cancels is told so, with a code of its own."""
    async with started(alice, "get", origin.add("slow.bin", size=6_000_000, stall_after=0)) as process:
        job_id = (await until(process.stderr, "job_")).split()[0]
        cancelled = await called(alice, "cancel", job_id, "--json")
        assert [job["status"] for job in cancelled.json["jobs"]] == ["cancelled"]
        assert await process.wait() == 5


async def test_get_is_left(alice: Environ, origin: Origin) -> None:
    """Ctrl-C ends the looking, not the job, and says how to end that."""
    async with started(alice, "get", origin.add("slow.bin", size=6_000_000, stall_after=0)) as process:
        job_id = (await until(process.stderr, "started")).split()[0]
        process.send_signal(signal.SIGINT)
        assert f"rayhaul cancel {job_id}" in await until(process.stderr, "The jobs go on")
        assert await process.wait() == 130
    assert (await called(alice, "job", job_id, "--json")).json["status"] in ("queued", "downloading")


async def test_get_on_a_terminal(alice: Environ, origin: Origin) -> None:
    """On a terminal there are bars, one a file and one for all, to their ends."""
    urls = [origin.add(f"{name}.bin", size=6_000_000, stall_after=2_000_000) for name in ("first", "second")]
    ours, theirs = pty.openpty()
    terminal = {**alice, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, "get", *urls), env=terminal, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = await asyncio.to_thread(shown_on, ours, "MiB of 5.7 MiB")
    origin.resume()
    shown += await asyncio.to_thread(shown_on, ours)
    assert await process.wait() == 0
    assert "\x1b[" in shown
    assert "2 of 2 jobs" in shown
    assert re.search(r"first\.bin.*100%.*5\.7 MiB", shown)


async def test_jobs_followed_on_a_terminal(api: FaultyApi, faulty: Environ) -> None:
    """On a terminal the table is drawn again and again, until Ctrl-C."""
    job = api.add(filename="data.bin", done=3)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, "jobs", "--follow"), env=faulty, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    assert "downloading" in await asyncio.to_thread(shown_on, ours, "data.bin")
    job.done = len(job.script)
    await asyncio.to_thread(shown_on, ours, "completed")
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(shown_on, ours)
    assert await process.wait() == 130


async def test_jobs_in_hand(alice: Environ, origin: Origin) -> None:
    """A submitted job is listed, shown, paused, resumed, cancelled and queued again."""
    url = origin.add("slow.bin", size=6_000_000, stall_after=0)
    submitted = await called(alice, "get", url, "--no-wait")
    job_id = submitted.stdout.strip()
    assert re.fullmatch(r"job_\w+", job_id)
    listed = await called(alice, "jobs")
    assert listed.stdout.split()[:2] == ["ID", "STATUS"]
    assert job_id in listed.stdout
    assert [job["id"] for job in (await called(alice, "jobs", "--json")).json["jobs"]] == [job_id]
    assert (await called(alice, "jobs", "--status", "completed", "--json")).json == {"jobs": []}
    for command, told in (("pause", "paused"), ("resume", "queued|downloading"), ("cancel", "cancelled")):
        ran = await called(alice, command, job_id)
        assert re.fullmatch(f"{job_id} ({told})\n", ran.stdout), (command, ran)
    refused = await called(alice, "resume", job_id, "job_none")
    assert refused.code == 1
    assert re.search(rf"^rayhaul: {job_id}: conflict: .+\nrayhaul: job_none: not_found: .+", refused.stderr)
    shown = await called(alice, "job", job_id)
    assert all(word in shown.stdout for word in (job_id, "cancelled", "slow.bin", "paused", "resumed"))
    assert (await called(alice, "retry", job_id, "--json")).json["jobs"][0]["status"] == "queued"


async def test_where_the_time_went(alice: Environ, origin: Origin) -> None:
    """The waterfall of a job that has ended and of one that goes on: in words, as JSON, and none of a stranger's."""
    url = origin.add("slow.bin", size=6_000_000, stall_after=0)
    running = (await called(alice, "get", url, "--no-wait")).stdout.strip()
    done = (await called(alice, "get", origin.add("data.bin", size=100), "--json")).json["jobs"][0]["id"]
    told = (await called(alice, "trace", done, "--json")).json
    stages = told["stages"]
    assert (told["jobId"], told["status"]) == (done, "completed")
    assert [stage["stage"] for stage in stages] == ["metadata", "queued", "downloading", "uploading"]
    assert [stage["beganAt"] for stage in stages[1:]] == [stage["endedAt"] for stage in stages[:-1]]
    assert (told["beganAt"], told["endedAt"]) == (stages[0]["beganAt"], stages[-1]["endedAt"])
    assert sum(stage["seconds"] for stage in stages) == pytest.approx(told["totalSeconds"], abs=0.01)
    assert (stages[2]["attempt"], stages[2]["agent"][:6]) == (1, "agent-")
    shown = (await called(alice, "trace", done)).stdout.splitlines()
    assert shown[0].startswith(f"completed {done}: in ")
    assert [line.split()[0] for line in shown[3:]] == [stage["stage"] for stage in stages]
    await called(alice, "pause", running)
    paused = (await called(alice, "trace", running)).stdout
    assert re.search(r"\npaused .* goes on\n", paused), paused
    unknown = await called(alice, "trace", "job_none")
    assert (unknown.code, "not_found" in unknown.stderr) == (1, True)


async def test_receipt(alice: Environ, origin: Origin) -> None:
    """A completed job's receipt is shown, and told as JSON; the secrets of its URL are not in it."""
    url = origin.add("data.bin", size=100, seed=7)
    checksum = f"sha256:{content_sha256(7, 100)}"
    got = await called(alice, "get", f"{url}?token=s3cr3t", "--checksum", checksum, "--json")
    job_id = got.json["jobs"][0]["id"]
    receipt = (await called(alice, "job", job_id, "--receipt", "--json")).json
    assert (receipt["sizeBytes"], receipt["parts"], receipt["sourceUrl"]) == (100, 1, url)
    assert receipt["sha256"] == checksum.removeprefix("sha256:")
    shown = (await called(alice, "job", job_id, "--receipt")).stdout
    assert all(text in shown for text in (receipt["crc64nvme"], receipt["sha256"][:16], receipt["agents"][0]))
    assert "s3cr3t" not in shown
    computed = (await called(alice, "get", url, "--compute-sha256", "--json")).json["jobs"][0]
    assert (computed["checksum"], computed["result"]["sha256"]) == (None, receipt["sha256"])
    refused = await called(alice, "job", "job_none", "--receipt")
    assert refused.code == 1


async def test_jobs_followed(alice: Environ, origin: Origin) -> None:
    """Followed without a terminal, jobs are told again as they change; --json is a document a line."""
    url = origin.add("data.bin", size=100)
    async with started(alice, "jobs", "-f", "--json") as process:
        job_id = (await called(alice, "get", url, "--no-wait", "--json")).json["jobs"][0]["id"]
        last = json.loads(await until(process.stdout, '"completed"'))
        assert (last["id"], last["result"]["sizeBytes"]) == (job_id, 100)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130


async def test_keys(operator: Environ) -> None:
    """A key is printed once and alone, works, may not do an operator's work, and ends when it is revoked."""
    made = await called(operator, "keys", "create", "carol", "--name", "laptop", "--expires-days", "1")
    carol = {**operator, "RAYHAUL_API_KEY": made.stdout.strip()}
    assert made.stdout.count("\n") == 1
    assert (await called(carol, "jobs", "--json")).json == {"jobs": []}
    forbidden = await called(carol, "agents")
    assert (forbidden.code, forbidden.stdout) == (4, "")
    assert forbidden.stderr.startswith("rayhaul: forbidden: ")
    listed = (await called(operator, "keys", "list", "--json")).json["keys"]
    (key,) = [key for key in listed if key["userId"] == "carol"]
    assert (key["name"], key["role"], "key" in key) == ("laptop", "user", False)
    assert made.stdout.strip() not in (await called(operator, "keys", "list")).stdout
    rotated = await called(operator, "keys", "rotate", key["id"], "--overlap-hours", "0")
    assert (await called(carol, "jobs")).code == 4
    assert (await called({**operator, "RAYHAUL_API_KEY": rotated.stdout.strip()}, "jobs", "--json")).code == 0
    only = await called(operator, "keys", "create", "dave", "--scope", "read", "--json")
    assert only.json["scopes"] == ["read"]
    assert (await called(operator, "keys", "revoke", key["id"])).stdout == f"{key['id']} revoked\n"
    listed = (await called(operator, "keys", "list", "--json")).json["keys"]
    revoked = {each["id"]: each["revokedAt"] for each in listed if each["userId"] == "carol"}
    assert revoked.pop(key["id"]) is not None
    assert list(revoked.values()) == [None]


async def test_agents(operator: Environ, service: Service) -> None:
    """Operators see who moves the bytes."""
    names = set(await service.agents.names())
    ran = await called(operator, "agents")
    shown = {line.split()[0] for line in ran.stdout.splitlines()[1:]}
    # One may report between the two looks.
    assert shown <= {agent["agent"] for agent in (await called(operator, "agents", "--json")).json["agents"]} <= names
    assert shown


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "said"),
    [
        (["jobs"], {}, 3, "no cluster is running here: start one with `rayhaul up`, or set RAYHAUL_URL"),
        (["jobs"], {"RAYHAUL_URL": "nonsense"}, 3, "https://host:port"),
        (["job", "job_1"], {"RAYHAUL_URL": "http://127.0.0.1:1"}, 3, "cannot reach http://127.0.0.1:1"),
        (["get", "http://a", "http://b", "-o", "x"], {}, 2, "give one URL"),
        (["get", "http://a", "--header", "Token hush"], {}, 2, "--header is written NAME:VALUE"),
        (["get", "http://a", "--tag", "team"], {}, 2, "--tag is written NAME=VALUE"),
        (["get"], {}, 2, "Missing argument"),
        (["get", "http://a", "--priority", "urgent"], {}, 2, "--priority"),
        (["fetch", "http://a"], {}, 2, "No such command"),
        (["up", "--json"], {}, 2, "--json needs --detach"),
        (["up", "--detach"], {"RAYHAUL_S3__THREADS_MAX": "none"}, 2, "setting s3.threads_max"),
    ],
)
async def test_refused_before_anything_is_sent(
    bare: Environ, arguments: list[str], variables: dict[str, str], code: int, said: str
) -> None:
    """What cannot be done is said on stderr in words, with nothing on stdout, and no secret in it."""
    ran = await called({**bare, **variables}, *arguments)
    assert (ran.code, ran.stdout) == (code, "")
    assert said in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
    assert "hush" not in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "fault", "code"),
    [
        (["get", "http://a"], Fault(422, code="invalid_request"), 2),
        (["get", "http://a", "--no-wait", "--json"], Fault(422, code="egress_denied"), 1),
        (["jobs"], Fault(401, code="unauthorized"), 4),
        (["jobs", "--json"], Fault(403, code="forbidden"), 4),
        (["jobs", "-f"], Fault(500), 1),
        (["get", "http://a"], Fault(200), 3),
    ],
)
async def test_refused_by_the_cluster(
    api: FaultyApi, faulty: Environ, arguments: list[str], fault: Fault, code: int
) -> None:
    """Each kind of refusal has its exit code and one sentence."""
    api.faults = {"POST /jobs": deque([fault]), "GET /jobs": deque([fault])}
    ran = await called(faulty, *arguments)
    assert (ran.code, ran.stdout) == (code, "")
    assert re.fullmatch(r"rayhaul: .+\n", ran.stderr)


@pytest.mark.parametrize(("script", "code"), [(FAILS, 1), (IS_CANCELLED, 5)])
async def test_ends_of_jobs(api: FaultyApi, faulty: Environ, script: Any, code: int) -> None:
    """How the job ended is how the command ends; with --json the reason stands in the document as well."""
    api.script = script
    ran = await called(faulty, "get", "https://files.example/data.bin", "--json")
    assert ran.code == code
    assert [(job["status"], job["download"]) for job in ran.json["jobs"]] == [(script[-1][1], None)]
    assert re.fullmatch(r"rayhaul: job_\d+ (failed|cancelled).*\n", ran.stderr)


async def test_more_than_a_screenful(api: FaultyApi, faulty: Environ) -> None:
    """Many jobs are followed a few at a time, all to their ends, over few streams."""
    urls = [f"https://files.example/{index}" for index in range(45)]
    ran = await called(faulty, "get", *urls)
    assert ran.code == 0
    assert ran.stdout.count("rayhaul/job_") == 45
    assert len(api.asked("POST /jobs/batch")) == 1


async def test_strangers_do_not_steer_the_terminal(api: FaultyApi, faulty: Environ) -> None:
    """Escape sequences in a file's name, which its source chose, are not printed."""
    api.add(filename="\x1b[2Jevil\r\n.bin", done=6)
    for arguments in (["jobs"], ["job", "job_0001"], ["jobs", "--json"]):
        ran = await called(faulty, *arguments)
        assert ran.code == 0
        assert "evil" in ran.stdout
        assert not set(ran.stdout) & {"\x1b", "\r"}


async def test_version_and_help(bare: Environ) -> None:
    """The version is one line; help names every command."""
    assert re.fullmatch(r"rayhaul \d+\.\d+\.\d+\n", (await rayhaul(bare, "--version")).stdout)
    helped = (await rayhaul(bare, "--help")).stdout
    assert all(
        f" {command} " in helped
        for command in (
            *("up", "down", "get", "jobs", "job", "cancel", "pause", "resume", "retry", "requeue", "trace"),
            *("queue", "dlq", "agents", "hosts", "keys"),
        )
    )
