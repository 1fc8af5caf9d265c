"""Each of the specification's seven alerts, provoked by its own fault, fires and is resolved at a real Alertmanager."""

import asyncio
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from drill_audit import Books, Bucket
from drill_cluster import KIB, MIB, QUICK, EmbeddedPatient
from drill_prometheus import TIME_SCALE, Monitoring, watching, write_alerts
from drill_table import Begin
from embedded import embedded, eventually
from origin import Origin
from store import running_store
from store_proxy import Fault, StoreProxy

from rayhaul.alert_file import read_alerts
from rayhaul.job import FINAL, JobStatus
from rayhaul.policy.alert_rules import window_text
from rayhaul.settings import S3Settings

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

AGENTS = 2
SLOTS = 4
WINDOWS_S = {rule.name: rule.window_s for rule in read_alerts()}
#: From a condition that holds until Alertmanager knows: rate window, `for`, scrape, evaluation; and a busy machine.
FIRES_WITHIN_S = 90
RESOLVED_WITHIN_S = 120
#: Rules that rest on what this cluster has no occasion for: nobody was refused for asking too often, and such.
NO_OCCASION = frozenset({"job:rayhaul_api_rate_limit_hits:per_minute5m"})


class ProxyThread:
    """A StoreProxy on a loop of its own, for a synchronous test."""

    def __init__(self, store: S3Settings) -> None:
        self.proxy = StoreProxy(store)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> StoreProxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.proxy.__aenter__(), self._loop).result(30)
        return self.proxy

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.proxy.__aexit__(None, None, None), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def proxy() -> Iterator[StoreProxy]:
    """Stands between the cluster and its bucket."""
    with running_store() as store, ProxyThread(store.settings) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, proxy: StoreProxy) -> Iterator[EmbeddedPatient]:
    """A cluster that scales by the scaled alert file, and whose bucket is behind the proxy."""
    directory = tmp_path_factory.mktemp("alerts")
    write_alerts(directory / "alerts.yaml")
    s3 = proxy.settings
    assert s3.secret_access_key is not None
    settings = {
        **QUICK,
        "RAYHAUL_S3__ENDPOINT_URL": str(s3.endpoint_url),
        "RAYHAUL_S3__BUCKET": str(s3.bucket),
        "RAYHAUL_S3__ACCESS_KEY_ID": str(s3.access_key_id),
        "RAYHAUL_S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value(),
        "RAYHAUL_AGENT__SLOTS": str(SLOTS),
        "RAYHAUL_SCALING__RULES_PATH": str(directory / "alerts.yaml"),
        "RAYHAUL_SCALING__AGENTS_MAX": str(AGENTS + 1),
        "RAYHAUL_SCALING__COOLDOWN_S": "5",
        "RAYHAUL_SCALING__SMOOTHING_S": "1",
    }
    with embedded(directory / "data", agents=AGENTS, **settings) as cluster:
        url = f"sqlite:///{cluster.data_dir / 'ledger.db'}"
        with Books(url) as books, Bucket(s3) as bucket:
            yield EmbeddedPatient(cluster, books, bucket)


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory, watched: EmbeddedPatient) -> Iterator[Monitoring]:
    with watching(watched, tmp_path_factory.mktemp("monitoring")) as monitoring:
        yield monitoring


class Provoked:
    """An alert's row in the table, while its fault is made and mended."""

    def __init__(self, begin: Begin, monitoring: Monitoring, alert: str, fault: str) -> None:
        self._monitoring = monitoring
        self._alert = alert
        self.drill = begin("F57", f"{alert} at Alertmanager: {fault}")
        window_s = WINDOWS_S[alert]
        self.drill.remark(
            f"real Prometheus and Alertmanager; times divided by {TIME_SCALE}: "
            f"{window_text(window_s)} are {window_s / TIME_SCALE:g} s"
        )
        assert not monitoring.fires(alert), f"{alert} fires before its fault"
        self.drill.strike()

    def await_firing(self) -> None:
        self._monitoring.await_firing(self._alert, within_s=FIRES_WITHIN_S)
        self.drill.see("fires at Alertmanager")

    def await_resolved(self) -> None:
        mended_s = time.monotonic()
        self._monitoring.await_resolved(self._alert, within_s=RESOLVED_WITHIN_S)
        self.drill.recover()
        self.drill.remark(f"resolved {time.monotonic() - mended_s:.1f} s after the fault was mended")
        told = self._monitoring.await_told(self._alert, "resolved", within_s=60)
        assert self._monitoring.await_told(self._alert, "firing", within_s=1).receiver == told.receiver
        self.drill.remark(f"told to the receiver `{told.receiver}`, both times")


@contextmanager
def again_and_again(act: Callable[[int], None], *, every_s: float, threads: int = 1) -> Iterator[None]:
    """Do it in threads for as long as we are in; what the cluster refuses meanwhile does not matter."""
    stop = threading.Event()

    def run(first: int) -> None:
        number = first
        while not stop.wait(every_s):
            with suppress(httpx.HTTPError):
                act(number)
            number += threads

    running = [threading.Thread(target=run, args=(first,), name="load") for first in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join()


def post(watched: EmbeddedPatient, url: str, **fields: object) -> str:
    with watched.http(30) as http:
        return str(http.post("/jobs", json={"url": url, **fields}).json().get("id"))


def test_every_rule_returns_data(watched: EmbeddedPatient, monitoring: Monitoring, origin: Origin) -> None:
    """Under an ordinary load each recording rule and each alert rule is healthy, and each record has a value."""
    small = [origin.add(f"load/{number}.bin", size=20 * KIB, seed=number) for number in range(20)]

    def load(number: int) -> None:
        job_id = post(watched, small[number % len(small)])
        with watched.http(30) as http:
            http.get(f"/jobs/{job_id}/download")

    def empty() -> set[str]:
        records = {rule["name"] for rule in monitoring.rules() if rule["type"] == "recording"}
        return {record for record in records - NO_OCCASION if not monitoring.query(record)}

    def stream() -> None:
        with suppress(httpx.HTTPError), watched.http(60) as http, http.stream("GET", "/events") as events:
            for _ in events.iter_lines():
                if done.is_set():
                    return

    done = threading.Event()
    reading = threading.Thread(target=stream, name="reader")
    reading.start()
    try:
        with again_and_again(load, every_s=0.3):
            with suppress(AssertionError):
                eventually(lambda: not empty(), within_s=90, what="each record has a value")
            broken = {rule["name"]: rule.get("lastError") for rule in monitoring.rules() if rule["health"] != "ok"}
            assert (empty(), broken) == (set(), {})
    finally:
        done.set()
        reading.join()
    assert monitoring.fires("Watchdog")


def test_busy_agents(watched: EmbeddedPatient, monitoring: Monitoring, origin: Origin, begin: Begin) -> None:
    """All slots are taken: the alert fires, the scheduler adds an agent by the same rule, and that resolves it.

    The first of the faults: the load of others would have added that agent before.
    """
    decided = watched.metric("rayhaul_scaling_decisions_total")
    provoked = Provoked(begin, monitoring, "WorkerCapacityHigh", "slow jobs in all slots; mended by scaling out alone")
    urls = [
        # Of one part each: spread, they would take three of the new agent's four slots, and 11 of 12 are above 90 %.
        origin.add(f"busy/{number}.bin", size=5 * MIB, seed=6, rate_bytes_per_s=16 * KIB)
        for number in range(AGENTS * SLOTS)
    ]
    jobs = [post(watched, url, connections=1) for url in urls]
    provoked.await_firing()
    provoked.await_resolved()
    running = [watched.books.job(job_id).status for job_id in jobs]
    assert running == [JobStatus.DOWNLOADING] * len(jobs), "the load is still there"
    watched.await_ready(agents=AGENTS + 1)
    assert watched.metric("rayhaul_scaling_decisions_total") > decided
    provoked.drill.remark(f"agents: {AGENTS} -> {AGENTS + 1}, decided by the rule's action auto-scale")
    with watched.cluster.client() as client:
        for job_id in jobs:
            if client.get(job_id).status not in FINAL:
                client.cancel(job_id)


def test_dead_letter(watched: EmbeddedPatient, monitoring: Monitoring, origin: Origin, begin: Begin) -> None:
    """A job that ran out of attempts; it is replayed when its origin is well again."""
    provoked = Provoked(begin, monitoring, "DLQNonEmpty", "an origin answers 503 until a job is given up")
    job_id = post(watched, origin.add("dead.bin", size=20 * KIB, seed=1, status=503))
    provoked.await_firing()
    origin.add("dead.bin", size=20 * KIB, seed=1)
    with watched.http() as http:
        assert http.post(f"/dlq/{job_id}/replay").status_code == 200
    provoked.await_resolved()
    assert watched.books.job(job_id).status is JobStatus.COMPLETED


def test_failing_jobs(watched: EmbeddedPatient, monitoring: Monitoring, origin: Origin, begin: Begin) -> None:
    """One job in four asks for a file that is not there."""
    provoked = Provoked(begin, monitoring, "HighJobFailureRate", "one job in four asks for a file that is not there")
    good = origin.add("good.bin", size=20 * KIB, seed=2)
    missing = origin.add("missing.bin", size=20 * KIB, seed=2, status=404)

    def submit(number: int) -> None:
        post(watched, good if number % 4 or is_mended.is_set() else missing)

    is_mended = threading.Event()
    with again_and_again(submit, every_s=0.3):
        provoked.await_firing()
        is_mended.set()
        provoked.await_resolved()


def test_failing_uploads(
    watched: EmbeddedPatient, monitoring: Monitoring, proxy: StoreProxy, origin: Origin, begin: Begin
) -> None:
    """The bucket answers 503 to a PUT each second; trying again cures it, so no job fails."""
    provoked = Provoked(begin, monitoring, "R2UploadErrors", "the bucket answers 503 SlowDown once a second")
    url = origin.add("upload.bin", size=20 * KIB, seed=3)
    slow_down = Fault(status=503, code="SlowDown")
    jobs: list[str] = []
    with again_and_again(lambda _: jobs.append(post(watched, url)), every_s=0.3):
        with again_and_again(lambda _: proxy.fail("put_object", slow_down), every_s=1):
            provoked.await_firing()
        proxy.reset()
        provoked.await_resolved()
    watched.books.await_final(jobs, within_s=60)
    assert {watched.books.job(job_id).status for job_id in jobs} == {JobStatus.COMPLETED}


def test_slow_api(watched: EmbeddedPatient, monitoring: Monitoring, origin: Origin, begin: Begin) -> None:
    """Somebody holds the ledger's write lock most of the time: what is submitted waits to be durable."""
    provoked = Provoked(begin, monitoring, "APIHighLatency", "the ledger's write lock is held for 2 s of every 2.5 s")
    url = origin.add("slow-api.bin", size=20 * KIB, seed=4)

    def hold(_: int) -> None:
        with suppress(sqlite3.OperationalError):
            rival = sqlite3.connect(watched.data_dir / "ledger.db", timeout=5, isolation_level=None)
            try:
                rival.execute("BEGIN IMMEDIATE")
                time.sleep(2)
                rival.execute("ROLLBACK")
            finally:
                rival.close()

    def submit(_: int) -> None:
        post(watched, url)

    with again_and_again(hold, every_s=0.5), again_and_again(submit, every_s=0, threads=8):
        provoked.await_firing()
    with again_and_again(submit, every_s=0.3):
        provoked.await_resolved()


def test_backlog(watched: EmbeddedPatient, monitoring: Monitoring, origin: Origin, begin: Begin) -> None:
    """2,100 jobs of a priority that is held back wait, and are done when it may go on."""
    provoked = Provoked(begin, monitoring, "QueueBacklog", "2,100 jobs wait because their priority is held back")
    url = origin.add("backlog.bin", size=KIB, seed=5)
    with watched.http(60) as http:
        assert http.post("/queue/pause", json={"priority": "low"}).status_code == 200
        answer = http.post("/jobs/batch", json={"jobs": [{"url": url, "priority": "low"}] * 2100})
        assert answer.status_code == 201
        provoked.await_firing()
        assert http.post("/queue/resume", json={"priority": "low"}).status_code == 200
    provoked.await_resolved()
    watched.books.await_final([job["id"] for job in answer.json()["jobs"]], within_s=300)


def test_stopped_agent(watched: EmbeddedPatient, monitoring: Monitoring, begin: Begin) -> None:
    """An agent stands still (SIGSTOP) until it is offline, and goes on (SIGCONT)."""
    watched.await_ready(agents=len(watched.agent_pids()))
    pid = next(iter(watched.agent_pids().values()))
    provoked = Provoked(begin, monitoring, "WorkerOffline", "SIGSTOP of an agent, then SIGCONT")
    provoked.drill.remark("offline after 12 s of silence, 60 s as delivered")
    os.kill(pid, signal.SIGSTOP)
    try:
        provoked.await_firing()
    finally:
        os.kill(pid, signal.SIGCONT)
    provoked.await_resolved()
