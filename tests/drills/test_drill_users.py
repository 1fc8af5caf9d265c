"""Drills on what users do to the queue: a backlog, cancels at any moment, replays, and readers that do not read."""

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
from drill_alerts import AlertWatch
from drill_audit import Content, audit
from drill_cluster import KIB, MIB, Patient, small_files
from drill_table import Begin
from embedded import eventually
from origin import Origin

from rayhaul import Client
from rayhaul.client.errors import Conflict
from rayhaul.job import JobStatus

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

AGENTS = 3

#: Jobs asked for at once while hundreds of streams are not read, and how long after them the next.
WAVE_JOBS, WAVE_S = 30, 2.0


def client_of(shared: Patient, user: str) -> Client:
    """Return a client with a fresh key of that user."""
    with shared.cluster.client() as operator:
        made = operator.create_key(user)
    return Client(shared.cluster.url, made.key)


def test_f54_a_backlog_of_ten_thousand(shared: Patient, origin: Origin, begin: Begin) -> None:
    """10,000 jobs of one user wait: another user's jobs and low ones are not held up; QueueBacklog fires, resolves."""
    drill = begin("F54", "a backlog of 10,000 jobs of one user; another one asks for 50 more")
    alert = begin("F57", "QueueBacklog under that backlog")
    alert.remark("window scaled down from 2 min to 4 s")
    rng = Random(54)
    backlog = [(f"f54/a/{number}.bin", Content(number % 100, 4 * KIB)) for number in range(10_000)]
    urls = [origin.add(name, size=content.size_bytes, seed=content.seed) for name, content in backlog]
    wanted: dict[str, Content] = {}
    seq = shared.books.last_seq()
    with (
        client_of(shared, "anna") as anna,
        client_of(shared, "bert") as bert,
        AlertWatch(shared, "QueueBacklog") as watch,
    ):
        drill.strike()
        alert.strike()
        jobs = [{"url": url, "priority": "low" if rng.random() < 0.05 else "normal"} for url in urls]
        began_s = time.monotonic()
        ids = anna.submit_many(jobs)
        accepted_s = time.monotonic() - began_s
        wanted |= dict(zip(ids, (content for _, content in backlog), strict=True))
        watch.await_firing(within_s=60)
        alert.see("fires")
        drill.see("QueueBacklog")
        few = small_files("f54/b", 50)
        late = bert.submit_many(origin.add(name, size=c.size_bytes, seed=c.seed) for name, c in few)
        wanted |= dict(zip(late, (content for _, content in few), strict=True))
        shared.books.await_final(late, within_s=120)
        open_of_anna = len(shared.books.open_ids() & set(ids))
        shared.books.await_final(wanted, within_s=600)
        drill.recover()
        watch.await_resolved(within_s=30)
        alert.recover()
    shared.check(drill, wanted)
    created = {event.job_id: event.ts for event in shared.books.events(seq) if event.event == "created"}
    waits: dict[str, list[float]] = {"anna": [], "bert": [], "low": []}
    for event in shared.books.events(seq):
        if event.event == "started" and event.job_id in created:
            wait_s = (event.ts - created[event.job_id]).total_seconds()
            job_is_low = event.job_id in ids and shared_low(jobs, ids).get(event.job_id, False)
            waits["bert" if event.job_id in late else "low" if job_is_low else "anna"].append(wait_s)
    drill.remark(
        f"accepted in {accepted_s:.1f} s; waits, median/longest: first user {_span(waits['anna'])}, "
        f"the same at low priority {_span(waits['low'])}, second user {_span(waits['bert'])} "
        f"with {open_of_anna} of the first still open when the second was done"
    )
    assert open_of_anna > 1000, "the second user waited for the first"


def shared_low(jobs: list[dict[str, str]], ids: Sequence[str]) -> dict[str, bool]:
    return {job_id: job["priority"] == "low" for job_id, job in zip(ids, jobs, strict=True)}


def _span(values_s: list[float]) -> str:
    return f"{statistics.median(values_s):.0f}/{max(values_s):.0f} s" if values_s else "none"


def test_f55_a_dead_letter_replayed_twice(shared: Patient, origin: Origin, begin: Begin) -> None:
    """Two people replay the same dead letter at once: one rerun, the other one is told; DLQNonEmpty fires, resolves."""
    drill = begin("F55", "a dead letter is replayed by eight callers at once")
    alert = begin("F57", "DLQNonEmpty while a dead letter lies there")
    alert.remark("window scaled down from 1 min to 2 s")
    content = Content(55, 30 * KIB)
    with AlertWatch(shared, "DLQNonEmpty") as watch:
        wanted = shared.submit(origin, [("f55/file.bin", content)], status=503)
        (job_id,) = wanted
        shared.books.await_final(wanted, within_s=120)
        alert.strike()
        assert shared.books.job(job_id).dead_lettered_at is not None
        watch.await_firing(within_s=30)
        alert.see("fires")
        origin.add("f55/file.bin", size=content.size_bytes, seed=content.seed)
        seq = shared.books.last_seq()
        drill.strike()
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: replayed(shared, job_id), range(8)))
        drill.see("replayed")
        shared.books.await_final(wanted, within_s=60)
        drill.recover()
        watch.await_resolved(within_s=30)
        alert.recover()
    names = [str(event.event) for event in shared.books.events(seq) if event.job_id == job_id]
    drill.remark(f"answers: {sorted(answers)}; events after it: {names}")
    drill.audit = found = audit(shared.books, shared.bucket, wanted)
    assert (found.lost, found.double, found.statuses) == ([], [], {"completed": 1})
    assert sorted(answers)[1:] == [409] * 7
    assert names.count("requeued") == names.count("started") == names.count("completed") == 1


def replayed(shared: Patient, job_id: str) -> int:
    with shared.http(30) as http:
        return http.post(f"/dlq/{job_id}/replay").status_code


def test_f56_cancelled_at_any_moment(shared: Patient, origin: Origin, begin: Begin) -> None:
    """100 jobs cancelled at random moments of their lives: each ends once, and no upload and no object is left over."""
    drill = begin("F56", "cancel at random moments of 100 jobs")
    rng = Random(56)
    files = [(f"f56/{n}.bin", Content(n, rng.choice([30 * KIB, 12 * MIB, 30 * MIB]))) for n in range(100)]
    wanted = shared.submit(origin, files, rate_bytes_per_s=4 * MIB)
    moments = sorted((rng.expovariate(1 / 8), job_id) for job_id in wanted)
    drill.strike()
    began_s = time.monotonic()
    states: dict[str, int] = {}
    with shared.cluster.client() as client:
        for at_s, job_id in moments:
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            before = client.get(job_id).status
            with suppress(Conflict):
                client.cancel(job_id)
            states[str(before)] = states.get(str(before), 0) + 1
            drill.see("cancelled")
    shared.books.await_final(wanted, within_s=60)
    drill.recover()
    shared.check(drill, wanted, completed=False)
    jobs = shared.books.jobs()
    cancelled = [jobs[job_id] for job_id in wanted if jobs[job_id].status is JobStatus.CANCELLED]
    left = [key for key, found in shared.bucket.read_all(job.key for job in cancelled if job.key).items() if found]
    drill.remark(
        f"cancelled while {states}; cancelled {len(cancelled)}, objects of cancelled jobs in the bucket: {len(left)}"
    )
    assert {jobs[job_id].status for job_id in wanted} <= {JobStatus.CANCELLED, JobStatus.COMPLETED}
    assert len(cancelled) > 30
    assert not left
    shared.await_no_uploads(drill)


def test_f48_five_hundred_readers_that_do_not_read(
    shared: Patient, origin: Origin, begin: Begin, tmp_path: Path
) -> None:
    """500 event streams nobody reads from: cut when they block, and those who read get events in time."""
    drill = begin("F48", "500 event streams that are not read")
    url = urlsplit(shared.cluster.url)
    head = (
        f"GET /events HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {shared.cluster.key}\r\n"
        f"Accept: text/event-stream\r\n\r\n"
    )
    # Events that are long fill the buffers on the way to those who do not read sooner.
    files = small_files(f"f48/{'x' * 3000}", 1500, size_bytes=2 * KIB)
    before_rss = rss_of(shared)
    lags_path = tmp_path / "lags"
    with ExitStack() as stack:
        drill.strike()
        slow = []
        for _ in range(500):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((url.hostname, url.port))
            sock.sendall(head.encode())
            slow.append(sock)
        time.sleep(2)
        opened = shared.metric("rayhaul_sse_connections")
        reading = stack.enter_context(reading_in_time(shared, lags_path))
        eventually(lambda: shared.metric("rayhaul_sse_connections") > opened, within_s=30, what="one reads")
        # What the machine carries beside its jobs: a burst of them would show how busy it is, not who holds up whom.
        wanted: dict[str, Content] = {}
        for begin_at in range(0, len(files), WAVE_JOBS):
            wanted |= shared.submit(origin, files[begin_at : begin_at + WAVE_JOBS])
            time.sleep(WAVE_S)
        shared.books.await_final(wanted, within_s=400)
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            if shared.metric("rayhaul_sse_connections") < opened - 250:
                drill.see("streams cut")
                break
            time.sleep(0.5)
        left = shared.metric("rayhaul_sse_connections")
        peak_rss = rss_of(shared)
        assert reading.poll() is None, "the one that reads lost its stream"
    drill.recover()
    shared.await_ready(agents=AGENTS)
    shared.check(drill, wanted)
    ordered = sorted(map(float, lags_path.read_text().split()))
    p99_s = ordered[int(len(ordered) * 0.99)]
    drill.remark(
        f"open {opened:.0f}, left {left:.0f}; {len(ordered)} events to a reader beside them, lag p50 "
        f"{ordered[len(ordered) // 2]:.2f} s, p99 {p99_s:.2f} s; "
        f"replica's memory {before_rss // MIB} -> {peak_rss // MIB} MiB"
    )
    assert p99_s < 5


def rss_of(shared: Patient) -> int:
    status = Path(f"/proc/{shared.pid_of('ray::ServeReplica')}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


@contextmanager
def reading_in_time(shared: Patient, lags_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have a good client follow all events meanwhile."""
    command = [sys.executable, str(Path(__file__).with_name("drill_reader.py")), shared.cluster.url, shared.cluster.key]
    with lags_path.open("wb") as lags, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=lags) as reading:
        try:
            yield reading
        finally:
            reading.kill()
