"""How many connections the cluster may have at one origin host: fewer when it refuses, one more again as it bears them.

Laws of this file:
1. A refusal (429, 503) halves what was given out, once for all that is refused in one burst; the floor is 1.
2. Retry-After holds for the whole host, up to `hosts.pause_s_max`. (RFC 9110 10.2.3.)
3. With neither refusals nor a pause for `hosts.regrow_s`, one connection comes back, up to `hosts.connections_max`; but
   only where all were in use, which shows that the host bears them, or where nothing is asked of the host any more.
4. Pure: times are seconds of one clock, and parameters.

Additive increase, multiplicative decrease: Chiu and Jain, "Analysis of the increase and decrease algorithms for
congestion avoidance", 1989; the burst is TCP's one reduction a round trip (RFC 5681 3.2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, inf
from types import MappingProxyType

from rayhaul.settings import HostsSettings

#: What was on its way when agents heard of a decrease comes back refused within this: a heartbeat to tell the
#: scheduler, one to tell the others, and the host's time to answer.
BURST_S = 3.0


_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left of a host's connections after it has refused some."""

    connections: int
    #: Of the last decrease or increase.
    changed_at_s: float
    decreased_at_s: float = -inf
    pause_until_s: float = -inf

    def is_pausing(self, now_s: float) -> bool:
        return now_s < self.pause_until_s


def whole(settings: HostsSettings, now_s: float) -> Budget:
    """Return the budget of a host of which nothing bad is known."""
    return Budget(settings.connections_max, now_s)


def refused(
    budget: Budget, *, at_s: float, pause_s: float, given_out: int, now_s: float, settings: HostsSettings
) -> Budget:
    """Return the budget after a refusal at `at_s`, while `given_out` connections could be in use.

    Hearing of the same refusal again changes nothing.
    """
    pause_until_s = now_s + min(pause_s, settings.pause_s_max) if pause_s > 0 else -inf
    budget = replace(budget, pause_until_s=max(budget.pause_until_s, pause_until_s))
    if at_s <= budget.decreased_at_s + BURST_S:
        return budget
    used = min(budget.connections, given_out) if given_out > 0 else budget.connections
    return replace(budget, connections=max(1, used // 2), changed_at_s=now_s, decreased_at_s=now_s)


def regrown(budget: Budget, *, given_out: int, used: int, now_s: float, settings: HostsSettings) -> Budget:
    """Return the budget after a look at it, of which agents have `given_out`, and have `used` so much lately.

    One of which nobody has anything gets back all that its time has brought.
    """
    quiet_s = now_s - max(budget.changed_at_s, budget.pause_until_s)
    steps = int(quiet_s // settings.regrow_s)
    if given_out > 0:
        steps = min(steps, 1 if used >= budget.connections else 0)
    if steps <= 0 or budget.connections >= settings.connections_max:
        return budget
    connections = min(settings.connections_max, budget.connections + steps)
    return replace(budget, connections=connections, changed_at_s=now_s)


def is_whole(budget: Budget, now_s: float, settings: HostsSettings) -> bool:
    """Whether nothing is left to remember."""
    is_over = now_s > budget.decreased_at_s + BURST_S and not budget.is_pausing(now_s)
    return is_over and budget.connections >= settings.connections_max


def shifted(budget: Budget, by_s: float) -> Budget:
    """Return the budget on a clock that was set."""
    return Budget(
        budget.connections,
        budget.changed_at_s + by_s,
        budget.decreased_at_s + by_s,
        budget.pause_until_s + by_s,
    )


def shares(connections: int, wants: Mapping[str, int], looks: Mapping[str, int] = _NONE) -> Mapping[str, int]:
    """Divide connections between agents: nobody gets more than it wants, and what one leaves goes to the others.

    Where they are fewer than the agents, those go without that want the most: a look at metadata is over soon. `looks`
    are those among the wants. An agent that has a connection does not lose it for the look that it has it for, too.

    >>> shares(10, {"a": 8, "b": 1, "c": 8})
    {'b': 1, 'a': 5, 'c': 4}
    >>> shares(1, {"a": 9, "b": 8}, looks={"a": 1})
    {'a': 1, 'b': 0}
    """
    left, found = connections, {}
    ranked = sorted(wants, key=lambda agent: (wants[agent] - looks.get(agent, 0), agent))
    for index, agent in enumerate(ranked):
        found[agent] = min(wants[agent], ceil(left / (len(ranked) - index)))
        left -= found[agent]
    return found
