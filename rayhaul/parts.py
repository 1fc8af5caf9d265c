"""Who brought which parts of a job, and who is to bring the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

from rayhaul.lease import Lease, UploadSession


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsRun:
    """Consecutive parts that came from one agent, half-open: `first_part <= number < end_part`."""

    #: None: they were recorded before it was noted who brought them.
    agent: str | None
    first_part: int
    end_part: int
    bytes_count: int

    @property
    def parts_count(self) -> int:
        return self.end_part - self.first_part

    @property
    def numbers(self) -> str:
        """Say which parts they are, the last one included: `7`, or `1-12`."""
        last = self.end_part - 1
        return str(last) if last == self.first_part else f"{self.first_part}-{last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParts:
    """What the ledger knows of a job's parts, as of one moment."""

    #: The upload that they are in, open or completed; None where there is none.
    session: UploadSession | None
    #: By their numbers. Each part is in one.
    runs: Sequence[PartsRun]
    #: Those that are out now, by their first parts.
    leases: Sequence[Lease]
