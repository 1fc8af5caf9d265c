"""Where bytes come from: which addresses and kinds of source there are, how long they are waited for, how gently they
are asked.
"""

from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from rayhaul.settings.base import MIB, Group, split_commas


class EgressSettings(Group):
    """Where the cluster may connect to on behalf of users."""

    allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="CIDRs or `host:port` that would be refused otherwise, separated by commas."
    )
    ports: Annotated[tuple[int, ...], NoDecode] = Field((80, 443), description="Ports that may be fetched from.")
    redirects_max: int = Field(5, ge=0, description="Redirects followed for one request.")
    dns_timeout_s: float = Field(5, gt=0, description="Longest wait for a name, seconds.")

    _split = field_validator("allow", "ports", mode="before")(split_commas)


class SourceSettings(Group):
    connect_timeout_s: float = Field(10, gt=0, description="Longest wait for a connection, TLS included, seconds.")
    first_byte_timeout_s: float = Field(30, gt=0, description="Longest wait for a response's headers, seconds.")
    stall_timeout_s: float = Field(30, gt=0, description="Longest silence in a body, seconds.")
    speed_bytes_per_s_min: int = Field(
        1024, ge=0, description="A connection that brings less than this over `speed_window_s` is given up; 0: none is."
    )
    speed_window_s: float = Field(60, gt=0, description="Time over which that speed is measured, seconds.")
    probe_timeout_s: float = Field(20, gt=0, description="Longest metadata probe, redirects included, seconds.")
    peek_bytes: int = Field(
        64 * 1024,
        ge=0,
        le=MIB,
        description="So many of a file's first bytes are asked for by its probe: where they are the whole file, it "
        "waits in the agent's memory for its lease, and is not asked for again; 0: a single byte, and nothing waits.",
    )
    peek_keep_s: float = Field(30, gt=0, description="Longest wait of such a file for its lease, seconds.")
    peeks_bytes_max: int = Field(16 * MIB, ge=0, description="Memory for all such files, per agent.")
    read_buffer_bytes: int = Field(
        256 * 1024,
        gt=0,
        description="Read buffer of one connection; the rest of a long body goes past it, at most 1 MiB ahead.",
    )
    user_agent: str = Field("rayhaul", description="User-Agent sent to sources.")


class SourcesSettings(Group):
    """Which kinds of source there are besides HTTP(S)."""

    s3_buckets: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Buckets, or `bucket/prefix`, of the cluster's own store that every user may read from as "
        "`s3://bucket/key`, separated by commas; empty: none. What lies under the cluster's own prefix is never read.",
    )

    sftp_known_hosts: str | None = Field(
        None,
        min_length=1,
        description="Host keys that are trusted for `sftp://`: lines as in OpenSSH's known_hosts, or the name of such "
        "a file on every machine; empty: there is no such source.",
    )

    torrent_scratch: str | None = Field(
        None,
        min_length=1,
        description="Directory on every machine for the pieces of torrents that are being read; empty: there are no "
        "sources of the kind `magnet:`, and a .torrent is a file like any other.",
    )
    torrent_scratch_bytes_max: int = Field(
        20 * 1024 * MIB, gt=0, description="The most that one agent keeps there; no larger file is read from a torrent."
    )

    _split = field_validator("s3_buckets", mode="before")(split_commas)

    @field_validator("s3_buckets")
    @classmethod
    def _check(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        if any(entry.startswith("/") or "://" in entry for entry in entries):
            raise ValueError("is not `bucket` or `bucket/prefix`, separated by commas")
        return entries


class HostsSettings(Group):
    """How gently the cluster treats the hosts that files come from."""

    connections_max: int = Field(32, gt=0, description="Connections to one origin host, cluster-wide.")
    bandwidth_bytes_per_s_max: int | None = Field(
        None, gt=0, description="Bandwidth from one origin host, cluster-wide; empty: no limit."
    )
    pause_s_max: float = Field(
        300, ge=0, description="Longest Retry-After that is heeded by all jobs of a host, seconds."
    )
    regrow_s: float = Field(
        10, gt=0, description="A host that refused connections gets one back after so long without a refusal, seconds."
    )
