"""Peers of a bench: those that can run do, and those that can not are named."""

import pytest

from bench import peers


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


def test_rclone_comes_with_the_extra() -> None:
    """It stands beside the interpreter."""
    assert peers.rclone()
