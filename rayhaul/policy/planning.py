"""How a file is cut into parts: all of one size but the last, no more of them than S3 takes.

Part numbers run from 1; ranges are half-open. Cloudflare R2 refuses parts of different sizes (R2: multipart objects).
"""

from dataclasses import dataclass

from rayhaul.errors import SourceTooLarge
from rayhaul.job import JobSpec, Metadata

MIB = 1024**2
GIB = 1024**3

#: S3 and R2: part numbers 1 to 10,000.
PARTS_MAX = 10_000
#: R2 limits: an object may have 5 GiB less than 5 TiB. It is the lower one of the stores we know.
OBJECT_BYTES_MAX = 5 * 1024 * GIB - 5 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    #: None where the source does not say; so is `parts_count` then.
    size_bytes: int | None
    #: Of every part but the last.
    part_bytes: int
    #: At least 1: an empty file is one empty part.
    parts_count: int | None


def plan_parts(size_bytes: int | None, *, part_bytes_min: int) -> PartPlan:
    """Return parts of `part_bytes_min`, or of as many whole MiB more as the size needs.

    >>> plan_parts(1024**4, part_bytes_min=16 * MIB).part_bytes // MIB
    105

    Raises: SourceTooLarge.
    """
    assert part_bytes_min > 0, part_bytes_min
    if size_bytes is None:
        return PartPlan(size_bytes=None, part_bytes=part_bytes_min, parts_count=None)
    assert size_bytes >= 0, size_bytes
    if size_bytes > OBJECT_BYTES_MAX:
        raise SourceTooLarge(f"{size_bytes} bytes are more than an object may have ({OBJECT_BYTES_MAX})")
    part_bytes = part_bytes_min
    if _ceil_div(size_bytes, part_bytes) > PARTS_MAX:
        part_bytes = _ceil_div(_ceil_div(size_bytes, PARTS_MAX), MIB) * MIB
    return PartPlan(size_bytes=size_bytes, part_bytes=part_bytes, parts_count=parts_count(size_bytes, part_bytes))


def parts_count(size_bytes: int, part_bytes: int) -> int:
    """Return how many parts a file of that size has; an empty one has one."""
    return max(1, _ceil_div(size_bytes, part_bytes))


def byte_range(plan: PartPlan, number: int) -> tuple[int, int]:
    """Return (first, end) of a part's bytes in the file, half-open.

    >>> byte_range(plan_parts(20 * MIB, part_bytes_min=16 * MIB), 2)
    (16777216, 20971520)
    """
    assert plan.size_bytes is not None and plan.parts_count is not None, "the size is not known"  # noqa: PT018 - one fact
    assert 1 <= number <= plan.parts_count, number
    first = (number - 1) * plan.part_bytes
    return first, min(plan.size_bytes, first + plan.part_bytes)


def expected_checksum(spec: JobSpec, metadata: Metadata, *, digest_bytes_max: int) -> str | None:
    """Return the checksum that the object must have: the caller's, else the one that the source tells of the file.

    A source's digest has to be computed in order, so one agent moves the file alone: a larger file than
    `digest_bytes_max` is not compared with it, but with the CRC-32C where the source tells that. In one stream the
    bytes come in order anyway (tasks/source.py).
    """
    if spec.checksum is not None:
        return spec.checksum
    is_worth_it = metadata.size_bytes is not None and metadata.size_bytes <= digest_bytes_max
    if metadata.digest is not None and is_worth_it:
        return metadata.digest
    return None if metadata.crc32c is None else f"crc32c:{metadata.crc32c}"


def tells_versions(checksum: str | None) -> bool:
    """Whether bytes of two versions may be put together, as what is mixed would not have this checksum.

    A CRC-32C finds damage. It has too few bits to be all that stands between a file and two halves of others.
    """
    return checksum is not None and not checksum.startswith("crc32c:")


def _ceil_div(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
