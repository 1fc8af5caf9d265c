"""How bytes are moved: what one agent carries, and how a file is cut, tried again and compared."""

from pydantic import Field

from rayhaul.settings.base import MIB, Group


class AgentSettings(Group):
    slots: int = Field(32, gt=0, description="Leases one agent runs at once.")
    probe_slots: int = Field(32, gt=0, description="Metadata probes one agent runs at once.")
    connections_max: int = Field(64, gt=0, description="Connections one agent opens to sources at once.")
    memory_bytes_max: int = Field(256 * MIB, gt=0, description="Memory for buffered parts, per agent.")
    bandwidth_bytes_per_s_max: int | None = Field(
        None, gt=0, description="Bandwidth of one agent, shared fairly by its jobs; empty: no limit."
    )
    disk_free_bytes_min: int = Field(
        256 * MIB, ge=0, description="With less free disk an agent says that it is unfit, and gets no leases."
    )
    memory_free_bytes_min: int = Field(
        128 * MIB, ge=0, description="With less free memory an agent says that it is unfit, and gets no leases."
    )


class TransferSettings(Group):
    part_bytes_min: int = Field(16 * MIB, ge=5 * MIB, description="Size of a part, unless the file needs larger ones.")
    single_put_bytes_max: int = Field(16 * MIB, gt=0, description="Files up to this size go up in one PUT.")
    stripe_parts_min: int = Field(
        4, gt=0, description="Parts that are worth another agent's help; fewer are taken from a slow one only."
    )
    part_attempts_max: int = Field(5, gt=0, description="Tries of one part within a lease.")
    retry_base_s: float = Field(1, gt=0, description="First backoff, seconds.")
    retry_factor: float = Field(4, gt=1, description="Growth of the backoff.")
    retry_cap_s: float = Field(60, gt=0, description="Longest backoff, seconds.")
    put_idle_s_max: float = Field(
        10,
        gt=0,
        description="Longest pause of an upload that waits for its source, seconds; S3 bears 20. After one, a lease "
        "reads its parts into memory before it sends them.",
    )
    retries_at_once_max: int = Field(
        64, gt=0, description="Second tries that one process makes at one endpoint without waiting for their turn."
    )
    retries_per_s: float = Field(8, gt=0, description="Further second tries at one endpoint, per second and process.")
    attempts_max: int = Field(5, gt=0, description="Attempts of a job whose failures can be retried.")
    bandwidth_bytes_per_s_max: int | None = Field(
        None, gt=0, description="Bandwidth of the whole cluster, from all sources together; empty: no limit."
    )
    size_bytes_max: int = Field(5 * 1024**4, gt=0, description="Largest file accepted.")
    digest_bytes_max: int = Field(
        1024 * MIB,
        ge=0,
        description="Up to this size a file is compared with the digest that its source tells (Repr-Digest, Digest, "
        "Content-MD5, x-goog-hash): its ranges are then hashed in order, by one agent. A CRC-32C (x-goog-hash) is "
        "compared whatever the size, and so is a checksum in the job.",
    )

    def size_bytes_of(self, asked: int | None) -> int:
        """Return the largest file that a job takes, which may ask for a lower limit but for no higher one."""
        return self.size_bytes_max if asked is None else min(asked, self.size_bytes_max)
