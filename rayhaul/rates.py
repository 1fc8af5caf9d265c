"""What scheduler and agents say to each other of how many bytes may pass in a second.

A limit is a budget of the whole cluster: of one job, of one host, or of everything. The scheduler grants each agent
that reads under it a share; agents tell what they go by, and what of it they use.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rayhaul.job import Job
from rayhaul.origins import host_of_job

CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateGrant:
    """How many bytes per second an agent may read under a limit, over all its leases together."""

    #: What is limited: `job:…`, `host:…` or CLUSTER.
    limit: str
    bytes_per_s: int
    #: Of two grants the one with the higher version counts.
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUse:
    """What an agent reads under a limit."""

    limit: str
    #: Read now, smoothed over some seconds.
    bytes_per_s: float
    #: The grant it goes by.
    granted: int
    version: int


def limits_of(job: Job, *, host_bytes_per_s: int | None, cluster_bytes_per_s: int | None) -> Mapping[str, int]:
    """Return the limits that a lease of a job reads under, in bytes per second, the narrowest kind first."""
    limits = {
        f"job:{job.id}": job.spec.bandwidth_bytes_per_s,
        f"host:{host_of_job(job)}": host_bytes_per_s,
        CLUSTER: cluster_bytes_per_s,
    }
    return {limit: bytes_per_s for limit, bytes_per_s in limits.items() if bytes_per_s is not None}
