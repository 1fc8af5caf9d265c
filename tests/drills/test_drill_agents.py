"""Drills on agents: killed, stopped, out of memory, and killed by what they carry."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from drill_alerts import AlertWatch
from drill_audit import Content
from drill_cluster import KIB, MIB, SCALED, Patient, kill_hard, runs
from drill_table import Begin
from embedded import eventually
from origin import Origin

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

AGENTS = 3
#: Slow enough that there is a middle to strike in.
RATE_BYTES_PER_S = 2 * MIB


def files(prefix: str, count: int, size_bytes: int) -> list[tuple[str, Content]]:
    return [(f"{prefix}/{number}.bin", Content(number, size_bytes)) for number in range(count)]


def test_f30_an_agent_killed_in_the_middle_of_a_part(shared: Patient, origin: Origin, begin: Begin) -> None:
    """SIGKILL of the agent that carries a job: handed back at once, gone on with from the parts that are stored."""
    drill = begin("F30", "SIGKILL of an agent in the middle of a part")
    wanted = shared.submit(origin, files("f30", 6, 48 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S)
    first = next(iter(wanted))
    agent = shared.holder_of(first, bytes_min=20 * MIB)
    seq = shared.books.last_seq()
    pid = shared.agent_pid(agent)
    drill.strike()
    os.kill(pid, signal.SIGKILL)
    shared.books.await_event("requeued", after=seq, within_s=30, of=wanted)
    drill.see("requeued")
    shared.books.await_final(wanted, within_s=120)
    shared.await_ready(agents=AGENTS)
    drill.recover()
    shared.check(drill, wanted)
    read = sum((seen.range[1] or 0) - seen.range[0] for seen in origin.requests if seen.range)
    drill.remark(f"bytes read / bytes of the files: {read / (6 * 48 * MIB):.2f}")
    shared.await_no_uploads()


@contextmanager
def confined(pid: int, *, headroom_bytes: int) -> Iterator[Path]:
    """Put a process into a memory cgroup (v1) whose limit is a little above what it uses now."""
    group = Path("/sys/fs/cgroup/memory") / f"rayhaul-drill-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        pytest.skip(f"no memory cgroup to be had: {error}")
    try:
        # What it had before stays charged to the old group: the limit is for what it takes from now on.
        (group / "memory.limit_in_bytes").write_text(str(headroom_bytes))
        yield group
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text().split(), within_s=60, what="the cgroup is empty")
        group.rmdir()


def test_f34_an_agent_out_of_memory(shared: Patient, origin: Origin, begin: Begin) -> None:
    """The kernel's OOM killer takes an agent (memory cgroup): its jobs go on elsewhere, the others are unharmed."""
    drill = begin("F34", "an agent killed by the kernel for its memory (memory cgroup)")
    wanted = shared.submit(origin, files("f34", 6, 64 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S // 4)
    first = next(iter(wanted))
    agent = shared.holder_of(first, bytes_min=MIB)
    seq = shared.books.last_seq()
    pid = shared.agent_pid(agent)
    drill.strike()
    # What it has is enough for what it does: more jobs need more.
    with confined(pid, headroom_bytes=64 * KIB) as group:
        wanted |= shared.submit(origin, files("f34/more", 12, 32 * MIB))
        eventually(lambda: not runs(pid), within_s=60, what="the kernel kills the agent")
        killed = (group / "memory.oom_control").read_text()
        lost = shared.books.await_event("requeued", after=seq, within_s=30, of=wanted)
        drill.see("requeued")
    assert "oom_kill" in killed
    # Of a probe that was lost with it, no agent is told.
    assert lost.payload.get("agent", agent) == agent
    shared.books.await_final(wanted, within_s=180)
    shared.await_ready(agents=AGENTS)
    drill.recover()
    shared.check(drill, wanted)
    others = [event for event in shared.books.events(seq) if event.event == "requeued"]
    codes = Counter(str(event.payload["code"]) for event in others)
    drill.remark(f"jobs handed back or tried again: {dict(codes)}")
    lost_agents = {event.payload.get("agent") for event in others if event.payload["code"] == "agent_lost"}
    # Where others have parts of its jobs, these go on, and no event tells of it.
    assert lost_agents <= {agent, None}


def test_f31_an_agent_stopped_and_woken(shared: Patient, origin: Origin, begin: Begin) -> None:
    """SIGSTOP beyond the offline limit, then SIGCONT: what the sleeper still wants to write is refused."""
    drill = begin("F31", "SIGSTOP of an agent for 25 s, then SIGCONT")
    drill.remark(SCALED)
    wanted = shared.submit(origin, files("f31", 6, 48 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S)
    first = next(iter(wanted))
    agent = shared.holder_of(first, bytes_min=10 * MIB)
    fenced_before = shared.metric("rayhaul_fenced_writes_total")
    seq = shared.books.last_seq()
    pid = shared.agent_pid(agent)
    alert = begin("F57", "WorkerOffline while an agent is stopped")
    alert.remark("window scaled down from 1 min to 2 s")
    with AlertWatch(shared, "WorkerOffline") as watch:
        drill.strike()
        alert.strike()
        os.kill(pid, signal.SIGSTOP)
        try:
            shared.books.await_event("requeued", after=seq, within_s=60, of=wanted)
            drill.see("requeued")
            shared.await_offline(agent, within_s=10)
            watch.await_firing(within_s=30)
            alert.see("fires")
            time.sleep(max(0.0, 25 - drill.elapsed_s()))
        finally:
            os.kill(pid, signal.SIGCONT)
        watch.await_resolved(within_s=60)
        alert.recover()
    shared.books.await_final(wanted, within_s=120)
    shared.await_ready(agents=AGENTS)
    drill.recover()
    shared.check(drill, wanted)
    fenced = shared.metric("rayhaul_fenced_writes_total") - fenced_before
    drill.remark(f"writes refused after it woke: {fenced:.0f}")
    assert runs(pid), "the sleeper was fenced, not killed"
    shared.await_no_uploads()


def test_f37_a_job_that_kills_its_agent(shared: Patient, origin: Origin, begin: Begin) -> None:
    """Whoever fetches the file is killed: four runs, then dead-lettered; all other jobs complete."""
    drill = begin("F37", "a job that kills its agent each time")
    # Of one part: no other agent helps with it, and whoever has it is killed.
    poison = shared.submit(origin, [("f37/poison.bin", Content(0, 8 * MIB))], rate_bytes_per_s=MIB // 16)
    others = shared.submit(origin, files("f37", 20, 12 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S)
    (job_id,) = poison
    deaths = 0
    deadline_s = time.monotonic() + 240
    while not shared.books.job(job_id).is_final and time.monotonic() < deadline_s:
        job = shared.books.job(job_id)
        if job.status == "downloading" and len(origin.seen("f37/poison.bin")) > 0:
            pid = shared.agent_pid(job.agents[0])
            drill.strike()
            kill_hard(pid)
            deaths += 1
            seen = job.version
            eventually(
                lambda seen=seen: shared.books.job(job_id).version > seen,  # type: ignore[misc]
                within_s=60,
                what="the loss is seen",
            )
            drill.see("requeued")
        time.sleep(0.2)
    shared.books.await_final([*poison, *others], within_s=240)
    shared.await_ready(agents=AGENTS)
    drill.recover()
    shared.check(drill, poison | others, completed=False)
    job = shared.books.job(job_id)
    runs_count = sum(event.event == "started" for event in shared.books.events() if event.job_id == job_id)
    drill.remark(f"runs of the poison: {runs_count}; agents killed: {deaths}")
    assert (job.status, job.dead_lettered_at is not None, runs_count) == ("failed", True, 4)
    completed = [other for other in others if shared.books.job(other).status == "completed"]
    assert len(completed) == len(others), "the other jobs must not go down with it"
