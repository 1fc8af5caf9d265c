"""Whether a machine can take more work."""

import pytest

from actors.fitness import judge
from rayhaul.settings import AgentSettings

MIB = 1024 * 1024
SETTINGS = AgentSettings(disk_free_bytes_min=100 * MIB, memory_free_bytes_min=50 * MIB)


@pytest.mark.parametrize(
    ("disk", "memory", "found"),
    [
        (100 * MIB, 50 * MIB, None),
        (100 * MIB - 1, 50 * MIB, "disk full: 99 MiB free, 100 MiB needed"),
        (100 * MIB, 50 * MIB - 1, "memory full: 49 MiB free, 50 MiB needed"),
        (0, 0, "disk full: 0 MiB free, 100 MiB needed"),
    ],
)
def test_what_is_too_little(disk: int, memory: int, found: str | None) -> None:
    """Exactly what is asked for is enough; one byte less is said in a sentence with both figures."""
    assert judge(SETTINGS, disk_free_bytes=disk, memory_free_bytes=memory) == found
