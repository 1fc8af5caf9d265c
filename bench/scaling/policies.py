"""The policies that are compared: the one Rayhaul has, one that shows what its guards are for, and one by backlog."""

import math
from collections import deque
from typing import Protocol

from bench.scaling.traces import SLOT_BYTES_PER_S
from rayhaul.policy.alert_rules import AlertRule
from rayhaul.policy.scaling import UTILISATION_TARGET_PCT, Situation, beginning, decide, observe, remember
from rayhaul.settings import ScalingSettings


class Policy(Protocol):
    @property
    def name(self) -> str: ...

    def wanted(self, situation: Situation, slots: int, backlog_bytes: int) -> int:
        """Return how many agents there should be; called each tick.

        `slots` is what one agent has, `backlog_bytes` what waits in the queue.
        """
        ...


class ByRule:
    """The policy of rayhaul/policy/scaling.py, exactly as the scheduler calls it."""

    def __init__(self, rule: AlertRule, settings: ScalingSettings, *, name: str = "rule") -> None:
        self.name = name
        self._settings = settings
        self._memory = beginning(rule, settings)

    def wanted(self, situation: Situation, slots: int, backlog_bytes: int) -> int:  # noqa: ARG002 - Policy
        self._memory = observe(self._memory, situation, self._settings)
        decision = decide(self._memory, situation, self._settings)
        self._memory = remember(self._memory, decision)
        return decision.wanted


class Naive:
    """The formula alone: no window, no cooldown, no margin."""

    name = "naive"

    def __init__(self, settings: ScalingSettings) -> None:
        self._settings = settings

    def wanted(self, situation: Situation, slots: int, backlog_bytes: int) -> int:  # noqa: ARG002 - Policy
        if situation.capacity_pct_avg is None:
            return situation.agents_current
        wanted = math.ceil(situation.agents_count * situation.capacity_pct_avg / UTILISATION_TARGET_PCT)
        return min(max(wanted, self._settings.agents_min), self._settings.agents_max)


class ByBacklog:
    """Backlog bytes over measured bytes/s: as many agents as carry the load and empty the queue in GOAL_S.

    It grows at once and shrinks to the most it wanted in the last window, as Kubernetes' autoscaler does. It is better
    off than it would be in truth: every size is known, and the bytes/s of a slot are exact.
    """

    name = "backlog"
    GOAL_S = 120.0

    def __init__(self, settings: ScalingSettings) -> None:
        self._settings = settings
        #: (when, wanted), by time and falling: the maximum of a sliding window is its first.
        self._recent: deque[tuple[float, int]] = deque()

    def wanted(self, situation: Situation, slots: int, backlog_bytes: int) -> int:
        busy = situation.agents_count * (situation.capacity_pct_avg or 0.0) / 100
        emptying = backlog_bytes / (slots * SLOT_BYTES_PER_S * self.GOAL_S)
        wanted = math.ceil((busy + emptying) / (UTILISATION_TARGET_PCT / 100))
        wanted = min(max(wanted, self._settings.agents_min), self._settings.agents_max)
        while self._recent and self._recent[-1][1] <= wanted:
            self._recent.pop()
        self._recent.append((situation.now_s, wanted))
        while self._recent[0][0] < situation.now_s - self._settings.scale_in_window_s:
            self._recent.popleft()
        return self._recent[0][1]
