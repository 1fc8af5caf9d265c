"""What scheduler and agents say to each other of how many bytes may pass in a second.

A limit is a budget of the whole cluster: of one job, of one host, or of everything. The scheduler grants each agent
that reads under it a share; agents tell what they go by, and what of it they use.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from rayhaul.job import Job
from rayhaul.origins import host_of_job, hosts_of_mirrors

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


def limit_of_host(host: str) -> str:
    return f"host:{host}"


def is_of_host(limit: str, host: str) -> bool:
    """Whether a limit holds for bytes from a host: all do but those of other hosts."""
    return not limit.startswith("host:") or limit == limit_of_host(host)


def limits_of(job: Job, *, host_bytes_per_s: int | None, cluster_bytes_per_s: int | None) -> Mapping[str, int]:
    """Return the limits that a lease of a job reads under, in bytes per second, the narrowest kind first."""
    limits = {
        f"job:{job.id}": job.spec.bandwidth_bytes_per_s,
        **{limit_of_host(host): host_bytes_per_s for host in (host_of_job(job), *hosts_of_mirrors(job))},
        CLUSTER: cluster_bytes_per_s,
    }
    return {limit: bytes_per_s for limit, bytes_per_s in limits.items() if bytes_per_s is not None}
