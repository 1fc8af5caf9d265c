"""A real cluster whose processes are killed: the job goes on, the bytes are right, the history tells what happened."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from documents import block, with_texts
from embedded import Embedded, embedded, eventually
from origin import Origin, content_sha256
from test_cluster import MIB, sha256_of_object

from rayhaul import Client
from rayhaul.job import FINAL, JobStatus

pytestmark = pytest.mark.cluster

GIB = 1024 * MIB
#: What one connection of the origin gives: slow enough that there is a middle to kill in.
RATE_BYTES_PER_S = 16 * MIB


def in_the_middle(client: Client, job_id: str, *, bytes_min: int) -> None:
    """Wait until a job has moved so many bytes and is still moving."""

    def moving() -> bool:
        job = client.get(job_id)
        assert job.status not in FINAL, f"already {job.status}: {job.error}"
        return job.status is JobStatus.DOWNLOADING and job.progress.bytes >= bytes_min

    eventually(moving, within_s=60, what="the job is in the middle")


def kill_one(cluster: Embedded, name: str) -> int:
    """SIGKILL a process of the cluster by its title; return its pid."""
    pid = min(cluster.processes(name))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in cluster.processes(name), within_s=10, what=f"{name} is dead")
    return pid


def kill_agent_of(cluster: Embedded, agent: str) -> None:
    """SIGKILL the process of that agent, found by what it logged."""
    title = "ray::AgentActor"
    pids = sorted(cluster.processes(title))
    assert pids, "no agents"
    for pid in pids:
        if f'"agentId": "{agent}"' in cluster.ray_logs(pid):
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"no process of {agent} found")


def test_agent_store_and_scheduler_killed_in_a_large_job(cluster: Embedded, origin: Origin) -> None:
    """SIGKILL of agent, store and scheduler, in the middle of 1 GiB: completed, identical, told in the history."""
    url = origin.add("large.bin", size=GIB, seed=11, rate_bytes_per_s=RATE_BYTES_PER_S)
    with cluster.client() as client:
        job_id = client.submit(url).id
        in_the_middle(client, job_id, bytes_min=100 * MIB)
        kill_agent_of(cluster, client.get(job_id).agents[0])
        eventually(lambda: client.get(job_id).requeues == 1, within_s=30, what="the job is handed back")
        in_the_middle(client, job_id, bytes_min=300 * MIB)
        kill_one(cluster, "weed -logtostderr")
        in_the_middle(client, job_id, bytes_min=500 * MIB)
        kill_one(cluster, "ray::SchedulerActor")
        job = client.wait(job_id, timeout_s=240)
        assert job.result is not None
        assert job.result.size_bytes == GIB
        assert sha256_of_object(client, job_id) == content_sha256(11, GIB)
        events = client.history(job_id)
    names = [event.event for event in events]
    assert names[:3] == ["created", "metadata", "started"]
    assert names[-2:] == ["uploading", "completed"]
    # It leaves its state only where the other agent had no stripe of it yet; what was lost is leased again in any case.
    assert names.count("started") >= 2
    # What was in the bucket stayed there: read again is what was on its way, three times, on all connections.
    read_bytes = sum((seen.range[1] or 0) - seen.range[0] for seen in origin.seen("large.bin") if seen.range)
    assert read_bytes < 1.4 * GIB


@pytest.mark.drill
def test_a_killed_cluster_goes_on(tmp_path: Path, origin: Origin) -> None:
    """After SIGKILL of `up` itself the next one on the same directory and port finishes every job."""
    slow = origin.add("slow.bin", size=96 * MIB, seed=12, rate_bytes_per_s=4 * MIB)
    data_dir = tmp_path / "data"
    cluster = Embedded(data_dir)
    try:
        cluster.up()
        with cluster.client() as client:
            job_ids = [client.submit(slow, connections=4).id]
            in_the_middle(client, job_ids[0], bytes_min=20 * MIB)
            job_ids += client.submit_many(origin.add(f"{n}.bin", size=n * 1000, seed=n) for n in range(20))
        cluster.signal(signal.SIGKILL)
        cluster.up()  # on the same port: what was left behind is gone
        with cluster.client() as client:
            for job_id in job_ids:
                client.wait(job_id, timeout_s=120)
            assert sha256_of_object(client, job_ids[0]) == content_sha256(12, 96 * MIB)
    finally:
        cluster.stop()


def test_used_and_ended_as_the_readme_says(tmp_path: Path, origin: Origin) -> None:
    """Its commands, one after the other; then Ctrl-C in the middle of a job ends every process within 10 s."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    install, up, *commands = block("use it").splitlines(keepends=True)
    assert install in block("quickstart"), "which is run where it may take its time"
    (tmp_path / "urls.txt").write_text(origin.add("listed.bin", size=MIB))
    ours = {"https://files.example/data.tar": origin.add("data.tar", size=MIB)}
    with embedded(tmp_path / "data", script=up) as cluster:
        used = subprocess.run(
            ["bash", "-euc", with_texts("".join(commands), ours)],
            cwd=tmp_path,
            env=cluster.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert used.returncode == 0, used.stdout + used.stderr
        assert "rayhaul: " not in used.stderr, used.stderr
        listed = used.stdout.splitlines()[-3:]
        assert [name for name in ("data.tar", "listed.bin") if not any(name in line for line in listed)] == []
        with cluster.client() as client:
            job_id = client.submit(origin.add("s.bin", size=64 * MIB, rate_bytes_per_s=MIB)).id
            in_the_middle(client, job_id, bytes_min=MIB)
        took_s = cluster.signal(signal.SIGINT)
        assert took_s < 10
        assert not cluster.processes()
