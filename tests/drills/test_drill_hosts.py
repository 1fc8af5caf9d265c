"""Drills on a cluster of three machines: a raylet dies, a machine is cut off, the head is lost and comes back."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drill_audit import Content
from drill_cluster import AGENT, MIB, QUICK, injected, kill_hard, runs
from drill_hosts import RAYLET, Machines, bring_up, machines
from drill_table import Begin
from embedded import eventually
from hosts import Host, why_not

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

RATE_BYTES_PER_S = 2 * MIB


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    """Three machines with Rayhaul, GCS fault tolerance on, and liveness as delivered."""
    yield from _three()


def _three(**settings: str) -> Iterator[Machines]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    if subprocess.run(
        ["nft", "--version"], capture_output=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    ).returncode:
        pytest.skip("nft is not installed")
    parts = {name: value for name, value in QUICK.items() if "TRANSFER" in name}
    with machines(**parts, **settings) as found:
        # It must outlive the processes, not the power: memory is enough, and spares this machine's one disk.
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="rayhaul-gcs-") as storage:
            found.gcs_storage = storage
            bring_up(found, RAY_gcs_storage="rocksdb", RAY_gcs_storage_path=storage)
            yield found


def files(prefix: str, count: int, size_bytes: int) -> list[tuple[str, Content]]:
    return [(f"{prefix}/{number}.bin", Content(number, size_bytes)) for number in range(count)]


def host_of(found: Machines, agent: str) -> Host:
    """Return the machine on which an agent runs."""
    pid = found.agent_pid(agent)
    return next(host for host in found.hosts.hosts if pid in found.processes(AGENT, host))


def test_log_lines_come_from_all_machines(three: Machines) -> None:
    """`rayhaul logs` has the lines of agents on two machines and of the scheduler on a third, or those of one job."""
    wanted = three.submit(three.origin, files("logs", 8, 8 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S)
    three.books.await_final(wanted, within_s=180)
    with three.client() as client:
        found = client.logs(limit=10_000)
        (job_id, *_) = wanted
        of_job = client.logs(job_id=job_id).lines
    assert (found.nodes_count, found.nodes_silent) == (3, 0)
    assert {line["service"] for line in found.lines} >= {"agent", "scheduler", "api"}
    agents = {line["agentId"] for line in found.lines if line["service"] == "agent" and "agentId" in line}
    assert len({host_of(three, agent).address for agent in agents}) == 2, agents
    assert {line["jobId"] for line in of_job if "jobId" in line} == {job_id}


def test_f33_a_partition_of_five_seconds(three: Machines, begin: Begin) -> None:
    """All packets between an agent's machine and the rest are dropped for 5 s: nothing is taken away from it."""
    drill = begin("F33", "an agent's machine is cut off for 5 s (nft drop)")
    wanted = three.submit(three.origin, files("f33a", 4, 32 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S // 2)
    agent = three.holder_of(next(iter(wanted)), bytes_min=2 * MIB)
    host = host_of(three, agent)
    seq = three.books.last_seq()
    drill.strike()
    with three.cut_off(host):
        time.sleep(5)
    three.books.await_final(wanted, within_s=180)
    drill.recover()
    three.check(drill, wanted)
    requeued = [event for event in three.books.events(seq) if event.event == "requeued"]
    drill.remark(f"false requeues: {len(requeued)}; offline after 60 s, as delivered")
    assert requeued == []


def test_f33_a_partition_of_two_minutes(three: Machines, begin: Begin) -> None:
    """Cut off for 120 s: its jobs go on elsewhere, it stops by itself, and nothing it does counts any more."""
    drill = begin("F33", "an agent's machine is cut off for 120 s (nft drop)")
    three.make_whole()
    wanted = three.submit(three.origin, files("f33b", 4, 192 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S // 8)
    agent = three.holder_of(next(iter(wanted)), bytes_min=2 * MIB)
    host = host_of(three, agent)
    pid = three.agent_pid(agent)
    drill.strike()
    with three.cut_off(host):
        three.books.await_handed_back(agent, within_s=110)
        drill.see("handed back")
        cut_s = 0.0
        while drill.elapsed_s() < 120:
            cut_s = drill.elapsed_s()
            time.sleep(0.5)
        stopped = (
            "stopped by itself" in "".join(path.read_text() for path in three.log_paths(pid)) if runs(pid) else "gone"
        )
    assert cut_s > 100
    three.books.await_final(wanted, within_s=600)
    has_left = three.bring_back(host)
    three.await_ready(agents=2, within_s=240)
    drill.recover()
    three.check(drill, wanted)
    drill.remark(
        f"offline after 60 s, self-fencing after 45 s, as delivered; the agent behind the cut stopped: {stopped}"
    )
    if has_left:
        drill.remark("Ray gave the machine up and its raylet left; it was started again, as an autoscaler would")


def test_f42_blackouts(three: Machines, begin: Begin) -> None:
    """Cut off for 2 s in every 20 s, three times, while jobs run: all complete, nothing is taken away."""
    drill = begin("F42", "an agent's machine is cut off for 2 s every 20 s, three times")
    drill.remark("scaled down from 5 s every 60 s for 10 min")
    three.make_whole()
    wanted = three.submit(three.origin, files("f42", 6, 64 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S // 4)
    agent = three.holder_of(next(iter(wanted)), bytes_min=MIB)
    host = host_of(three, agent)
    seq = three.books.last_seq()
    for _ in range(3):
        drill.strike()
        with three.cut_off(host):
            time.sleep(2)
        time.sleep(18)
    three.books.await_final(wanted, within_s=240)
    drill.recover()
    three.check(drill, wanted)
    requeued = [event for event in three.books.events(seq) if event.event == "requeued"]
    drill.remark(f"requeues: {len(requeued)}")


def test_f40_the_head_is_lost_and_comes_back(three: Machines, begin: Begin) -> None:
    """SIGKILL of all that runs on the head's machine, GCS and scheduler included: started again, nothing is lost."""
    drill = begin("F40", "the head's machine loses everything (SIGKILL), and is started again; GCS storage on RocksDB")
    three.make_whole()
    wanted = three.submit(three.origin, files("f40", 6, 48 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S // 4)
    three.holder_of(next(iter(wanted)), bytes_min=2 * MIB)
    agents = set(three.processes(AGENT))
    drill.strike()
    three.kill_everything_on(three.head)
    drill.see("connection refused")
    subprocess.run(["rm", "-f", str(three.head.tmp / "ray" / "ray_current_cluster")], check=True)
    three.start_head(RAY_gcs_storage="rocksdb", RAY_gcs_storage_path=three.gcs_storage)
    three.await_ready(agents=2, within_s=240)
    ready_s = drill.elapsed_s()
    three.books.await_final(wanted, within_s=300)
    drill.recover()
    three.check(drill, wanted)
    kept = len(agents & set(three.processes(AGENT)))
    requeues = sum(three.books.job(job_id).requeues for job_id in wanted)
    drill.remark(
        f"ready again after {ready_s:.1f} s; agents' processes that lived through it: {kept} of 2; requeues: {requeues}"
    )


def test_f32_a_raylet_is_killed(three: Machines, begin: Begin) -> None:
    """SIGKILL of the raylet under an agent: the agent dies with it, its jobs go on elsewhere."""
    drill = begin("F32", "SIGKILL of the raylet of an agent's machine")
    three.make_whole()
    wanted = three.submit(three.origin, files("f32", 4, 48 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S // 4)
    agent = three.holder_of(next(iter(wanted)), bytes_min=2 * MIB)
    host, pid = host_of(three, agent), three.agent_pid(agent)
    said = three.core_log_paths(pid)
    drill.strike()
    three.kill_raylet(host)
    eventually(lambda: not runs(pid), within_s=5, what="the agent dies with its raylet")
    died_s = drill.elapsed_s()
    assert said
    assert not has_noticed(said), "Ray has ended it, not the kernel"
    three.books.await_handed_back(agent, within_s=120)
    drill.see("handed back")
    assert three.bring_back(host)
    three.books.await_final(wanted, within_s=300)
    three.await_ready(agents=2, within_s=240)
    drill.recover()
    three.check(drill, wanted)
    drill.remark(
        f"the agent was gone {died_s:.1f} s after its raylet (PR_SET_PDEATHSIG); offline after 60 s, as delivered"
    )


def test_f32_without_the_parent_death_signal(three: Machines, begin: Begin) -> None:
    """The same with PR_SET_PDEATHSIG off (strace answers prctl): the agent runs on for a while; the ledger holds."""
    drill = begin("F32", "SIGKILL of the raylet of an agent's machine, PR_SET_PDEATHSIG off", null=True)
    three.make_whole()
    host = three.hosts.hosts[1]
    (raylet,) = three.processes(RAYLET, host)
    # Ray keeps processes ready that it has not given anything to do yet: the agent may begin in one of them.
    with injected(raylet, "prctl:retval=0", *three.processes("ray::IDLE", host)):
        (old,) = three.processes(AGENT, host)
        kill_hard(old)
        eventually(lambda: bool(three.processes(AGENT, host)), within_s=120, what="the agent is started again")
        three.await_ready(agents=2, within_s=120)
    wanted = three.submit(three.origin, files("f32null", 4, 48 * MIB), rate_bytes_per_s=RATE_BYTES_PER_S // 4)
    three.holder_of(next(iter(wanted)), bytes_min=2 * MIB)
    (pid,) = three.processes(AGENT, host)
    said = three.core_log_paths(pid)
    drill.strike()
    three.kill_raylet(host)
    while runs(pid) and drill.elapsed_s() < 60:
        time.sleep(0.02)
    outlived_s = drill.elapsed_s()
    noticed = has_noticed(said)
    assert three.bring_back(host)
    three.books.await_final(wanted, within_s=300)
    three.await_ready(agents=2, within_s=240)
    drill.recover()
    three.check(drill, wanted)
    drill.remark(f"the agent ran on for {outlived_s:.1f} s, until Ray itself saw that the raylet was gone: {noticed}")
    assert noticed, "the kernel ended it all the same: PR_SET_PDEATHSIG is not off"


def has_noticed(said: list[Path]) -> bool:
    """Whether Ray's part of a process has seen that its raylet was gone: whom the kernel kills sees nothing."""
    return any("because the local raylet failed" in path.read_text() for path in said)
