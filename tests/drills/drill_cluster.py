"""Faults on an embedded cluster: who is which process, and the ways to hurt it."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Protocol

import httpx
from drill_audit import Books, Bucket, Content, audit
from drill_table import Drill
from embedded import Embedded, embedded, eventually
from origin import Origin

from rayhaul import Client
from rayhaul.job import JobStatus
from serve_app.embedded import Place

KIB, MIB = 1024, 1024 * 1024

AGENT = "ray::AgentActor"
SCHEDULER = "ray::SchedulerActor"
REPLICA = "ray::ServeReplica"

#: Liveness scaled down, so that a silence is found in seconds: offline after 12 s (60 s as delivered), self-fencing
#: after 8 s (45 s). The table says so where it matters.
QUICK = {
    "RAYHAUL_LIVENESS__OFFLINE_S": "12",
    "RAYHAUL_LIVENESS__SELF_FENCE_S": "8",
    "RAYHAUL_TRANSFER__PART_BYTES_MIN": str(5 * MIB),
    "RAYHAUL_TRANSFER__SINGLE_PUT_BYTES_MAX": str(5 * MIB),
    "RAYHAUL_TRANSFER__RETRY_BASE_S": "0.2",
    "RAYHAUL_TRANSFER__RETRY_CAP_S": "2",
    "RAYHAUL_LEDGER__BUSY_TIMEOUT_S": "3",
    "RAYHAUL_API__RATE_PER_MINUTE": "1000000",
}
SCALED = "scaled down: offline after 12 s, self-fencing after 8 s"


class Cluster(Protocol):
    """What is asked of a running cluster."""

    @property
    def url(self) -> str: ...

    @property
    def key(self) -> str: ...

    def client(self) -> Client: ...

    def processes(self, name: str = "") -> dict[int, str]:
        """Return the processes whose command line contains `name`: process id -> command line."""
        ...


class Patient:
    """A cluster that drills are done on, with its ledger and bucket open beside it."""

    def __init__(self, cluster: Cluster, books: Books, bucket: Bucket) -> None:
        self.cluster = cluster
        self.books = books
        self.bucket = bucket

    def submit(
        self, origin: Origin, contents: Iterable[tuple[str, Content]], **behaviour: object
    ) -> dict[str, Content]:
        """Ask for files of the origin in one batch; return what the jobs must become."""
        wanted = list(contents)
        urls = [origin.add(name, size=content.size_bytes, seed=content.seed, **behaviour) for name, content in wanted]
        with self.cluster.client() as client:
            job_ids = client.submit_many(urls)
        return dict(zip(job_ids, (content for _, content in wanted), strict=True))

    def check(self, drill: Drill, wanted: Mapping[str, Content], *, completed: bool = True) -> None:
        """Audit the jobs into the drill's row; nothing may be lost, double or broken, and all `completed` if so."""
        drill.audit = found = audit(self.books, self.bucket, wanted)
        assert not found.lost, found.lost[:5]
        assert not found.double, found.double[:5]
        assert not found.broken, found.broken[:5]
        if completed:
            assert found.statuses == {JobStatus.COMPLETED: len(wanted)}, found.statuses

    def await_ready(self, *, agents: int, within_s: float = 90) -> None:
        """Return when the API takes jobs and so many agents are online."""

        def whole() -> bool:
            with suppress(httpx.HTTPError), self.http() as http:
                if http.get("/readyz").status_code != 200:
                    return False
                states = [agent["state"] for agent in http.get("/agents").json().get("agents", [])]
                return states.count("online") == agents
            return False

        eventually(whole, within_s=within_s, what=f"ready with {agents} agents")

    def http(self, timeout_s: float = 15) -> httpx.Client:
        """Return a client that repeats nothing."""
        headers = {"Authorization": f"Bearer {self.cluster.key}"}
        return httpx.Client(base_url=self.cluster.url, headers=headers, timeout=timeout_s)

    def pid_of(self, title: str) -> int:
        """Return the process of that title; wait for it where it is being started again."""
        eventually(lambda: bool(self.cluster.processes(title)), within_s=60, what=f"{title} runs")
        return min(self.cluster.processes(title))

    def kill(self, title: str) -> int:
        """SIGKILL the process of that title and return when it is gone."""
        pid = self.pid_of(title)
        kill_hard(pid)
        return pid

    def agent_pids(self) -> dict[str, int]:
        """Return the processes of the agents that have logged something, by the agent's name."""
        found: dict[str, int] = {}
        for pid in self.cluster.processes(AGENT):
            name = self._agent_of(pid)
            if name is not None:
                found[name] = pid
        return found

    def agent_pid(self, agent: str) -> int:
        eventually(lambda: agent in self.agent_pids(), within_s=60, what=f"the process of {agent} is known")
        return self.agent_pids()[agent]

    def log_paths(self, pid: int) -> list[Path]:
        """Return the files in which a process of the cluster logs."""
        raise NotImplementedError

    def _agent_of(self, pid: int) -> str | None:
        for path in self.log_paths(pid):
            with path.open() as log:
                for line in log:
                    _, mark, rest = line.partition('"agentId": "')
                    if mark:
                        return rest.partition('"')[0]
        return None

    def holder_of(self, job_id: str, *, bytes_min: int = 0) -> str:
        """Return the agent that moves a job's bytes, once it has moved so many."""

        def moving() -> bool:
            with self.cluster.client() as client:
                job = client.get(job_id)
            assert job.status is not JobStatus.FAILED, job.error
            return job.status is JobStatus.DOWNLOADING and bool(job.agents) and job.progress.bytes >= bytes_min

        eventually(moving, within_s=60, what="the job is in the middle")
        return self.books.job(job_id).agents[0]

    def await_offline(self, agent: str, within_s: float) -> None:
        def offline() -> bool:
            with suppress(httpx.HTTPError), self.http() as http:
                agents = http.get("/agents").json().get("agents", [])
                return any(seen["agent"] == agent and seen["state"] == "offline" for seen in agents)
            return False

        eventually(offline, within_s=within_s, what=f"{agent} is offline")

    def await_no_uploads(self, drill: Drill | None = None, within_s: float = 30) -> None:
        """Return when no multipart upload is open in the bucket; else say what is left, in the row too."""
        deadline_s = time.monotonic() + within_s
        while uploads := self.bucket.uploads():
            if time.monotonic() > deadline_s:
                jobs = {job.key: job for job in self.books.jobs().values()}
                left = Counter(str(jobs[key].status) if key in jobs else "no job" for key in uploads)
                if drill is not None:
                    drill.remark(f"uploads left open {within_s:.0f} s later, by the job's status: {dict(left)}")
                raise AssertionError(f"uploads are left open: {dict(left)} {uploads[:3]}")
            time.sleep(0.5)

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels, as /metrics shows it now."""
        with self.http() as http:
            return readings(http.get("/metrics").text).get(name, 0.0)


class EmbeddedPatient(Patient):
    def __init__(self, cluster: Embedded, books: Books, bucket: Bucket) -> None:
        super().__init__(cluster, books, bucket)
        self.data_dir = cluster.data_dir
        self._temp_dir = Place(data_dir=cluster.data_dir, host="127.0.0.1", port=cluster.port).temp_dir
        self.embedded = cluster

    def log_paths(self, pid: int) -> list[Path]:
        return list(self._temp_dir.glob(f"session_2*/logs/worker-*-{pid}.err"))


def readings(exposed: str) -> dict[str, float]:
    """Return each series' value from Prometheus text, added up over labels by name."""
    found: dict[str, float] = {}
    for line in exposed.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found


def kill_hard(pid: int) -> None:
    """SIGKILL a process and return when it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not runs(pid), within_s=20, what=f"{pid} is gone")


def runs(pid: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@contextmanager
def patient(data_dir: Path, *, agents: int, **settings: str) -> Iterator[EmbeddedPatient]:
    """Yield a running cluster under observation."""
    with embedded(data_dir, agents=agents, **settings) as cluster:
        with watched(cluster, settings.get("RAYHAUL_LEDGER__URL")) as found:
            yield found


@contextmanager
def watched(cluster: Embedded, ledger_url: str | None = None) -> Iterator[EmbeddedPatient]:
    """Open ledger and bucket of a running cluster beside it."""
    url = ledger_url or f"sqlite:///{cluster.data_dir / 'ledger.db'}"
    # Also where the ledger lies elsewhere, the key that seals it is in the data directory.
    key_path = cluster.data_dir / "ledger-key"
    secret_key = key_path.read_text().strip() if key_path.exists() else None
    with Books(url, secret_key) as books, Bucket.embedded(cluster.data_dir) as bucket:
        yield EmbeddedPatient(cluster, books, bucket)


@contextmanager
def injected(pid: int, what: str, *more: int) -> Iterator[None]:
    """Have strace(1) change the results of processes' system calls (`strace -e inject=…`) for as long as we are in."""
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", *(f"-p{each}" for each in (pid, *more)), "-e", f"inject={what}"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(
            lambda: all(_is_traced(each, tracer) for each in (pid, *more)),
            within_s=20,
            what=f"strace is attached to {pid}",
        )
        yield
    finally:
        # strace lets go of what it traces when it is told to end.
        tracer.send_signal(signal.SIGINT)
        try:
            tracer.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.communicate()


def _is_traced(pid: int, tracer: subprocess.Popen[str]) -> bool:
    assert tracer.poll() is None, tracer.stderr.read() if tracer.stderr else ""
    threads = list(Path(f"/proc/{pid}/task").glob("*/status"))
    return all(f"TracerPid:\t{tracer.pid}" in status.read_text() for status in threads)


def small_files(prefix: str, count: int, *, size_bytes: int = 20 * KIB) -> list[tuple[str, Content]]:
    return [(f"{prefix}/{number}.bin", Content(number, size_bytes)) for number in range(count)]


def pause_s(rng: Random, shortest_s: float, longest_s: float) -> None:
    time.sleep(rng.uniform(shortest_s, longest_s))
