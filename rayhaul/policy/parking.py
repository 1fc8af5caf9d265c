"""What follows when the bucket refuses us: starts are parked, one job at a time tries, and the jobs are not charged.

A refusal is first taken for the bucket's word about us (revoked keys, a missing bucket): thousands of jobs would fail
for what is none of their fault. Only a job that is refused while others get through is itself the reason; those that
were refused wait behind the others, so that these do get their chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Parking:
    #: Starts are parked until then, but for one job that tries; None: not parked.
    until_s: float | None = None
    #: In the bucket's words.
    why: str = ""
    #: How many jobs have tried since it began, and which one does now.
    tries: int = 0
    trying: str | None = None
    #: When the bucket last took bytes, and of which job.
    accepted_at_s: float | None = None
    accepted_of: str | None = None
    #: When a job was last refused, by job.
    refused_at_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_parked(self) -> bool:
        return self.until_s is not None


#: Jobs whose refusal is remembered; a forgotten one only costs another pause.
_REMEMBERED_MAX = 1000
#: The exponent of the pauses is bounded: a bucket may be gone for days.
_DOUBLINGS_MAX = 16


def is_own_fault(parking: Parking, job_id: str) -> bool:
    """Say whether the bucket took another one's bytes since it refused this job."""
    refused_at_s, accepted_at_s = parking.refused_at_s.get(job_id), parking.accepted_at_s
    if refused_at_s is None or accepted_at_s is None or parking.accepted_of == job_id:
        return False
    return accepted_at_s >= refused_at_s


def refused(parking: Parking, job_id: str, why: str, now_s: float, *, park_s: float) -> Parking:
    """Return the state after a refusal. Those of jobs that ran before the pause began do not make it longer."""
    known = dict(parking.refused_at_s)
    known.pop(job_id, None)
    known[job_id] = now_s
    while len(known) > _REMEMBERED_MAX:
        del known[next(iter(known))]
    until_s = now_s + park_s if parking.until_s is None else parking.until_s
    trying = None if parking.trying == job_id else parking.trying
    return replace(parking, refused_at_s=known, why=why, until_s=until_s, trying=trying)


def accepted(parking: Parking, job_id: str, now_s: float) -> Parking:
    """Return the state after the bucket took bytes of a job."""
    return replace(parking, until_s=None, why="", tries=0, trying=None, accepted_at_s=now_s, accepted_of=job_id)


def starts_max(parking: Parking, now_s: float) -> int | None:
    """Return how many jobs may be started now; None: as many as there are slots."""
    if parking.until_s is None:
        return None
    return 1 if now_s >= parking.until_s else 0


def tried(parking: Parking, job_id: str, now_s: float, *, park_s: float, park_s_max: float) -> Parking:
    """Return the state after a job was started to try: the next one waits a pause, unless this one gets through."""
    if parking.until_s is None:
        return parking
    tries = parking.tries + 1
    pause_s = min(park_s_max, park_s * 2.0 ** min(tries, _DOUBLINGS_MAX))
    return replace(parking, tries=tries, trying=job_id, until_s=now_s + pause_s)


def ended(parking: Parking, job_id: str, now_s: float) -> Parking:
    """Return the state after a job's run ended with no word of the bucket: it tried nothing, and the next one may."""
    if parking.until_s is None or parking.trying != job_id:
        return parking
    return replace(parking, tries=parking.tries - 1, trying=None, until_s=now_s)


def shifted(parking: Parking, by_s: float) -> Parking:
    """Return the state on a clock that was set."""
    return replace(
        parking,
        until_s=None if parking.until_s is None else parking.until_s + by_s,
        accepted_at_s=None if parking.accepted_at_s is None else parking.accepted_at_s + by_s,
        refused_at_s={job_id: at_s + by_s for job_id, at_s in parking.refused_at_s.items()},
    )
