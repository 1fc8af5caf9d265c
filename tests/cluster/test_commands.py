"""The command line against a real cluster, and the doors of its processes."""

import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from embedded import Embedded, eventually
from log_watch import valid
from origin import Origin
from test_cluster import MIB
from test_faults import kill_agent_of

from rayhaul.job import JobStatus

pytestmark = pytest.mark.cluster


def rayhaul(cluster: Embedded, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the user who started the cluster would: it finds the cluster by itself."""
    command = [sys.executable, "-m", "rayhaul.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, env=cluster.environment, timeout=120)


def test_get(cluster: Embedded, origin: Origin) -> None:
    """`get` follows its jobs to the end: 0 when all are there, 1 when one is not."""
    good = origin.add("good.bin", size=20 * MIB, seed=21)
    done = rayhaul(cluster, "get", good, "-o", "named/good.bin", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert "named/good.bin" in json.dumps(told)
    assert rayhaul(cluster, "get", good, origin.add("none.bin", size=1, status=404)).returncode == 1


def test_jobs_job_cancel(cluster: Embedded, origin: Origin) -> None:
    """A job is listed, shown and cancelled by its id."""
    started = rayhaul(cluster, "get", "--no-wait", "--json", origin.add("s.bin", size=64 * MIB, rate_bytes_per_s=MIB))
    assert started.returncode == 0, started.stderr
    with cluster.client() as client:
        job_id = client.list(limit=1).jobs[0].id
        eventually(lambda: client.get(job_id).status is JobStatus.DOWNLOADING, within_s=30, what="it downloads")
    assert job_id in rayhaul(cluster, "jobs").stdout
    assert json.loads(rayhaul(cluster, "job", job_id, "--json").stdout)["status"] == "downloading"
    assert rayhaul(cluster, "cancel", job_id).returncode == 0
    with cluster.client() as client:
        assert client.get(job_id).status is JobStatus.CANCELLED
    assert rayhaul(cluster, "job", "job_nobody").returncode != 0


def test_logs_of_a_job_whose_agent_is_gone(cluster: Embedded, origin: Origin) -> None:
    """The lines of a job are found by its id and by the request's, from API and agent; the agent's outlive it."""
    with cluster.client() as client:
        job = client.submit(origin.add("told.bin", size=MIB), correlation_id="tell-me-about-it")
        job = client.wait(job.id, timeout_s=60)
        kill_agent_of(cluster, job.agents[0])
        stranger = client.create_key("eve").key
    for words in (("--job", job.id), ("--correlation", "tell-me-about-it")):
        found = rayhaul(cluster, "logs", *words, "--json")
        assert (found.returncode, found.stderr) == (0, "")
        lines = [json.loads(text) for text in found.stdout.splitlines()]
        for line in lines:
            valid(line)
        lines = [line for line in lines if not line.get("handler", "").startswith("GET ")]
        told = {(line["service"], line["msg"].partition(":")[0]) for line in lines}
        assert told >= {("api", "POST /jobs 201"), ("agent", "metadata ready"), ("agent", "transfer done")}
        assert {line["correlationId"] for line in lines} == {"tell-me-about-it"}
        assert {line["jobId"] for line in lines} == {job.id}
    assert f"{job.agents[0]}    transfer done: " in rayhaul(cluster, "logs", "--job", job.id).stdout
    # What Ray says of itself, in C++ and in Python.
    rays = rayhaul(cluster, "logs", "--ray", "info", "--limit", "10000", "--json").stdout.splitlines()
    parts = {json.loads(text).get("handler") for text in rays}
    assert parts >= {"ray/gcs_server", "ray/raylet", "ray/dashboard", "ray/node_agent"}
    environment = cluster.environment | {"RAYHAUL_URL": cluster.url, "RAYHAUL_API_KEY": stranger}
    command = [sys.executable, "-m", "rayhaul.cli.main", "logs"]
    assert subprocess.run(command, capture_output=True, env=environment, timeout=120).returncode == 4


def test_keys_and_strangers(cluster: Embedded, origin: Origin) -> None:
    """A user's key sees the user's jobs alone; a revoked one sees nothing."""
    made = json.loads(rayhaul(cluster, "keys", "create", "mallory", "--json").stdout)
    with cluster.client() as client:
        job_id = client.submit(origin.add("mine.bin", size=10)).id

    def status(path: str) -> int:
        request = urllib.request.Request(f"{cluster.url}{path}", headers={"Authorization": f"Bearer {made['key']}"})
        try:
            with urllib.request.urlopen(request) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("/jobs") == 200
    assert status(f"/jobs/{job_id}") == 404
    assert status("/agents") == 403
    assert rayhaul(cluster, "keys", "revoke", made["id"]).returncode == 0
    eventually(lambda: status("/jobs") == 401, within_s=15, what="the key is refused")


def test_secrets_are_private(cluster: Embedded) -> None:
    """Keys, token and ledger can be read by their owner only; Ray's dashboard is on loopback and wants its token."""
    for name in ("api-key", "ray-token", "ledger.db", "bucket/identity.json"):
        assert (cluster.data_dir / name).stat().st_mode & 0o077 == 0, name
    dashboard = json.loads((cluster.data_dir / "up.json").read_text())["dashboardUrl"]
    assert dashboard.startswith("http://127.0.0.1:")
    asked = urllib.request.Request(f"{dashboard}/api/serve/applications/")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked)
    refused.value.close()
    assert refused.value.code in (401, 403)
    asked.add_header("Authorization", f"Bearer {(cluster.data_dir / 'ray-token').read_text()}")
    with urllib.request.urlopen(asked) as answer:
        assert answer.status == 200
