"""The documents' blocks that install Rayhaul, or start it with settings of their own, as they stand there."""

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import pytest
from collector import Collector
from documents import ROOT, block, checkout, with_texts, with_values
from embedded import Embedded, embedded
from origin import Origin, content_sha256
from test_cluster import MIB, sha256_of_object
from test_deploy import as_environment

from serve_app.seaweed import Seaweed

pytestmark = pytest.mark.cluster

TIMEOUT_S = 400


def run(script: str, directory: Path, environment: Mapping[str, str]) -> str:
    """Run lines of the shell; return what they said."""
    # A `make` that runs these tests is none of theirs.
    kept = {name: value for name, value in environment.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=directory,
        env=kept,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_make_test_is_all_of_the_tests() -> None:
    """`make test` lints, has types and contracts checked, and runs each directory of tests that is no drill."""
    (command,) = [line for line in block("make").splitlines() if line.startswith("make test ")]
    told = run(command.replace("make", "make --dry-run"), ROOT, os.environ)
    for step in ("ruff check", "mypy", "lint-imports"):
        assert step in told, step
    directories = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert set(re.findall(r"pytest tests/(\w+)", told)) == directories - {"drills"}


@pytest.mark.drill
def test_make_demo(tmp_path: Path) -> None:
    """`make demo` where all is installed."""
    (command,) = [line for line in block("make").splitlines() if line.startswith("make demo ")]
    desk = checkout(tmp_path / "desk")
    (desk / ".venv").mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (desk / ".venv" / name).symlink_to(Path(sys.prefix) / name)
    for name in (".base", ".cluster"):
        (desk / ".venv" / name).touch()
    told = run(command, desk, Embedded(tmp_path / "data").environment)
    assert "the same bytes" in told
    assert "nothing is left running" in told


@pytest.mark.drill
def test_the_quickstart(tmp_path: Path, origin: Origin) -> None:
    """Installed into an environment of its own, with all that it needs there already; up, a job, down."""
    cluster = Embedded(tmp_path / ".rayhaul")
    environment = cluster.environment | {"HOME": str(tmp_path), "PYTHONPATH": sysconfig.get_path("purelib")}
    url = origin.add("data.tar", size=MIB)
    started = with_texts(block("quickstart"), {"rayhaul up": f"rayhaul up --port {cluster.port}"})
    script = f"trap 'rayhaul down' EXIT\n{started}\ncommand -v rayhaul\nrayhaul get {url}"
    desk = checkout(tmp_path / "desk")
    told = run(script, desk, environment)
    assert "does not provide the extra" not in told
    assert f"\n{desk}/.venv/bin/rayhaul\n" in told
    assert told.endswith("stopped\n")
    assert not cluster.processes()


@pytest.mark.drill
@pytest.mark.parametrize("script", [block("R2"), block("S3")], ids=["R2", "S3"])
def test_a_bucket_of_ones_own(script: str, tmp_path: Path, store: Seaweed, origin: Origin) -> None:
    """What the page exports is the bucket that is used, and none is started."""
    script = with_values(script, as_environment(store.settings))
    with embedded(tmp_path / "data", script=script) as cluster, cluster.client() as client:
        job = client.wait(client.submit(origin.add("file.bin", size=MIB, seed=6)).id, timeout_s=60)
        assert client.download_link(job.id).url.startswith(str(store.settings.endpoint_url))
        assert sha256_of_object(client, job.id) == content_sha256(6, MIB)
        assert not cluster.processes("weed")


@pytest.mark.drill
def test_opentelemetry(tmp_path: Path, origin: Origin) -> None:
    """All that the extra brings is there, and spans come to the collector that is named."""
    with Collector().listening() as collector:
        script = with_values(block("OpenTelemetry"), {"RAYHAUL_OTLP__ENDPOINT": collector.endpoint})
        with embedded(tmp_path / "data", script=script, PIP_NO_INDEX="1") as cluster, cluster.client() as client:
            assert "does not provide the extra" not in cluster.log_path.read_text()
            client.wait(client.submit(origin.add("file.bin", size=MIB)).id, timeout_s=60)
            collector.wait_for(lambda: collector.named("POST /jobs") and collector.named("lease jobs"))
