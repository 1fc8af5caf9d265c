"""The programs that Rayhaul is measured against: found where they are, installed where they can be, named where not.

rclone comes from PyPI. The AWS command line pins a botocore of its own, so it gets an environment of its own. curl and
aria2 are Debian's.
"""

import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rayhaul.settings import S3Settings

_AWS_HOME = Path(".venv/peers")
_RUN_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a way took: wall and CPU in seconds (all its processes), and the largest of them in memory."""

    wall_s: float
    cpu_s: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    #: A shell command that brings $URL to $KEY in the bucket.
    command: str
    #: Programs it needs.
    needs: tuple[str, ...]


ONE_FILE = (
    Peer(
        "curl | aws s3 cp -",
        'curl -sSf "$URL" | "$AWS" s3 cp - "s3://$BUCKET/$KEY" --expected-size "$SIZE"',
        ("curl", "aws"),
    ),
    Peer("rclone copyurl", '"$RCLONE" copyurl "$URL" "sink:$BUCKET/$KEY"', ("rclone",)),
    Peer(
        "rclone copyurl, 8 MiB × 4",
        '"$RCLONE" copyurl --s3-chunk-size 8M --s3-upload-concurrency 4 "$URL" "sink:$BUCKET/$KEY"',
        ("rclone",),
    ),
    Peer(
        "aria2c -x4, then aws s3 cp",
        'aria2c -q -x4 -s4 -d "$SCRATCH" -o file "$URL" && "$AWS" s3 cp --quiet "$SCRATCH/file" "s3://$BUCKET/$KEY"'
        ' && rm "$SCRATCH/file"',
        ("aria2c", "aws"),
    ),
)
MANY_FILES = Peer(
    "rclone copyurl --urls, 16 transfers",
    '"$RCLONE" copyurl --urls "$LIST" --transfers 16 --checkers 16 "sink:$BUCKET/$KEY"',
    ("rclone",),
)


@cache
def rclone() -> str | None:
    """Return the path of rclone, which the extra `dev` brings; None where it is not here."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if beside.exists() else shutil.which("rclone")


@cache
def aws() -> str | None:
    """Return the path of the AWS command line, installed if need be; None where it can not be had."""
    found = shutil.which("aws")
    if found is not None:
        return found
    program = _AWS_HOME.absolute() / "bin" / "aws"
    if not program.exists():
        venv.create(_AWS_HOME, with_pip=True)
        pip = [str(_AWS_HOME / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "awscli"]
        if subprocess.run(pip, check=False, capture_output=True).returncode != 0:
            return None
    return str(program)


@cache
def debian(program: str, package: str) -> str | None:
    """Return the path of a program of Debian's, installed where we are root; None where it can not be had."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if shutil.which(program, path=path) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", package]):
            subprocess.run(["apt-get", *command], env=environment, check=False, capture_output=True)
    return shutil.which(program, path=path)


_FINDERS: Mapping[str, Callable[[], str | None]] = {
    "rclone": rclone,
    "aws": aws,
    "curl": lambda: debian("curl", "curl"),
    "aria2c": lambda: debian("aria2c", "aria2"),
}


def available(peers: Sequence[Peer]) -> tuple[Sequence[Peer], Sequence[str]]:
    """Return the peers that can run here, and a sentence for each that can not."""
    missing = {peer.name: [need for need in peer.needs if _FINDERS[need]() is None] for peer in peers}
    told = [f"{name} is left out: no {', '.join(needs)} here" for name, needs in missing.items() if needs]
    return [peer for peer in peers if not missing[peer.name]], told


def run(peer: Peer, sink: S3Settings, variables: Mapping[str, str]) -> Spent:
    """Run a peer once, as a person would, and return what it took. Raises: CalledProcessError with what it said."""
    assert sink.secret_access_key is not None
    secret = sink.secret_access_key.get_secret_value()
    environment = dict(os.environ) | {
        "AWS": aws() or "",
        "RCLONE": rclone() or "",
        "BUCKET": str(sink.bucket),
        "AWS_ACCESS_KEY_ID": str(sink.access_key_id),
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": str(sink.endpoint_url),
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_SINK_TYPE": "s3",
        "RCLONE_CONFIG_SINK_PROVIDER": "Other",
        "RCLONE_CONFIG_SINK_ENDPOINT": str(sink.endpoint_url),
        "RCLONE_CONFIG_SINK_ACCESS_KEY_ID": str(sink.access_key_id),
        "RCLONE_CONFIG_SINK_SECRET_ACCESS_KEY": secret,
        "RCLONE_CONFIG_SINK_NO_CHECK_BUCKET": "true",
        **variables,
    }
    began_s = time.perf_counter()
    process = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", peer.command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - began_s
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, peer.command, stderr=said.decode(errors="replace"))
    return Spent(wall_s=wall_s, cpu_s=used.ru_utime + used.ru_stime, rss_mib=used.ru_maxrss / 1024)
