"""What scheduler and agents say to each other of the hosts that files come from.

A host is `host:port` in lower case: two servers on one machine are two hosts. Its connections are a budget of the whole
cluster: the scheduler grants each agent a share, and agents tell what they use of it and what the host refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rayhaul.job import Job, JobSpec
from rayhaul.redaction import topic_of

_PORTS = {"http": 80, "https": 443, "ftp": 21, "ftpes": 21, "ftps": 990, "sftp": 22}


def host_of(url: str) -> str:
    """Return the host of a URL; of an object in our own store its bucket, `s3:bucket`; of a torrent, its info-hash.

    >>> host_of("https://user:pass@Example.org/a"), host_of("http://[::1]:8080/")
    ('example.org:443', '[::1]:8080')
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "magnet":
        return topic_of(url) or "magnet:"
    if parts.scheme == "s3":
        return f"s3:{host}"
    port = parts.port or _PORTS.get(parts.scheme, 0)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of_job(job: Job) -> str:
    """Return the host that the job's bytes come from: the one redirects led to, once the file was looked at."""
    return host_of(job.spec.url if job.metadata is None else job.metadata.final_url)


def hosts_of_mirrors(job: Job) -> Sequence[str]:
    """Return the hosts that bytes of the job may come from besides."""
    described = () if job.metadata is None else job.metadata.other_hosts
    if not job.spec.mirrors and not described:
        return []
    main = 0 if job.metadata is None else job.metadata.source
    hosts = [*(host_of(source.url) for source in sources_of(job.spec) if source.index != main), *described]
    return [host for host in dict.fromkeys(hosts) if host != host_of_job(job)]


def sources_of(spec: JobSpec) -> Sequence["Source"]:
    """Return where the file can be had: the job's URL, then its mirrors; headers are for the URL's own origin alone."""
    own = _origin(spec.url)
    return [
        Source(index=index, url=url, headers=spec.headers if _origin(url) == own else {})
        for index, url in enumerate((spec.url, *spec.mirrors))
    ]


def sources_from(spec: JobSpec, index: int) -> Sequence["Source"]:
    """Return the sources from the one with that index on, in a circle."""
    sources = sources_of(spec)
    index %= len(sources)
    return [*sources[index:], *sources[:index]]


def _origin(url: str) -> tuple[str, str]:
    """Return the origin of a URL (RFC 6454 4)."""
    return urlsplit(url).scheme, host_of(url)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGrant:
    """How many connections an agent may have at a host, from all its leases together."""

    host: str
    connections: int
    #: Of two grants the one with the higher version counts.
    version: int
    #: No request begins before this is over, seconds from now.
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One of the places where a job's file can be had."""

    #: 0: the job's URL; n: its n-th mirror.
    index: int
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    #: What the agent may use of its host; None: as many connections as it asks for.
    grant: HostGrant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUse:
    """What an agent does at a host, and what the host said of it."""

    host: str
    #: Under way now.
    connections: int
    #: The grant it goes by: 0 where it has none yet.
    granted: int
    version: int
    #: How long ago the host last refused a request with 429 or 503; None: not lately.
    refused_ago_s: float | None = None
    #: What is left of the time for which the host asked us not to come back.
    pause_s: float = 0.0
    #: The most that were under way at once since this was last told.
    peak: int = 0
