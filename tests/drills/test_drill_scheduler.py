"""Drills on the scheduler: killed in the middle of everything, at the worst instant, and kept from its ledger."""

import os
import signal
import sqlite3
import time
import uuid
from contextlib import closing
from random import Random
from threading import Thread

import httpx
import pytest
from drill_audit import Content
from drill_cluster import KIB, SCHEDULER, EmbeddedPatient, injected, kill_hard, runs, small_files
from drill_table import Begin, Drill
from embedded import eventually
from origin import Origin

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

AGENTS = 3


def test_f38_the_scheduler_killed_again_and_again(shared: EmbeddedPatient, origin: Origin, begin: Begin) -> None:
    """SIGKILL at random instants of claiming and dispatching while 500 jobs run: each is done once."""
    drill = begin("F38", "SIGKILL of the scheduler at random instants while 500 jobs run")
    rng = Random(38)
    wanted = shared.submit(origin, small_files("f38", 500, size_bytes=100 * KIB), rate_bytes_per_s=40 * KIB)
    kills = 0
    while shared.books.open_ids() & set(wanted) and kills < 8:
        time.sleep(rng.uniform(0.3, 3.0))
        drill.strike()
        old = shared.kill(SCHEDULER)
        kills += 1
        with shared.http() as http:
            drill.see(_first_refusal(http))

            def answers(http: httpx.Client = http) -> bool:
                return http.get("/readyz").status_code == 200

            eventually(answers, within_s=60, what="ready again")
        drill.recover()
        assert not runs(old)
    shared.books.await_final(wanted, within_s=240)
    shared.await_ready(agents=AGENTS)
    shared.check(drill, wanted)
    requeues = sum(job.requeues for job in shared.books.jobs().values() if job.id in wanted)
    drill.remark(f"killed {kills} times; jobs handed back: {requeues}; recovered: ready again")
    assert kills >= 3


def _first_refusal(http: httpx.Client) -> str:
    """Ask for readiness until it is refused; return how. A restart may be quicker than we look."""
    for _ in range(200):
        answer = http.get("/readyz")
        if answer.status_code != 200:
            return f"readyz {answer.status_code}"
        time.sleep(0.02)
    return "not noticed"


def test_f43_killed_between_commit_and_answer(shared: EmbeddedPatient, origin: Origin, begin: Begin) -> None:
    """The job is on disk, the 201 never leaves: asked again with its Idempotency-Key, it is the same job.

    strace holds back all that the scheduler sends, and the kill falls into that time.
    """
    drill = begin("F43", "SIGKILL of the scheduler between the commit and the 201")
    wanted: dict[str, Content] = {}
    urls = set()
    caught = 0
    for number in range(4):
        shared.await_ready(agents=AGENTS)
        content = Content(430 + number, 30 * KIB)
        url = origin.add(f"f43/{number}.bin", size=content.size_bytes, seed=content.seed)
        urls.add(url)
        key = uuid.uuid4().hex
        # A WAL that begins anew has its head written and synced first: not the commit that is waited for.
        shared.books.await_final(shared.submit(origin, small_files(f"f43/before/{number}", 1)), within_s=30)
        pid = shared.pid_of(SCHEDULER)
        with injected(pid, "sendmsg,sendto:delay_enter=3000000"), shared.http(60) as http:
            drill.strike()
            _ask_and_kill(shared, http, url, key, pid)
            drill.see("no 201")
        answer = _ask_until_201(shared, url, key)
        drill.recover()
        caught += answer.headers.get("idempotent-replayed") == "true"
        wanted[answer.json()["id"]] = content
        assert len(shared.books.jobs().keys() & set(wanted)) == number + 1
    shared.books.await_final(wanted, within_s=120)
    shared.await_ready(agents=AGENTS)
    of_these = [job for job in shared.books.jobs().values() if job.spec.url in urls]
    drill.remark(f"{caught} of 4 kills fell between commit and answer")
    shared.check(drill, wanted)
    assert len(of_these) == len(wanted), "a job was made twice"
    assert caught > 0, "no kill fell into the gap: the drill shows nothing"


def _ask_and_kill(shared: EmbeddedPatient, http: httpx.Client, url: str, key: str, pid: int) -> None:
    """Send the request; when its commit shows in the file, and before it is acknowledged, kill the scheduler."""

    def ask() -> None:
        try:
            answer = http.post("/jobs", json={"url": url}, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            return
        assert answer.status_code != 201, "acknowledged before the kill"

    wal = shared.data_dir / "ledger.db-wal"
    before = wal.stat()
    asking = Thread(target=ask)
    asking.start()
    eventually(
        lambda: (now := wal.stat()).st_size > before.st_size or now.st_mtime_ns > before.st_mtime_ns,
        within_s=40,
        what="the WAL is written",
    )
    time.sleep(0.7)
    kill_hard(pid)
    asking.join()


def _ask_until_201(shared: EmbeddedPatient, url: str, key: str) -> httpx.Response:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        with shared.http() as http:
            answer = http.post("/jobs", json={"url": url}, headers={"Idempotency-Key": key})
        if answer.status_code == 201:
            return answer
        time.sleep(0.1)
    raise AssertionError("no 201 within 60 s")


def test_f44_fsync_fails(shared: EmbeddedPatient, origin: Origin, begin: Begin) -> None:
    """Every fsync of the scheduler fails with EIO for a while: 503, no 201 that is not kept, then all is well."""
    drill = begin("F44", "fsync fails with EIO (strace) for 6 s")
    before = shared.submit(origin, small_files("f44/before", 20))
    shared.books.await_final(before, within_s=60)
    pid = shared.pid_of(SCHEDULER)
    answers: list[int] = []
    wanted = dict(before)
    with shared.http(30) as http:
        drill.strike()
        with injected(pid, "fsync,fdatasync:error=EIO"):
            until_s = time.monotonic() + 6
            number = 0
            while time.monotonic() < until_s:
                content = Content(number, 10 * KIB)
                url = origin.add(f"f44/during/{number}.bin", size=content.size_bytes, seed=content.seed)
                answer = http.post("/jobs", json={"url": url})
                answers.append(answer.status_code)
                if answer.status_code == 201:
                    wanted[answer.json()["id"]] = content
                elif answer.status_code == 503:
                    drill.see("503")
                number += 1
        assert runs(pid), "the scheduler is still there"
        # Who stands in front of us sends requests only once we say that we are ready.
        is_ready_by_itself = _becomes_ready(http)
    wanted |= shared.submit(origin, small_files("f44/after", 20))
    shared.books.await_final(wanted, within_s=120)
    drill.recover()
    shared.await_ready(agents=AGENTS)
    shared.check(drill, wanted)
    drill.remark(f"answers meanwhile: {answers.count(503)} × 503, {answers.count(201)} × 201")
    assert set(answers) <= {201, 503}
    assert answers.count(503) > 0
    if not is_ready_by_itself:
        drill.remark("readyz stayed 503 until the next job was asked for")
    assert is_ready_by_itself


def _becomes_ready(http: httpx.Client, within_s: float = 15) -> bool:
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if http.get("/readyz").status_code == 200:
            return True
        time.sleep(0.2)
    return False


def test_f46_the_ledger_is_locked(shared: EmbeddedPatient, origin: Origin, begin: Begin) -> None:
    """Somebody holds the database's write lock for 10 s: 503 with Retry-After, then 201; running jobs go on."""
    drill = begin("F46", "the ledger's write lock is taken for 10 s (busy timeout 3 s)")
    wanted = shared.submit(origin, small_files("f46", 60, size_bytes=300 * KIB), rate_bytes_per_s=40 * KIB)
    content = Content(46, 10 * KIB)
    url = origin.add("f46/late.bin", size=content.size_bytes, seed=content.seed)
    retry_after: list[str | None] = []
    path = shared.data_dir / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as lock, shared.http(30) as http:
        lock.execute("BEGIN IMMEDIATE")
        drill.strike()
        began_s = time.monotonic()
        released = False
        while True:
            if not released and time.monotonic() - began_s >= 10:
                lock.execute("ROLLBACK")
                released = True
            answer = http.post("/jobs", json={"url": url}, headers={"Idempotency-Key": "f46"})
            if answer.status_code == 201:
                break
            assert answer.status_code == 503, answer.text
            drill.see("503")
            retry_after.append(answer.headers.get("retry-after"))
            assert time.monotonic() - began_s < 60
    wanted[answer.json()["id"]] = content
    assert released, "nobody writes past a lock"
    shared.books.await_final(wanted, within_s=120)
    drill.recover()
    shared.await_ready(agents=AGENTS)
    shared.check(drill, wanted)
    requeues = sum(shared.books.job(job_id).requeues for job_id in wanted)
    drill.remark(f"{len(retry_after)} × 503, Retry-After {retry_after[0]}; running jobs handed back: {requeues}")
    assert all(text is not None for text in retry_after)


def test_f47_an_api_replica_killed_under_a_stream(shared: EmbeddedPatient, origin: Origin, begin: Begin) -> None:
    """SIGKILL of the API replica while a stream is read: resumed by Last-Event-ID without gap or repeat."""
    drill = begin("F47", "SIGKILL of the API replica in the middle of an event stream")
    seq = shared.books.last_seq()
    wanted = shared.submit(origin, small_files("f47", 60, size_bytes=300 * KIB), rate_bytes_per_s=40 * KIB)
    heard: list[int] = []
    kills = 0
    last = seq
    while kills < 3 or shared.books.open_ids() & set(wanted):
        assert len(heard) < 100_000
        broke_at = _listen(shared, last, heard, kill=kills < 3, drill=drill)
        kills += broke_at
        last = heard[-1] if heard else seq
        if not shared.books.open_ids() & set(wanted) and last >= shared.books.last_seq():
            break
    while not heard or heard[-1] < shared.books.last_seq():
        _listen(shared, heard[-1] if heard else seq, heard, kill=False, drill=drill)
    rows = [event.seq for event in shared.books.events(seq)]
    shared.await_ready(agents=AGENTS)
    drill.recover()
    shared.check(drill, wanted)
    gaps, repeats = len(set(rows) - set(heard)), len(heard) - len(set(heard))
    drill.remark(f"killed {kills} times; {len(rows)} events, {gaps} missing, {repeats} repeated")
    assert heard == rows


def _listen(shared: EmbeddedPatient, last: int, heard: list[int], *, kill: bool, drill: Drill) -> bool:
    """Read the stream from `last` on; where `kill`, kill the replica after some events; return whether it was."""
    killed = False
    read = 0
    try:
        with shared.http(5) as http, http.stream("GET", "/events", headers={"Last-Event-ID": str(last)}) as stream:
            if stream.status_code != 200:
                time.sleep(0.2)
                return False
            if kill is False and drill._struck_at_s is not None:
                drill.recover()
            for line in stream.iter_lines():
                if not line.startswith("id: "):
                    continue
                heard.append(int(line.removeprefix("id: ")))
                read += 1
                if kill and not killed and read >= 15:
                    killed = True
                    drill.strike()
                    os.kill(shared.pid_of("ray::ServeReplica"), signal.SIGKILL)
                if not killed and heard[-1] >= shared.books.last_seq() and not shared.books.open_ids():
                    return killed
    except httpx.HTTPError:
        pass
    if killed:
        drill.see("the stream broke")
    return killed
