"""The big run: 10,000 jobs through four agents, while an agent is killed every 20 s and the scheduler every 60 s."""

import statistics
import time
from pathlib import Path
from random import Random

import pytest
from drill_audit import Content
from drill_cluster import AGENT, KIB, QUICK, SCALED, SCHEDULER, EmbeddedPatient, kill_hard, patient
from drill_table import Begin
from origin import Origin

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

JOBS = 10_000
AGENTS = 4
UNDER_FIRE_S = 180.0


def test_ten_thousand_jobs_under_fire(tmp_path: Path, origin: Origin, begin: Begin) -> None:
    """All final, all bytes right, all histories consistent: one beginning, one end, epochs that grow."""
    drill = begin("F30+F38", "10,000 jobs, 4 agents: an agent killed every 20 s, the scheduler every 60 s")
    drill.remark(SCALED)
    rng = Random(10_000)
    files = [(f"big/{number}.bin", Content(number, 20 * KIB)) for number in range(JOBS)]
    # A transfer takes two seconds at least: four agents of 24 slots need more than three minutes for all.
    slots = {"RAYHAUL_AGENT__SLOTS": "24"}
    with patient(tmp_path / "data", agents=AGENTS, **QUICK, **slots) as found:
        began_s = time.monotonic()
        wanted = found.submit(origin, files, rate_bytes_per_s=10 * KIB)
        accepted_s = time.monotonic() - began_s
        fire = Fire(found, rng)
        drill.strike()
        found.books.await_final(wanted, within_s=3600, each=fire.step)
        drill.recover()
        took_s = drill.elapsed_s()
        found.await_ready(agents=AGENTS, within_s=120)
        found.await_no_uploads(drill)
        found.check(drill, wanted, completed=False)
        ledger = found.books.jobs()
        jobs = [ledger[job_id] for job_id in wanted]
    requeues = [job.requeues for job in jobs]
    drill.remark(
        f"accepted in {accepted_s:.1f} s; under fire for {took_s:.0f} s; killed: {fire.agents} agents, "
        f"{fire.schedulers} schedulers; jobs handed back: {sum(map(bool, requeues))}, at most {max(requeues)} times; "
        f"attempts, mean: {statistics.mean(job.attempt for job in jobs):.2f}"
    )
    assert took_s >= UNDER_FIRE_S, "not long enough under fire to say anything"
    assert fire.agents >= 8
    assert fire.schedulers >= 3
    assert {str(job.status) for job in jobs} == {"completed"}


class Fire:
    """Kills when it is time to."""

    def __init__(self, found: EmbeddedPatient, rng: Random) -> None:
        self._found = found
        self._rng = rng
        self._agent_at_s = time.monotonic() + 20
        self._scheduler_at_s = time.monotonic() + 60
        self.agents = self.schedulers = 0

    def step(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._agent_at_s:
            self._agent_at_s = now_s + 20
            pids = sorted(self._found.cluster.processes(AGENT))
            if pids:
                kill_hard(self._rng.choice(pids))
                self.agents += 1
        if now_s >= self._scheduler_at_s:
            self._scheduler_at_s = now_s + 60
            for pid in self._found.cluster.processes(SCHEDULER):
                kill_hard(pid)
                self.schedulers += 1
