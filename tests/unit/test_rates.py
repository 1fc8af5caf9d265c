"""Limits of the whole cluster: how they are divided, and that agents never go by more together, whatever gets lost."""

from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.rates import Rates
from rayhaul.job import Job, JobSpec
from rayhaul.policy.rates import Reader, shares
from rayhaul.rates import RateUse
from tasks.pace import Paces


def a_job(job_id: str, url: str = "https://files.example/a.iso", **spec: Any) -> Job:
    return Job(
        id=job_id,
        user_id="ann",
        correlation_id="corr-1234",
        spec=JobSpec(url=url, **spec),
        created_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


READERS = st.dictionaries(
    st.text(min_size=1, max_size=2),
    st.builds(Reader, leases=st.integers(1, 9), granted=st.integers(0, 10**6), used=st.floats(0, 10**6)),
    min_size=1,
)


@given(bytes_per_s=st.integers(100, 10**6), readers=READERS)
def test_all_of_it_is_divided_and_no_more(bytes_per_s: int, readers: dict[str, Reader]) -> None:
    """The sum is the limit, but for rounding; nobody is left with less than a quarter of its equal share."""
    found = shares(bytes_per_s, readers)
    assert bytes_per_s - len(readers) <= sum(found.values()) <= bytes_per_s
    leases_count = sum(reader.leases for reader in readers.values())
    for name, reader in readers.items():
        assert found[name] >= bytes_per_s * reader.leases / leases_count / 4 - 1


def test_what_one_does_not_use_is_for_the_others() -> None:
    """And it has its share back as soon as it uses what it was left."""
    slow = shares(1000, {"a": Reader(1, granted=500, used=100), "b": Reader(1, granted=500, used=500)})
    assert slow == {"a": 200, "b": 800}
    assert shares(1000, {"a": Reader(1, granted=200, used=180), "b": Reader(1, 800, 800)}) == {"a": 500, "b": 500}
    idle = shares(1000, {"a": Reader(1, granted=500, used=10), "b": Reader(1, granted=500, used=20)})
    assert idle == {"a": 500, "b": 500}


# --- with the scheduler's book, over a lossy wire ---

LIMIT = 1000
NAME = "job:job_1"


class Life:
    """Stripes of one job come and go; reports and answers get lost, agents and schedulers are lost."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.job = a_job("job_1", bandwidth_bytes_per_s=LIMIT)
        self.now_s = 0.0
        self.rates = Rates()
        self.agents = {f"agent-{number}": Paces() for number in range(4)}
        #: Lease by agent; one that its agent has not heard of stands in `lost`.
        self.leases: dict[str, str] = {}
        self.lost: set[str] = set()
        self.heard: set[str] = set()

    def step(self) -> None:
        rng = self.rng
        self.now_s += 1
        if rng.random() < 0.03:
            self.change_scheduler()
        agent = rng.choice(sorted(self.agents))
        if agent not in self.leases and agent in self.heard:
            self.begin(agent, lost=rng.random() < 0.1)
        if self.leases and rng.random() < 0.3:
            self.end(rng.choice(sorted(self.leases)))
        for name in self.agents:
            if rng.random() < 0.02:
                self.lose(name)
            self.report(name, lost=rng.random() < 0.2, unanswered=rng.random() < 0.2)
            self.check()
        self.rates.tend(self.now_s, self.agents)

    def begin(self, agent: str, *, lost: bool = False) -> None:
        self.leases[agent] = f"lease-{self.now_s}-{agent}"
        self.rates.add_lease(self.leases[agent], agent, self.job)
        grants = self.rates.grants_of_lease(self.leases[agent], self.now_s)
        if lost:
            self.lost.add(agent)
        else:
            self.agents[agent].of(grants)

    def end(self, agent: str) -> None:
        self.rates.drop_lease(self.leases.pop(agent))
        self.lost.discard(agent)
        self.agents[agent].uses(set(), self.now_s)

    def lose(self, agent: str) -> None:
        if agent in self.leases:
            self.end(agent)
        self.rates.part_with(agent)
        self.agents[agent] = Paces()

    def change_scheduler(self) -> None:
        self.rates = Rates()
        self.heard.clear()
        for agent, lease_id in self.leases.items():
            self.rates.add_lease(lease_id, agent, self.job)
        self.rates.assume()

    def report(self, agent: str, *, lost: bool = False, unanswered: bool = False) -> None:
        needed = {NAME} if agent in self.leases and agent not in self.lost else set()
        uses = [replace(use, bytes_per_s=use.granted) for use in self.agents[agent].uses(needed, self.now_s)]
        if lost:
            return
        self.heard.add(agent)
        self.rates.hear(agent, uses)
        grants = self.rates.grants(agent, self.now_s)
        if not unanswered:
            self.agents[agent].take(grants)

    def granted(self) -> list[int]:
        return [pace.bytes_per_s for paces in self.agents.values() for pace in paces._paces.values()]

    def check(self) -> None:
        assert sum(self.granted()) <= LIMIT


@pytest.mark.parametrize("seed", range(12))
def test_the_limit_holds_under_faults(seed: int) -> None:
    """Agents never go by more than the limit together; with nobody left, nothing is remembered."""
    life = Life(seed)
    for _ in range(300):
        life.step()
    for agent in list(life.leases):
        life.end(agent)
    for agent in life.agents:
        life.report(agent)
    life.rates.tend(life.now_s + 10, life.agents)
    assert (life.rates._limits, life.rates._lease, dict(life.rates._limits_of_agent)) == ({}, {}, {})


def test_all_of_it_is_given_out() -> None:
    """A stripe that joins has its share after each has reported once; what a lost one had goes to the others."""
    life = Life(1)
    for agent in life.agents:
        life.report(agent)
        life.begin(agent)
    assert life.granted() == [LIMIT, 0, 0, 0]
    for _ in range(2):
        for agent in life.agents:
            life.report(agent)
            life.check()
    assert life.granted() == [250, 250, 250, 250]
    life.lose("agent-2")
    for _ in range(2):
        for agent in life.agents:
            life.report(agent)
    assert sorted(life.granted()) == [333, 333, 333]


def test_the_share_of_an_agent_that_is_gone() -> None:
    """It is kept while the agent may still go by it, and goes to the others once it counts as lost."""
    rates, job = Rates(cluster_bytes_per_s=900), a_job("job_1")
    rates.add_lease("one", "a", job)
    rates.grants_of_lease("one", 0.0)
    rates.add_lease("two", "b", job)
    assert [grant.bytes_per_s for grant in rates.grants_of_lease("two", 0.0)] == [0]
    rates.drop_lease("one")
    assert [grant.bytes_per_s for grant in rates.grants("b", 1.0)] == [0]
    rates.tend(1.0, ["b"])
    assert [(grant.limit, grant.bytes_per_s) for grant in rates.grants("b", 1.0)] == [("cluster", 900)]


def test_each_host_has_a_limit_of_its_own() -> None:
    rates = Rates(host_bytes_per_s=100, cluster_bytes_per_s=150)
    for number, host in enumerate(("a.example", "b.example")):
        job = a_job(f"job_{number}", url=f"https://{host}/file", bandwidth_bytes_per_s=80)
        rates.add_lease(f"lease_{number}", "agent", job)
    found = {grant.limit: grant.bytes_per_s for grant in rates.grants("agent", 0.0)}
    assert found == {
        "cluster": 150,
        "host:a.example:443": 100,
        "host:b.example:443": 100,
        "job:job_0": 80,
        "job:job_1": 80,
    }
    rates.hear("agent", [RateUse(limit="gone", bytes_per_s=1, granted=1, version=1)])
    assert len(rates.grants("agent", 1.0)) == 5
