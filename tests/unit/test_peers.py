"""Peers of a bench: those that can run do, and those that can not are named."""

import sys
from pathlib import Path

import pytest

from bench import moving, peers, surroundings


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer runs where all that it needs was found; another one is told with what it lacks."""
    found = {"rclone": None, "aws": "/usr/bin/aws", "curl": "/usr/bin/curl", "aria2c": None}
    monkeypatch.setattr(peers, "_FINDERS", {name: lambda path=path: path for name, path in found.items()})
    here, told = peers.available(peers.ONE_FILE)
    assert [peer.name for peer in here] == ["curl | aws s3 cp -"]
    assert told == [
        "rclone copyurl is left out: no rclone here",
        "rclone copyurl, 8 MiB × 4 is left out: no rclone here",
        "aria2c -x4, then aws s3 cp is left out: no aria2c here",
    ]


def test_a_machine_without_rclone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is looked for where it may be, and told as missing; a sink that needs it is, too."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    peers.rclone.cache_clear()
    try:
        _, told = peers.available(peers.ONE_FILE[1:2])
        assert told == ["rclone copyurl is left out: no rclone here"]
        with pytest.raises(surroundings.Missing, match="rclone"), surroundings.rclone_s3(tmp_path / "store"):
            pass
    finally:
        peers.rclone.cache_clear()


def test_rclone_comes_with_the_extra() -> None:
    """It stands beside the interpreter."""
    assert peers.rclone()


@pytest.mark.parametrize(("wall_s", "is_met"), [(8.0, True), (10.0, False)])
def test_a_verdict_is_by_the_best_peer(wall_s: float, is_met: bool) -> None:  # noqa: FBT001 - a case
    """Of each sink, by wall and CPU."""
    rows = [
        {"sink": "seaweedfs", "way": moving.RAYHAUL, "wallS": wall_s, "cpuSPerGib": 1.5},
        {"sink": "seaweedfs", "way": "a", "wallS": 10.0, "cpuSPerGib": 6.0},
        {"sink": "seaweedfs", "way": "b", "wallS": 20.0, "cpuSPerGib": 3.0},
    ]
    (told,) = moving.against_best(rows)
    assert (told["wall"], told["cpu"], told["isMet"]) == (wall_s / 10, 0.5, is_met)


@pytest.mark.parametrize(
    ("small", "large", "is_met"), [(20.2, 21.0, True), (20.0, 60.0, False), (155.0, 156.0, False), (1.0, 2.5, True)]
)
def test_memory_is_little_and_the_same(small: float, large: float, is_met: bool) -> None:  # noqa: FBT001 - a case
    """A file of eight times the size takes no more, but for noise."""
    assert moving.memory_verdict(207, {"1 GiB": small, "8 GiB": large})["isMet"] is is_met
