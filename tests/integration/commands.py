"""Commands of the documents, run as an operator would, and what they act on: made where they ask for it."""

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from string import Template

import pytest
from inprocess import Service
from origin import Origin

from rayhaul import Client
from rayhaul.cli.main import app
from rayhaul.job import FINAL, JobStatus
from rayhaul.settings import S3Settings
from serve_app import storage_check

MIB = 1024 * 1024


def eventually(holds: Callable[[], bool], *, within_s: float, what: str) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {within_s} s: {what}"
        time.sleep(0.05)


class Scene:
    """What the commands act on, made where they ask for it: jobs that run or are done, a dead letter, an agent."""

    def __init__(self, client: Client, origin: Origin, name: str) -> None:
        self._client = client
        self._origin = origin
        self._name = name
        self._job_id: str | None = None
        self._done_id: str | None = None

    def names(self, command: str) -> Mapping[str, str]:
        """Return what the command's variables stand for by now."""
        found = {}
        if "$JOB" in command:
            found["JOB"] = self._running_job()
        if "$DONE" in command:
            found["DONE"] = self._completed_job()
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

    def _completed_job(self) -> str:
        if self._done_id is None:
            url = self._origin.add(f"done/{self._name}.bin", size=MIB, seed=3)
            self._done_id = self._client.wait(self._client.submit(url).id, timeout_s=60).id
        return self._done_id

    def _dead_letter(self) -> str:
        busy = self._origin.add(f"busy/{self._name}.bin", size=MIB, seed=2, status=503)
        job_id = self._client.submit(busy).id
        eventually(
            lambda: job_id in [letter.id for letter in self._client.dead_letters().jobs],
            within_s=60,
            what="it is a dead letter",
        )
        return job_id


@contextmanager
def operator_of(service: Service, s3: S3Settings, directory: Path) -> Iterator[None]:
    """The environment of an operator, in which the bucket is configured too, in a directory of its own."""
    assert s3.secret_access_key is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name, value in {
            "HOME": str(directory),
            "RAYHAUL_URL": service.url,
            "RAYHAUL_API_KEY": service.operator,
            "RAYHAUL_S3__ENDPOINT_URL": str(s3.endpoint_url),
            "RAYHAUL_S3__BUCKET": str(s3.bucket),
            "RAYHAUL_S3__ACCESS_KEY_ID": str(s3.access_key_id),
            "RAYHAUL_S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value(),
        }.items():
            patch.setenv(name, value)
        yield


def run(command: str, names: Mapping[str, str]) -> int:
    """Run a command as `rayhaul` would in this process, where it is nothing but that; else by the shell."""
    if "$" in command:
        command = Template(command).substitute({**os.environ, **names})
    words = shlex.split(command)
    if words[0] != "rayhaul":
        return subprocess.run(["bash", "-c", command], env=os.environ, timeout=60, check=False).returncode
    if words[1] == "storage-check":
        # The command line becomes that process.
        return storage_check.main(words[2:])
    return app(words[1:], standalone_mode=False) or 0
