"""Whether a lease still moves: the symptoms of the stalled-job runbook, and how long each is borne.

Laws of this file:
1. A lease whose bytes move is never stopped, however slow it is: being overdue only makes us less patient with silence.
2. How long nothing moved is measured by the agent, on its monotonic clock; here are differences of one clock only.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from rayhaul.report import COMMITTING, LeaseProgress
from rayhaul.settings import LivenessSettings

#: A job is overdue when it took this many times what was estimated. Source: the specification's stalled-job runbook.
OVERDUE_FACTOR = 2.0
#: Of the patience with silence, what is left for a job that is overdue.
_OVERDUE_PATIENCE = 0.25


#: Requeues after which a job is suspected of being what its agents were lost by: one may happen to anybody.
SUSPECT_REQUEUES = 2
#: A suspect runs apart from others for so long: what kills an agent does so early, as a rule.
APART_S = 30.0


class Symptom(StrEnum):
    #: No bytes moved for longer than is borne.
    SILENT = "silent"
    #: Longer on its way than twice the estimate, and nothing moves.
    OVERDUE = "overdue"
    #: The bucket does not finish completing the upload.
    COMMIT_SILENT = "commit_silent"


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known of a lease's progress."""

    moved_at_s: float
    doing: str = ""
    #: Twice the estimated time is over then; None while no estimate stands.
    overdue_at_s: float | None = None


def hear(watch: Watch, told: LeaseProgress, eta_s: float | None, now_s: float, settings: LivenessSettings) -> Watch:
    """Return the watch after an agent's word. The first estimate stands until it is over."""
    overdue_at_s = watch.overdue_at_s
    if overdue_at_s is not None and now_s > overdue_at_s and told.idle_s <= settings.stalled_s * _OVERDUE_PATIENCE:
        # Asked, and the agent says that it moves: the estimate was wrong, and a new one is made.
        overdue_at_s = None
    if overdue_at_s is None and eta_s is not None:
        overdue_at_s = now_s + max(settings.overdue_floor_s, OVERDUE_FACTOR * eta_s)
    moved_at_s = max(watch.moved_at_s, now_s - told.idle_s)
    return replace(watch, moved_at_s=moved_at_s, doing=told.doing, overdue_at_s=overdue_at_s)


def symptom(watch: Watch, now_s: float, settings: LivenessSettings) -> Symptom | None:
    """Return what is wrong with a lease whose agent is online; None: nothing."""
    silent_s = now_s - watch.moved_at_s
    if watch.doing == COMMITTING:
        return Symptom.COMMIT_SILENT if silent_s > settings.commit_stalled_s else None
    if silent_s > settings.stalled_s:
        return Symptom.SILENT
    is_overdue = watch.overdue_at_s is not None and now_s > watch.overdue_at_s
    return Symptom.OVERDUE if is_overdue and silent_s > settings.stalled_s * _OVERDUE_PATIENCE else None


def shifted(watch: Watch, by_s: float) -> Watch:
    """Return the watch on a clock that was set."""
    overdue_at_s = None if watch.overdue_at_s is None else watch.overdue_at_s + by_s
    return replace(watch, moved_at_s=watch.moved_at_s + by_s, overdue_at_s=overdue_at_s)


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A job that an agent had in hand when it was lost."""

    job_id: str
    requeues: int
    #: For how long it had it.
    held_s: float


def blamed(lost: Iterable[AtRisk]) -> frozenset[str]:
    """Return the jobs that are charged for the loss of an agent.

    A suspect that has just begun is the one: it runs apart from others that have. Else it is those that have just
    begun, else the suspects. So a poison job takes no others with it, but for the first two times, when nobody knows.
    """
    jobs = list(lost)
    suspects = [job for job in jobs if job.requeues >= SUSPECT_REQUEUES]
    young = [job for job in jobs if job.held_s < APART_S]
    both = [job for job in suspects if job.held_s < APART_S]
    return frozenset(job.job_id for job in both or young or suspects or jobs)
