"""What a history is made of: drawn from its seed, or put together by a test."""

from dataclasses import dataclass
from random import Random
from typing import Any

from reference import ReferenceLedger
from surroundings import PROBE_SLOTS, SLOTS
from weather import Odds

from actors.scheduler import Scheduler
from rayhaul.settings import (
    AgentSettings,
    LivenessSettings,
    QueueSettings,
    ScalingSettings,
    Settings,
    SweepSettings,
    TransferSettings,
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What a history is made of."""

    seed: int
    odds: Odds
    agents: int = 3
    #: Agents that scaling may add to these.
    agents_more: int = 2
    running_per_user_max: int | None = None
    attempts_max: int = 50
    requeues_max: int = 50
    scheduler: type[Scheduler] = Scheduler
    reference: type[ReferenceLedger] = ReferenceLedger
    #: Probability that a commit says it stands and does not.
    ledger_lies: float = 0.0
    stalled_s: float = 25.0
    #: More than a file has: each job stays on one agent.
    stripe_parts_min: int = 1

    @classmethod
    def drawn(cls, seed: int, **changes: Any) -> "Setup":
        rng = Random(seed)
        drawn: dict[str, Any] = {
            "odds": Odds.drawn(rng),
            "agents": rng.randint(1, 4),
            "running_per_user_max": rng.choice([None, None, 2, 4]),
            "attempts_max": rng.choice([2, 5, 50]),
            "requeues_max": rng.choice([3, 50]),
        }
        return cls(seed=seed, **drawn | changes)

    def settings(self) -> Settings:
        """Return settings whose times fit into a history."""
        return Settings(_env_file=None).model_copy(
            update={
                "scaling": ScalingSettings(
                    agents_min=self.agents,
                    agents_max=max(1, self.agents + self.agents_more),
                    cooldown_s=10,
                    scale_in_window_s=20,
                    smoothing_s=3,
                    drain_s=15,
                ),
                "agent": AgentSettings(slots=SLOTS, probe_slots=PROBE_SLOTS),
                "queue": QueueSettings(running_per_user_max=self.running_per_user_max),
                "liveness": LivenessSettings(
                    offline_s=20,
                    self_fence_s=15,
                    stalled_s=self.stalled_s,
                    overdue_floor_s=self.stalled_s,
                    commit_stalled_s=self.stalled_s,
                    park_s=5,
                    park_s_max=30,
                    requeues_max=self.requeues_max,
                ),
                "sweep": SweepSettings(interval_s=25, age_s_min=20),
                "transfer": TransferSettings(
                    attempts_max=self.attempts_max, retry_cap_s=5, stripe_parts_min=self.stripe_parts_min
                ),
            }
        )
