"""The sources of a job in the scheduler's hands: which is looked at first, when another one is begun with, and what is
told of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from actors.draft import Draft
from rayhaul.errors import Failure, Fault, SourceChanged, SourceTooLarge
from rayhaul.job import Job, JobResult
from rayhaul.origins import Source, sources_from, sources_of
from rayhaul.policy.planning import tells_versions
from rayhaul.redaction import redacted

#: Failures that say nothing against the source: the file is another one there by now, or is what it is.
_STAYS = frozenset({SourceChanged.code, SourceTooLarge.code})


def to_look_at(job: Job) -> Sequence[Source]:
    """Return the job's sources in the order in which they are asked; where one has failed, the next one is first."""
    failed = job.error is not None and job.error.fault == Fault.SOURCE and job.error.code not in _STAYS
    return sources_from(job.spec, job.attempt if failed else 0)


def begins_elsewhere(draft: Draft, job: Job, failure: Failure) -> bool:
    """Say whether the next run may be of another source's file: nothing of this one's is in, and others may have it.

    What is in would be mixed with bytes of which nobody knows that they are of the same file.
    """
    if job.metadata is None or not (job.spec.mirrors or job.metadata.other_hosts):
        return False
    if failure.fault != Fault.SOURCE or failure.code in _STAYS:
        return False
    session = draft.open_session(job.id)
    is_combined = job.metadata.rangeable and (job.metadata.has_version or tells_versions(job.spec.checksum))
    return session is None or not is_combined or not draft.recorded(session.session_id)


def told(draft: Draft, job: Job, result: JobResult | None = None) -> Mapping[str, Any]:
    """Return which source brought how much, and why one was left out, for an event; nothing where there is but one."""
    if not job.spec.mirrors:
        return {}
    brought, left_out = dict(result.sources if result is not None else ()), draft.heard.left_out(job.id)
    return {
        "sources": [
            {
                "url": redacted(source.url),
                "bytes": brought.get(source.index, 0),
                **({"leftOut": left_out[source.index]} if source.index in left_out else {}),
            }
            for source in sources_of(job.spec)
        ]
    }
