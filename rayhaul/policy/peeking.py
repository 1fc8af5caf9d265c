"""Whether a small file comes along with the look at it, and who has it then.

Laws of this file:
1. A look reads past all paces: nothing comes along where a limit of bandwidth holds.
2. Who has it is a hint, and no claim: an agent that has it not asks the origin.
"""

from rayhaul.job import Job
from rayhaul.rates import limits_of
from rayhaul.settings import Settings, SourceSettings


def may_peek(job: Job, settings: Settings) -> bool:
    """Whether a look at a job's source may bring its file along.

    Of a job with mirrors it may not, since another one may be what is looked at; nor of one that may get a copy of what
    is in the bucket already.
    """
    limits = limits_of(
        job,
        host_bytes_per_s=settings.hosts.bandwidth_bytes_per_s_max,
        cluster_bytes_per_s=settings.transfer.bandwidth_bytes_per_s_max,
    )
    is_limited = bool(limits) or settings.agent.bandwidth_bytes_per_s_max is not None
    is_plain = not (job.spec.mirrors or job.spec.dedupe)
    return settings.source.peek_bytes > 0 and not is_limited and is_plain


class Lookers:
    """Which agent was told to look at a job last, as long as its file may wait there."""

    def __init__(self, settings: SourceSettings) -> None:
        self._peek_bytes = settings.peek_bytes
        self._keep_s = settings.probe_timeout_s + settings.peek_keep_s
        #: Agent and time, by job; who was told first stands first.
        self._told: dict[str, tuple[str, float]] = {}

    def note(self, job_id: str, agent: str, now_s: float) -> None:
        self._told.pop(job_id, None)
        self._told[job_id] = (agent, now_s)
        while now_s - self._told[first := next(iter(self._told))][1] > self._keep_s:
            del self._told[first]

    def take(self, job: Job | None) -> str | None:
        """Return who may have the job's file, and forget it; None where nobody has."""
        if job is None or job.metadata is None:
            return None
        agent, _ = self._told.pop(job.id, (None, 0.0))
        size_bytes = job.metadata.size_bytes
        return agent if size_bytes is not None and size_bytes <= self._peek_bytes else None
