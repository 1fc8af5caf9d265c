"""What `pip install rayhaul` brings without extras: small, and enough for the client and the command line."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
#: Megabytes of files as the wheels have them; bytecode, which pip adds, is what Python makes of them.
_BYTES_MAX = 30_000_000
_OURS = ("rayhaul", "tasks", "actors", "serve_app", "dashboards")

#: Runs a command of ours, the rest of the command line, where there are no other packages than in one directory.
_ALONE = "import sys; sys.path[:0] = [sys.argv.pop(1), sys.argv.pop(1)]; from rayhaul.cli.main import main; main()"


def _base() -> dict[str, importlib.metadata.Distribution]:
    """Return what the base requires, and what that requires, by name."""
    found: dict[str, importlib.metadata.Distribution] = {}

    def add(requirements: list[str]) -> None:
        for requirement in map(Requirement, requirements):
            name = canonicalize_name(requirement.name)
            if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                found[name] = importlib.metadata.distribution(name)
                add(found[name].requires or [])

    add(importlib.metadata.requires("rayhaul") or [])
    return found


def _sizes() -> Iterator[int]:
    for distribution in _base().values():
        yield from (file.size or 0 for file in distribution.files or () if "__pycache__" not in file.parts)
    for package in _OURS:
        files = (path for path in (ROOT / package).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        yield from (path.stat().st_size for path in files)


def test_it_is_small() -> None:
    """Under 30 MB, our own packages included."""
    assert {"aiohttp", "pydantic", "typer"} <= set(_base())
    assert 20_000_000 < sum(_sizes()) < _BYTES_MAX


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("--help", 0, "Usage"),
        ("jobs --help", 0, "Usage"),
        ("get job_1", 3, "cannot reach http://127.0.0.1:9"),
        ("up", 2, "pip install 'rayhaul[cluster]'"),
    ],
)
def test_it_is_enough(tmp_path: Path, command: str, code: int, said: str) -> None:
    """With nothing else in sight commands work, and one that needs a cluster's packages says which."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ALONE, str(_installed(tmp_path / "site")), str(ROOT), *command.split()],
        env={"HOME": str(tmp_path), "RAYHAUL_URL": "http://127.0.0.1:9", "RAYHAUL_API_KEY": "x", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def _installed(site: Path) -> Path:
    """Make a directory with links to what the base requires, and nothing else."""
    site.mkdir()
    for distribution in _base().values():
        for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            (site / name).symlink_to(Path(str(distribution.locate_file(name))))
    return site
