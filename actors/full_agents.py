"""Agents that had no room of their own for a job: who said so of which job, and for how long others are asked first.

Laws of this file:
1. A hint, in memory alone: an agent that is asked too early says so again, and no job is charged for that.
2. Bounded: what is long over is forgotten, and of very many jobs the first known.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from rayhaul.report import LeaseFailed, Notice, ProbeFailed

#: An agent is passed by for as long as it asked for, or this; each time twice as long, up to the second.
_PASSED_BY_S = 30.0
_PASSED_BY_S_MAX = 120.0
#: So often is looked whether an agent that has room for the job has a slot for it.
_LOOK_S = 5.0
_JOBS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Word:
    """What an agent said last of one job."""

    notice_id: str
    at_s: float
    passed_by_s: float

    def holds(self, now_s: float) -> bool:
        # Of a clock that was set back nothing is left.
        return 0 <= now_s - self.at_s < self.passed_by_s


class FullAgents:
    def __init__(self) -> None:
        #: By job and agent; the job that was heard of first stands first.
        self._words: dict[str, dict[str, _Word]] = {}

    def hear(self, agent: str, notices: Iterable[Notice], now_s: float) -> None:
        """Note for which jobs an agent has no room. Hearing the same notice twice changes nothing."""
        for notice in notices:
            if isinstance(notice, LeaseFailed | ProbeFailed) and notice.failure.of_agent:
                self._note(notice.job_id, agent, notice.notice_id, notice.failure.retry_after_s, now_s)

    def _note(self, job_id: str, agent: str, notice_id: str, asked_s: float | None, now_s: float) -> None:
        words = self._words.pop(job_id, {})
        before = words.get(agent)
        if before is None or before.notice_id != notice_id:
            passed_by_s = (asked_s or _PASSED_BY_S) if before is None else 2 * before.passed_by_s
            words[agent] = _Word(notice_id, now_s, min(_PASSED_BY_S_MAX, passed_by_s))
        self._words[job_id] = words
        # The job at hand stands last, and is not over.
        while len(self._words) > _JOBS_MAX or self._is_long_over(next(iter(self._words)), now_s):
            del self._words[next(iter(self._words))]

    def _is_long_over(self, job_id: str, now_s: float) -> bool:
        return all(abs(now_s - word.at_s) > 2 * _PASSED_BY_S_MAX for word in self._words[job_id].values())

    def of(self, job_id: str, now_s: float) -> Collection[str]:
        """Return the agents that the job does not go to now."""
        return {agent for agent, word in self._words.get(job_id, {}).items() if word.holds(now_s)}

    def again_at_s(self, job_id: str, now_s: float) -> float:
        """Return when to look again for an agent, where none of those with a slot has room for the job."""
        ends = [word.at_s + word.passed_by_s for word in self._words.get(job_id, {}).values() if word.holds(now_s)]
        return min([now_s + _LOOK_S, *ends])
