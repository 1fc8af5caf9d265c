"""Scratch on the disk: how much there may be of it, and whose it is."""

from pathlib import Path

import pytest

from rayhaul.errors import AgentFull, Internal, SourceTooLarge
from tasks.scratch import Scratch


def scratch(root: Path, bytes_max: int = 100, *, free_bytes_min: int = 0) -> Scratch:
    made = Scratch(root, bytes_max, free_bytes_min=free_bytes_min)
    made.begin()
    return made


def test_the_sum_is_bounded(tmp_path: Path) -> None:
    """Over all that is reserved; the same file is counted once, and what is given back is there again."""
    disk = scratch(tmp_path)
    with pytest.raises(SourceTooLarge):
        disk.reserve("a", 0, 101)
    for _ in range(2):
        disk.reserve("a", 0, 60)
    disk.reserve("a", 1, 30)
    with pytest.raises(AgentFull):
        disk.reserve("b", 0, 20)
    disk.release("a")
    assert disk.reserved_bytes == 0
    disk.reserve("b", 0, 100)
    disk.end()


def test_a_full_disk(tmp_path: Path) -> None:
    """What others on the machine need is not reserved."""
    disk = scratch(tmp_path, free_bytes_min=2**62)
    with pytest.raises(AgentFull, match="no room"):
        disk.reserve("a", 0, 1)
    disk.end()


def test_what_was_left_behind(tmp_path: Path) -> None:
    """Directories of processes that are gone go; those of processes that live, and what is not ours, stay."""
    alive = scratch(tmp_path)
    kept = alive.directory("t")
    gone = tmp_path / "rayhaul-agent-gone"
    (gone / "t").mkdir(parents=True)
    (gone / "t" / "part").write_bytes(b"x")
    (tmp_path / "notes").write_text("of somebody else")
    later = scratch(tmp_path)
    assert not gone.exists()
    assert kept.exists()
    later.end()
    alive.end()
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """Is this machine's fault."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Internal, match="scratch"):
        Scratch(tmp_path / "file", 100).directory("t")
