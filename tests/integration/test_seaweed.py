"""The embedded bucket keeps its data, its ports and its promise to die with its parent."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from rayhaul.errors import Unavailable
from rayhaul.settings import S3Settings
from serve_app.seaweed import Seaweed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@contextmanager
def client_of(settings: S3Settings) -> Iterator["S3Client"]:
    assert settings.secret_access_key is not None
    client = boto3.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key.get_secret_value(),
        region_name=settings.region,
        config=Config(s3={"addressing_style": "path"}),
    )
    try:
        yield client
    finally:
        client.close()


def put(settings: S3Settings, key: str, body: bytes) -> None:
    with client_of(settings) as client:
        client.put_object(Bucket="rayhaul", Key=key, Body=body)


def get(settings: S3Settings, key: str) -> bytes:
    with client_of(settings) as client, client.get_object(Bucket="rayhaul", Key=key)["Body"] as body:
        return body.read()


async def test_data_keys_and_links_survive_a_stop_and_a_kill(tmp_path: Path) -> None:
    """Objects written before a stop, and right before a SIGKILL, are there after the next start, by the same link."""
    body = os.urandom(3 * 1024 * 1024)
    async with Seaweed(tmp_path) as first:
        ports, settings = first.ports, first.settings
        put(settings, "stopped", body)
    again = Seaweed(tmp_path, ports=ports)
    again.start()
    try:
        assert again.settings == settings
        assert get(settings, "stopped") == body
        put(settings, "killed", body[::-1])
    finally:
        again.kill()
    async with Seaweed(tmp_path, ports=ports):
        assert get(settings, "killed") == body[::-1]
    assert stat.S_IMODE((tmp_path / "identity.json").stat().st_mode) == 0o600


def test_it_refuses_strangers_and_listens_on_loopback_alone(store: Seaweed) -> None:
    """A wrong key is refused, and no listening socket of the process is open to other machines."""
    stranger = store.settings.model_copy(update={"access_key_id": "someone"})
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        put(stranger, "x", b"")
    descriptors = []
    for link in Path(f"/proc/{store.pid}/fd").iterdir():
        # The store closes files while we look.
        with suppress(FileNotFoundError):
            descriptors.append(str(link.readlink()))
    inodes = {text.removeprefix("socket:[").removesuffix("]") for text in descriptors if text.startswith("socket:[")}
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[9] in inodes
    ]
    assert listening
    assert {address.split(":")[0] for address in listening} == {"0100007F"}


def test_ports_that_are_taken_are_named(tmp_path: Path, store: Seaweed) -> None:
    """Starting on ports in use fails at once and says which."""
    with pytest.raises(Unavailable, match=str(store.ports.s3)):
        Seaweed(tmp_path, ports=store.ports).start()


def test_one_directory_has_one_store(store: Seaweed) -> None:
    """A second store on the same directory is refused before it can touch the data."""
    with pytest.raises(Unavailable, match="another store runs on"):
        Seaweed(store.log_path.parent).start()


def test_a_store_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    """When the server ends at its start, the error carries what it said."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "filerldb2").write_text("a file where a directory belongs")
    with pytest.raises(Unavailable, match="failed to initialize store"):
        Seaweed(tmp_path).start()


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    """SIGKILL of the process that started it leaves no store behind."""
    script = "import sys,time; from serve_app.seaweed import Seaweed\ns = Seaweed(sys.argv[1]); s.start()\n"
    script += "print(s.pid, s.ports.s3, flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, port = map(int, parent.stdout.readline().split())
        os.kill(pid, 0)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.05)
    pytest.fail(f"process {pid} outlived its parent")


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    """Cancelling `async with` while the store starts ends its process."""
    store = Seaweed(tmp_path)
    starting = asyncio.create_task(store.__aenter__())
    await asyncio.sleep(0)  # the start runs up to its first wait
    pid = store.pid
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
