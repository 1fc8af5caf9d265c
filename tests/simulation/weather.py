"""What may go wrong, and how often: each seed has a weather of its own.

A seed takes about half of all faults, each at a strength of its own. Histories in which everything goes wrong a little
look all alike; those in which a few things go wrong often get into corners (Groce et al., "Swarm testing", ISSTA 2012).
"""

from dataclasses import dataclass, fields
from random import Random

_STRENGTHS = (0.3, 1.0, 3.0)
#: Whether a seed has a fault at all.
_KEPT = 0.5


@dataclass(slots=True)
class Odds:
    """Probabilities of faults, per chance; all 0 when the weather clears."""

    # Between scheduler and agents.
    order_lost: float = 0.05
    order_late: float = 0.05
    report_lost: float = 0.05
    report_late: float = 0.04
    report_twice: float = 0.04
    answer_lost: float = 0.05
    # Agents, per step.
    agent_dies: float = 0.01
    #: The old process of an agent that counts as dead lives on and reports.
    agent_haunts: float = 0.004
    #: Cut off: works on, hears nothing and is not heard.
    agent_cut_off: float = 0.004
    #: Stopped (SIGSTOP): does nothing, and then goes on where it was.
    agent_frozen: float = 0.004
    #: Its deadline of its own does not work: it never stops by itself.
    agent_fenceless: float = 0.01
    #: Tells nonsense about its capacity.
    agent_lies: float = 0.01
    agent_unfit: float = 0.004
    #: One of its transfers stands still for good.
    transfer_stalls: float = 0.01
    # The ledger, per commit.
    commit_fails: float = 0.02
    commit_stands_but_fails: float = 0.02
    commit_slow: float = 0.1
    #: A notice or a submission says what no column can hold.
    poisoned: float = 0.004
    # The scheduler, per step.
    scheduler_dies: float = 0.01
    #: A second one is started while the first goes on.
    scheduler_rivalled: float = 0.01
    clock_jumps: float = 0.005
    # Sources and bucket.
    source_busy: float = 0.05
    source_changes: float = 0.02
    source_gone: float = 0.01
    #: Per step: the bucket begins to refuse us for a while.
    sink_refuses: float = 0.004
    upload_expires: float = 0.005
    # People, per step.
    command: float = 0.15
    priority_paused: float = 0.02
    job_stopped: float = 0.02
    dead_visited: float = 0.02
    looked_at: float = 0.1
    agent_drained: float = 0.005

    @classmethod
    def drawn(cls, rng: Random) -> "Odds":
        """Return the weather of a seed."""
        odds = cls()
        for name in _NAMES:
            kept = rng.random() < _KEPT
            strength = rng.choice(_STRENGTHS)
            setattr(odds, name, getattr(odds, name) * strength if kept else 0.0)
        return odds

    @classmethod
    def only(cls, **strong: float) -> "Odds":
        """Return a weather with these faults and no others."""
        odds = cls()
        odds.clear()
        for name, probability in strong.items():
            assert name in _NAMES, name
            setattr(odds, name, probability)
        return odds

    def clear(self) -> None:
        for name in _NAMES:
            setattr(self, name, 0.0)

    def __str__(self) -> str:
        return " ".join(f"{name}={getattr(self, name):.3g}" for name in _NAMES if getattr(self, name))


_NAMES = tuple(found.name for found in fields(Odds))
