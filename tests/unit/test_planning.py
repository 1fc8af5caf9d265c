"""Parts cover the file exactly, are uniform, and are never too many."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayhaul.errors import SourceTooLarge
from rayhaul.job import JobSpec, Metadata
from rayhaul.policy.planning import (
    GIB,
    MIB,
    OBJECT_BYTES_MAX,
    PARTS_MAX,
    byte_range,
    expected_checksum,
    plan_parts,
    tells_versions,
)

sizes = st.integers(0, OBJECT_BYTES_MAX)
parts_min = st.integers(5 * MIB, 5 * GIB)


@given(size=sizes, part_bytes_min=parts_min)
@example(size=0, part_bytes_min=16 * MIB)
@example(size=OBJECT_BYTES_MAX, part_bytes_min=5 * MIB)
@example(size=PARTS_MAX * 16 * MIB, part_bytes_min=16 * MIB)
@example(size=PARTS_MAX * 16 * MIB + 1, part_bytes_min=16 * MIB)
def test_parts_are_uniform_enough_and_not_too_many(size: int, part_bytes_min: int) -> None:
    """Never more than 10,000 parts, none under the minimum, none larger than a store takes, none empty but the only."""
    plan = plan_parts(size, part_bytes_min=part_bytes_min)
    assert plan.size_bytes == size
    assert plan.parts_count is not None
    assert 1 <= plan.parts_count <= PARTS_MAX
    assert part_bytes_min <= plan.part_bytes <= 5 * GIB
    assert (plan.parts_count - 1) * plan.part_bytes < max(size, 1) <= plan.parts_count * plan.part_bytes
    if plan.part_bytes > part_bytes_min:
        assert plan.part_bytes % MIB == 0
        assert PARTS_MAX * part_bytes_min < size
        assert PARTS_MAX * (plan.part_bytes - MIB) < size, "no larger than needed"


@given(parts_count=st.integers(0, 40), rest=st.integers(0, 5 * MIB - 1))
def test_ranges_tile_the_file(parts_count: int, rest: int) -> None:
    """Each range begins where the one before ended; the first at 0, the last ends with the file."""
    size = parts_count * 5 * MIB + rest
    plan = plan_parts(size, part_bytes_min=5 * MIB)
    assert plan.parts_count is not None
    offset = 0
    for number in range(1, plan.parts_count + 1):
        first, end = byte_range(plan, number)
        assert first == offset
        assert number == plan.parts_count or end - first == plan.part_bytes
        offset = end
    assert offset == size


@pytest.mark.parametrize(
    ("size", "part_mib"),
    [
        (1, 16),
        (156 * GIB, 16),
        (157 * GIB, 17),
        (1024 * GIB, 105),
        (OBJECT_BYTES_MAX, 524),
    ],
)
def test_part_size_grows_with_the_file(size: int, part_mib: int) -> None:
    """The sizes at which 16 MiB parts do not suffice any more."""
    assert plan_parts(size, part_bytes_min=16 * MIB).part_bytes == part_mib * MIB


def test_unknown_size_has_no_count() -> None:
    """Without a size, parts have the smallest size and their number stays open."""
    plan = plan_parts(None, part_bytes_min=16 * MIB)
    assert (plan.size_bytes, plan.part_bytes, plan.parts_count) == (None, 16 * MIB, None)


def test_too_large_is_refused() -> None:
    """One byte more than R2 can hold in one object is refused."""
    with pytest.raises(SourceTooLarge):
        plan_parts(OBJECT_BYTES_MAX + 1, part_bytes_min=16 * MIB)


SHA256 = f"sha256:{'0' * 64}"
CRC = "crc32c:4waSgw=="


@pytest.mark.parametrize(
    ("asked", "size_bytes", "digest", "crc32c", "expected"),
    [
        (None, 1000, None, None, None),
        (None, 1000, SHA256, None, SHA256),
        (None, 1000, SHA256, "4waSgw==", SHA256),
        # Reading it in order would cost too much: what is combined of the parts costs nothing.
        (None, 1001, SHA256, "4waSgw==", CRC),
        (None, 1001, SHA256, None, None),
        (None, None, SHA256, "4waSgw==", CRC),
        (None, 10**15, None, "4waSgw==", CRC),
        ("md5:00", 10**15, SHA256, "4waSgw==", "md5:00"),
    ],
)
def test_what_the_object_is_compared_with(
    asked: str | None, size_bytes: int | None, digest: str | None, crc32c: str | None, expected: str | None
) -> None:
    """The caller's checksum; else the source's digest, where the file is not too large for that; else its CRC-32C."""
    told = Metadata(
        size_bytes=size_bytes,
        content_type=None,
        etag=None,
        last_modified=None,
        rangeable=True,
        filename="file.bin",
        final_url="https://files.example/file.bin",
        fetch_ms=1,
        digest=digest,
        crc32c=crc32c,
    )
    spec = JobSpec(url=told.final_url, checksum=asked)
    assert expected_checksum(spec, told, digest_bytes_max=1000) == expected


def test_a_crc_of_32_bits_tells_no_versions() -> None:
    """All other checksums would not be those of two halves of different files."""
    assert [tells_versions(text) for text in (None, CRC, SHA256, "crc64nvme:rosUhgp5mIg=")] == [
        False,
        False,
        True,
        True,
    ]
