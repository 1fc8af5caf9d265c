"""`rayhaul up` where it cannot start: one clear sentence, an exit code that is not 0, and nothing left running."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from disks import mounted
from embedded import Embedded, free_port

pytestmark = pytest.mark.cluster


def up_refuses(data_dir: Path, *, port: int | None = None, **settings: str) -> str:
    """Run `up`, which must fail; return its one line on stderr."""
    cluster = Embedded(data_dir, **settings)
    command = [sys.executable, "-m", "rayhaul.cli.main", "up", "--port", str(port or cluster.port)]
    done = subprocess.run(
        [*command, "--data-dir", str(data_dir)], capture_output=True, text=True, env=cluster.environment, timeout=60
    )
    assert done.returncode not in (0, -9), done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert not cluster.processes()
    return lines[0]


def test_taken_port(tmp_path: Path) -> None:
    """The port is somebody else's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = up_refuses(tmp_path / "data", port=port)
    assert f"port {port}" in said
    assert "--port" in said


def test_no_write_permission(tmp_path: Path) -> None:
    """The data directory cannot be written."""
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        assert "cannot write" in up_refuses(tmp_path / "closed" / "data")
        return
    with mounted(tmp_path / "closed", "ro,size=1m") as closed:
        said = up_refuses(closed / "data")
    assert "cannot write" in said
    assert str(closed) in said


def test_no_disk(tmp_path: Path) -> None:
    """The disk is full, nearly."""
    with mounted(tmp_path / "small", "size=8m") as small:
        said = up_refuses(small / "data")
    assert "MiB are free" in said


def test_data_directory_in_use(tmp_path: Path, cluster: Embedded) -> None:
    """Another cluster runs on this directory."""
    command = [sys.executable, "-m", "rayhaul.cli.main", "up", "--port", str(free_port())]
    said = subprocess.run(
        [*command, "--data-dir", str(cluster.data_dir)],
        capture_output=True,
        text=True,
        env=cluster.environment,
        timeout=60,
    )
    assert said.returncode == 1
    assert "is running on" in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
    with cluster.client() as client:
        assert client.ready(), "the one that runs was disturbed"


def test_setting_that_makes_no_sense(tmp_path: Path) -> None:
    """A setting is refused by its name."""
    assert "agent.slots" in up_refuses(tmp_path / "data", RAYHAUL_AGENT__SLOTS="-1")
