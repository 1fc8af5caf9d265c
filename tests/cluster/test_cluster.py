"""A real cluster (Ray, Serve behind HAProxy, SeaweedFS) under a user's hands."""

import hashlib
import json
import os
import re
import urllib.request
from collections import defaultdict
from random import Random

import httpx
import pytest
from embedded import Embedded, eventually
from origin import Origin, content_sha256
from prometheus_client.parser import text_string_to_metric_families

from rayhaul import Client
from rayhaul.job import FINAL, JobStatus

pytestmark = pytest.mark.cluster

KIB, MIB = 1024, 1024 * 1024


def sha256_of_object(client: Client, job_id: str) -> str:
    """Read an object back by its presigned link, as anybody would."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(client.download_link(job_id).url, timeout=60) as response:
        while piece := response.read(MIB):
            digest.update(piece)
    return digest.hexdigest()


def mixed_sizes(count: int) -> list[int]:
    """Sizes from 1 KB to 64 MB, most of them small, with both ends among them."""
    rng = Random(7)
    return [KIB, 64 * MIB, *(int(KIB * 2 ** rng.triangular(0, 16, 4)) for _ in range(count - 2))]


def test_a_hundred_jobs_in_one_batch(cluster: Embedded, origin: Origin) -> None:
    """100 files of 1 KB to 64 MB: all completed, every object byte-identical."""
    sizes = mixed_sizes(100)
    urls = [origin.add(f"mixed/{n}.bin", size=size, seed=n) for n, size in enumerate(sizes)]
    with cluster.client() as client:
        job_ids = client.submit_many(urls)
        assert len(job_ids) == len(urls)
        for n, job_id in enumerate(job_ids):
            job = client.wait(job_id, timeout_s=300)
            assert job.result is not None
            assert job.result.size_bytes == sizes[n]
            assert sha256_of_object(client, job_id) == content_sha256(n, sizes[n]), urls[n]
    assert {agent for job_id in job_ids for agent in client_agents(cluster, job_id)} == {"agent-1", "agent-2"}


def test_agents_yield_to_nobody(cluster: Embedded) -> None:
    """Left to itself Ray has its processes run at nice 15, behind all else on the machine."""
    pids = cluster.processes("ray::AgentActor")
    assert pids
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in pids} == {os.getpriority(os.PRIO_PROCESS, 0)}


def client_agents(cluster: Embedded, job_id: str) -> list[str]:
    with cluster.client() as client:
        return client.get(job_id).agents


def test_the_correlation_id_is_everywhere(cluster: Embedded, origin: Origin) -> None:
    """The caller's id in: response header, job row, every event, agent log lines, problem body, object metadata."""
    mine = "order-4711.from-the-caller"
    headers = {"Authorization": f"Bearer {cluster.key}", "X-Correlation-ID": mine}
    url = origin.add("traced.bin", size=3 * MIB, seed=3)
    with httpx.Client(base_url=cluster.url, headers=headers) as http, cluster.client() as client:
        answer = http.post("/jobs", json={"url": url})
        assert answer.status_code == 201
        assert answer.headers["x-correlation-id"] == mine
        assert answer.json()["correlationId"] == mine
        job = client.wait(answer.json()["id"], timeout_s=60)
        assert job.correlation_id == mine
        events = client.history(job.id)
        assert len(events) >= 5
        assert {event.payload["correlationId"] for event in events} == {mine}
        problem = http.get("/jobs/job_nobody_knows")
        assert problem.status_code == 404
        assert problem.json()["correlationId"] == mine
        assert problem.headers["content-type"] == "application/problem+json"
        link = client.download_link(job.id).url
    with urllib.request.urlopen(link) as response:
        assert response.headers["x-amz-meta-correlation-id"] == mine
    lines = [json.loads(line) for line in cluster.ray_logs().splitlines() if line.startswith("{")]
    # The client's own requests, for each look at the job one, have ids of their own.
    ours = [line for line in lines if line.get("jobId") == job.id and not line.get("handler", "").startswith("GET ")]
    assert {line["service"] for line in ours} == {"api", "agent"}
    assert {line["correlationId"] for line in ours} == {mine}


def test_live_progress_in_the_list(cluster: Embedded, origin: Origin) -> None:
    """While a job runs, `GET /jobs` shows bytes that grow."""
    url = origin.add("slow.bin", size=40 * MIB, seed=4, rate_bytes_per_s=4 * MIB)
    with cluster.client() as client:
        job = client.submit(url, connections=2)
        seen: set[int] = set()

        def grows() -> bool:
            listed = next(found for found in client.list(limit=5).jobs if found.id == job.id)
            assert listed.status not in FINAL, "too fast to be seen"
            if listed.status is JobStatus.DOWNLOADING:
                seen.add(listed.progress.bytes)
            return len(seen) >= 4

        eventually(grows, within_s=20, what="the list shows progress")
        client.cancel(job.id)
    assert max(seen) > 0


def read_stream(cluster: Embedded, job_id: str, last_event_id: str | None, most: int | None) -> list[tuple[str, str]]:
    """Read (id, event) from a job's stream through Serve's ingress, at most so many durable events."""
    headers = {"Authorization": f"Bearer {cluster.key}"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
    found: list[tuple[str, str]] = []
    with httpx.stream("GET", f"{cluster.url}/jobs/{job_id}/events", headers=headers, timeout=60) as response:
        assert response.status_code in (200, 204)
        event_id, event = "", ""
        for line in response.iter_lines():
            if match := re.fullmatch(r"id: ?(.*)", line):
                event_id = match[1]
            elif match := re.fullmatch(r"event: ?(.*)", line):
                event = match[1]
            elif not line and event:
                if event != "progress":
                    found.append((event_id, event))
                event = ""
                if most is not None and len(found) >= most:
                    break
    return found


def test_the_event_stream_resumes(cluster: Embedded, origin: Origin) -> None:
    """Cut after each event and resumed by Last-Event-ID, the stream has no gap and no repeat, and it ends."""
    url = origin.add("streamed.bin", size=24 * MIB, seed=5, rate_bytes_per_s=6 * MIB)
    with cluster.client() as client:
        job_id = client.submit(url, connections=2).id
        heard: list[tuple[str, str]] = []
        while not heard or heard[-1][1] != "completed":
            more = read_stream(cluster, job_id, heard[-1][0] if heard else None, most=1)
            assert more, "the stream ended early"
            heard.extend(more)
        rows = [(str(event.seq), event.event) for event in client.history(job_id)]
    assert heard == rows
    assert [name for _, name in rows] == ["created", "metadata", "started", "uploading", "completed"]
    assert read_stream(cluster, job_id, heard[-1][0], most=None) == []


@pytest.mark.parametrize("status", [404, 403])
def test_a_refusing_origin_leaves_no_upload(cluster: Embedded, origin: Origin, status: int) -> None:
    """A file that is not to be had fails the job, names the fault, and leaves nothing in the bucket."""
    url = origin.add(f"gone-{status}.bin", size=40 * MIB, status=status)
    with cluster.client() as client:
        job = client.submit(url)
        eventually(lambda: client.get(job.id).status in FINAL, within_s=30, what="the job fails")
        failed = client.get(job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.fault) == (
        {404: "source_not_found", 403: "source_refused"}[status],
        "source",
    )
    assert failed.result is None


def ray_metrics(cluster: Embedded) -> dict[tuple[str, str], float]:
    """Read what Prometheus would, by the discovery file that Ray writes: (name, our labels' values) -> summed value."""
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    discovery = cluster.temp_dir / "prom_metrics_service_discovery.json"
    for group in json.loads(discovery.read_text()):
        for target in group["targets"]:
            text = httpx.get(f"http://{target}/metrics", timeout=10).text
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    ours = [
                        sample.labels[key] for key in ("agent", "state", "priority", "outcome") if key in sample.labels
                    ]
                    found[sample.name, ",".join(ours)] += sample.value
    return found


def test_ray_s_own_metrics_show_the_cluster(cluster: Embedded, origin: Origin) -> None:
    """Agents, their capacity, the queue and what was done stand in Ray's metrics, where Ray's discovery leads."""
    with cluster.client() as client:
        jobs = [client.submit(origin.add(f"counted-{n}.bin", size=KIB)) for n in range(3)]
        for job in jobs:
            client.wait(job.id, timeout_s=60)

    def is_shown() -> bool:
        shown = ray_metrics(cluster)
        capacities = [shown.get(("ray_rayhaul_worker_capacity_pct", f"agent-{n}")) for n in (1, 2)]
        return (
            None not in capacities
            and shown["ray_rayhaul_workers", "online"] == 2
            and ("ray_rayhaul_queue_depth", "normal") in shown
            and shown["ray_rayhaul_jobs_created_total", ""] >= 3
            and shown["ray_rayhaul_jobs_finished_total", "completed"] >= 3
            and shown["ray_rayhaul_job_duration_seconds_count_total", ""] >= 3
        )

    # Ray collects every 10 s.
    eventually(is_shown, within_s=45, what="Ray's metrics show agents, capacity, queue and jobs")
