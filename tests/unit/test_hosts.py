"""The budget of one origin host: how it shrinks, grows, and is divided."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.hosts import Hosts
from rayhaul.origins import HostUse, host_of
from rayhaul.policy import hosts
from rayhaul.policy.hosts import BURST_S, Budget
from rayhaul.settings import HostsSettings

SETTINGS = HostsSettings(connections_max=32, pause_s_max=300, regrow_s=10)


def refuse(budget: Budget, at_s: float, *, pause_s: float = 0, given_out: int = 32) -> Budget:
    return hosts.refused(budget, at_s=at_s, pause_s=pause_s, given_out=given_out, now_s=at_s, settings=SETTINGS)


def test_one_burst_counts_once() -> None:
    """Sixteen refusals of one moment halve once; the next ones, after what was on its way is over, halve again."""
    budget = hosts.whole(SETTINGS, 100.0)
    for number in range(16):
        budget = refuse(budget, 100.0 + number / 10)
    assert budget.connections == 16
    assert refuse(budget, 100.0 + BURST_S + 0.1).connections == 8


def test_what_was_in_use_is_halved() -> None:
    """A host that refused us at six connections is not asked for sixteen; and one is always left."""
    budget = hosts.whole(SETTINGS, 0.0)
    assert refuse(budget, 0.0, given_out=6).connections == 3
    assert refuse(budget, 0.0, given_out=1).connections == 1
    assert refuse(budget, 0.0, given_out=0).connections == 16


def test_retry_after_is_capped() -> None:
    """It is heeded up to the limit, the longest counts, and it is heeded also where the refusal itself does not."""
    budget = refuse(hosts.whole(SETTINGS, 0.0), 0.0, pause_s=20)
    assert (budget.is_pausing(19.9), budget.is_pausing(20.1)) == (True, False)
    budget = refuse(budget, 1.0, pause_s=5)
    assert budget.pause_until_s == 20
    budget = refuse(budget, 2.0, pause_s=86_400)
    assert (budget.connections, budget.pause_until_s) == (16, 302)


def test_one_comes_back_at_a_time() -> None:
    """After a quiet time one more; nothing during a pause, and nothing where not all were in use."""
    budget = Budget(4, changed_at_s=0.0, decreased_at_s=0.0, pause_until_s=50.0)

    def look(now_s: float, given_out: int, used: int) -> int:
        return hosts.regrown(budget, given_out=given_out, used=used, now_s=now_s, settings=SETTINGS).connections

    assert [look(now_s, 4, 4) for now_s in (9, 49, 59, 60, 1000)] == [4, 4, 4, 5, 5]
    assert [look(1000, given_out, 3) for given_out in (3, 4, 5)] == [4, 4, 4], "what is not used shows nothing"
    assert [look(now_s, 0, 0) for now_s in (59, 60, 80, 1000)] == [4, 5, 7, 32]


def test_a_lease_that_leaves_room_grows_nothing() -> None:
    """An agent may have four and uses three: no fifth. Once it has used four at once, between two reports: one more."""
    known = Hosts(SETTINGS)
    known.add_lease("lease-1", "a", "files.example", 8)
    grant = known.grant("a", "files.example", 0.0)

    def tell(now_s: float, connections: int, peak: int, **refused: float) -> int:
        use = HostUse(
            host="files.example",
            connections=connections,
            granted=grant.connections,
            version=grant.version,
            peak=peak,
            **refused,
        )
        known.hear("a", [use], now_s)
        known.tend(now_s, ["a"])
        return known.grant("a", "files.example", now_s).connections

    assert tell(0.0, 8, 8, refused_ago_s=0.0) == 4
    grant = known.grant("a", "files.example", 0.0)
    assert [tell(now_s, 3, 3) for now_s in (15.0, 30.0)] == [4, 4]
    assert tell(31.0, 1, 4) == 5


@given(st.lists(st.tuples(st.floats(0, 60), st.booleans(), st.floats(0, 1000), st.integers(0, 64), st.floats(0, 30))))
def test_always_in_bounds(steps: list[tuple[float, bool, float, int, float]]) -> None:
    """Whatever happens: 1 <= connections <= the most; a refusal never adds any, a quiet time never takes any away."""
    budget, now_s = hosts.whole(SETTINGS, 0.0), 0.0
    for passed_s, is_refused, pause_s, given_out, ago_s in steps:
        now_s += passed_s
        before = budget
        if is_refused:
            budget = hosts.refused(
                budget, at_s=now_s - ago_s, pause_s=pause_s, given_out=given_out, now_s=now_s, settings=SETTINGS
            )
            assert budget.connections <= before.connections
            assert budget == hosts.refused(
                budget, at_s=now_s - ago_s, pause_s=pause_s, given_out=given_out, now_s=now_s, settings=SETTINGS
            ), "heard twice"
        else:
            budget = hosts.regrown(budget, given_out=given_out, used=given_out, now_s=now_s, settings=SETTINGS)
            assert budget.connections >= before.connections
        assert 1 <= budget.connections <= SETTINGS.connections_max
        assert budget.pause_until_s <= now_s + SETTINGS.pause_s_max
    end_s = now_s + SETTINGS.pause_s_max + SETTINGS.regrow_s * SETTINGS.connections_max + BURST_S + 1
    idle = hosts.regrown(budget, given_out=0, used=0, now_s=end_s, settings=SETTINGS)
    assert hosts.is_whole(idle, end_s, SETTINGS), "a host that nobody uses is forgotten in the end"


@given(st.integers(0, 64), st.dictionaries(st.text("abcdef", min_size=1), st.integers(1, 20)))
def test_shares(connections: int, wants: dict[str, int]) -> None:
    """All is given out that somebody wants, nobody gets more than it wants, and nobody could get more but from less."""
    found = hosts.shares(connections, wants)
    assert found.keys() == wants.keys()
    assert sum(found.values()) == min(connections, sum(wants.values()))
    assert all(0 <= found[agent] <= wants[agent] for agent in wants)
    short = [found[agent] for agent in wants if found[agent] < wants[agent]]
    if short:
        assert max(found.values()) <= min(short) + 1


def test_who_goes_without() -> None:
    """More agents than connections: a look at metadata has one, and is soon over."""
    assert hosts.shares(2, {"a": 8, "look": 1, "z": 8}) == {"a": 1, "look": 1, "z": 0}


def test_whose_look_would_only_wait() -> None:
    """An agent's that would have no share: all connections are shared by others, or will be once their looks begin."""
    all_hosts = Hosts(HostsSettings(connections_max=2))

    def fit(*others: str) -> list[str]:
        return [agent for agent in ("a", "b", "c") if all_hosts.may_look_from("files.example", agent, others)]

    assert fit() == ["a", "b", "c"]
    assert fit("a", "b") == ["a", "b"]
    all_hosts.add_lease("lease-1", "a", "files.example", 8)
    assert fit() == ["a", "b", "c"]
    assert fit("b") == ["a", "b"]
    all_hosts.add_lease("lease-2", "b", "files.example", 8)
    assert fit() == ["a", "b"]
    # A third one, to which it is a mirror: who of them has none does not look.
    all_hosts.add_lease("lease-3", "c", "other.example", 9, mirrors=["files.example"])
    assert fit() == ["a", "b"]
    all_hosts.drop_lease("lease-1")
    assert fit() == ["b", "c"]


def test_a_set_clock() -> None:
    """All times move with the clock."""
    budget = Budget(4, changed_at_s=10.0, decreased_at_s=10.0, pause_until_s=50.0)
    assert hosts.shifted(budget, 5.0) == Budget(4, changed_at_s=15.0, decreased_at_s=15.0, pause_until_s=55.0)
    assert hosts.shifted(replace(budget, pause_until_s=float("-inf")), 5.0).pause_until_s == float("-inf")


@pytest.mark.parametrize(("before", "now"), [("agent-1", "agent-2"), ("agent-2", "agent-1")])
def test_a_look_that_is_ordered_twice_counts_once(before: str, now: str) -> None:
    """An order whose sending failed is sent again; when it is answered, its connection is another agent's to have."""
    all_hosts = Hosts(HostsSettings(connections_max=1))
    for _ in range(2):
        all_hosts.add_look("order-1", before, ["files.example"])
    assert all_hosts.room_to_look("files.example", 0.0) == 0
    all_hosts.drop_look("order-1")
    all_hosts.add_look("order-2", now, ["files.example"])
    assert all_hosts.grant(now, "files.example", 0.0).connections == 1


def test_the_host_of_a_url() -> None:
    """Two ports are two hosts; case, user and path are none of it."""
    assert host_of("http://user:p@EXAMPLE.org/x?y#z") == host_of("http://example.org:80") == "example.org:80"
    assert host_of("https://example.org/") != host_of("http://example.org/")
