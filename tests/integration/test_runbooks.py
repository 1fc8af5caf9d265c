"""Each command of each runbook, run as it stands there by an operator, against the real scheduler, agents and API."""

import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import Template

import pytest
from inprocess import Service, quick_settings, service_thread
from origin import Origin, OriginThread

from rayhaul import Client
from rayhaul.cli.main import app
from rayhaul.job import FINAL, JobStatus
from serve_app import storage_check
from serve_app.seaweed import Seaweed

RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks"
PAGES = sorted(RUNBOOKS.glob("*.md"))
MIB = 1024 * 1024
#: Commands that stand on several pages are run once.
RUN: set[str] = set()


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def eventually(holds: Callable[[], bool], *, within_s: float, what: str) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        time.sleep(0.05)


class Scene:
    """What the commands act on, made where they ask for it: a job that runs, a dead letter, an agent."""

    def __init__(self, client: Client, origin: Origin, name: str) -> None:
        self._client = client
        self._origin = origin
        self._name = name
        self._job_id: str | None = None

    def names(self, command: str) -> Mapping[str, str]:
        """Return what the command's variables stand for by now."""
        found = {}
        if "$JOB" in command:
            found["JOB"] = self._running_job()
        if "$DEAD" in command:
            found["DEAD"] = self._dead_letter()
        if "$AGENT" in command:
            holders = self._client.get(found["JOB"]).agents if "JOB" in found else []
            online = [agent.agent for agent in self._client.agents() if agent.state == "online"]
            found["AGENT"] = next(iter(holders or online))
        return found

    def close(self) -> None:
        if self._job_id is not None and self._client.get(self._job_id).status not in FINAL:
            self._client.cancel(self._job_id)

    def _running_job(self) -> str:
        job_id = self._job_id
        if job_id is None:
            url = self._origin.add(f"slow/{self._name}.bin", size=64 * MIB, seed=1, rate_bytes_per_s=MIB)
            self._job_id = job_id = self._client.submit(url, connections=1).id

        def is_held() -> bool:
            job = self._client.get(job_id)
            return job.status is JobStatus.DOWNLOADING and bool(job.agents)

        eventually(is_held, within_s=60, what="it runs")
        return job_id

    def _dead_letter(self) -> str:
        busy = self._origin.add(f"busy/{self._name}.bin", size=MIB, seed=2, status=503)
        job_id = self._client.submit(busy).id
        eventually(
            lambda: job_id in [letter.id for letter in self._client.dead_letters().jobs],
            within_s=60,
            what="it is a dead letter",
        )
        return job_id


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, store: Seaweed) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("runbooks")
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{directory.name}/"}))
    with service_thread(directory, settings) as service:
        yield service


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with OriginThread() as running:
        yield running


@pytest.fixture
def environ(service: Service, store: Seaweed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of an operator, in which the bucket is configured too."""
    s3 = store.settings
    assert s3.secret_access_key is not None
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOME": str(tmp_path),
        "RAYHAUL_URL": service.url,
        "RAYHAUL_API_KEY": service.operator,
        "RAYHAUL_S3__ENDPOINT_URL": str(s3.endpoint_url),
        "RAYHAUL_S3__BUCKET": str(s3.bucket),
        "RAYHAUL_S3__ACCESS_KEY_ID": str(s3.access_key_id),
        "RAYHAUL_S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value(),
    }.items():
        monkeypatch.setenv(name, value)


def run(command: str) -> int:
    """Run a command as `rayhaul` would in this process, where it is nothing but that; else by the shell."""
    words = shlex.split(command)
    if words[0] != "rayhaul":
        return subprocess.run(["bash", "-c", command], env=os.environ, timeout=60, check=False).returncode
    if words[1] == "storage-check":
        # The command line becomes that process.
        return storage_check.main(words[2:])
    return app(words[1:], standalone_mode=False) or 0


@pytest.mark.usefixtures("environ")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_works(service: Service, origin: Origin, page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each command ends with 0, complains of nothing and shows something, in the order of the page."""
    with Client(service.url, service.operator) as client:
        scene = Scene(client, origin, page.stem)
        commands = commands_of(page)
        assert commands, "a page without a command helps nobody"
        for command in commands:
            if command in RUN:
                continue
            names = {**os.environ, **scene.names(command)}
            capfd.readouterr()
            code = run(Template(command).substitute(names) if "$" in command else command)
            shown = capfd.readouterr()
            assert code == 0, f"{command}\n{shown.out}{shown.err}"
            assert "rayhaul: " not in shown.err, f"{command}\n{shown.err}"
            # There need not be errors to be shown.
            assert shown.out or command.startswith("rayhaul logs"), command
            if "$" not in command:
                RUN.add(command)
        scene.close()
