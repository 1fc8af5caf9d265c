"""The embedded cluster: a whole Rayhaul on this machine, in one data directory.

Laws of this file:
1. Everything durable (ledger, bucket, keys, token) lies in the data directory, which is locked while the cluster runs.
2. What was started is stopped in reverse order, however far the start got; all of it dies with this process besides.
3. What can be known to fail is found before anything is started, and said in one sentence.
"""

import hashlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from rayhaul.client.endpoint import write_last_up, write_up_file
from rayhaul.errors import RayhaulError, ServiceError
from rayhaul.settings import S3Settings, Settings
from rayhaul.trace_export import check_exporter
from serve_app.kept_store import KeptStore
from serve_app.seaweed import Seaweed, StorePorts, settings_of
from serve_app.starting import (
    StartRefused,
    await_ready,
    locked,
    make_operator_key,
    prepare_ledger,
    seen_from_head,
    with_ledger_key,
    write_private,
)

log = logging.getLogger(__name__)

#: The start is refused with less than this: a ledger that cannot write is worth nothing.
_DISK_FREE_BYTES_MIN = 256 * 1024 * 1024
_OBJECT_STORE_BYTES = 128 * 1024 * 1024
_READY_TIMEOUT_S = 60.0
_BUCKET_DIR = "bucket"
_PORTS_FILE = "bucket-ports"
#: Ray gives itself 30 s to start (raylet_start_wait_time_s in its node.py), which a busy machine may not keep.
_RAY_STARTS_MAX = 3
#: What Ray says where another start may do better, and why it is made.
_PASSING = {
    "timed out during startup": "this machine is slow",
    # It was free when it was chosen, seconds before.
    "Failed to find a valid port": "another program took its port",
}
_REAP_TIMEOUT_S = 5.0
_REAP_POLL_S = 0.05
#: In the environment of every process that Ray starts for us: how those that outlive `up` are told from all others.
_MARK = "RAYHAUL_EMBEDDED_IN"
_DASHBOARD_PORT = 8265
_PORTS_LOOKED_AT = 100
#: Replicas listen on ports of their own behind the ingress, and each cluster takes a block: of one range for all of
#: them, an ingress that is late to hear of a change could ask the replica of another cluster.
_REPLICA_PORTS = range(30_000, 32_000)
_REPLICA_PORTS_BLOCK = 50
#: HAProxy's socket lies in Ray's temporary directory, below a node id of 56 characters, in at most 97 in all.
_TEMP_NAME_HEX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an embedded cluster lives."""

    data_dir: Path
    host: str
    port: int

    @property
    def ledger_url(self) -> str:
        return f"sqlite:///{self.data_dir / 'ledger.db'}"

    @property
    def key_path(self) -> Path:
        return self.data_dir / "api-key"

    @property
    def ledger_key_path(self) -> Path:
        return self.data_dir / "ledger-key"

    @property
    def token_path(self) -> Path:
        return self.data_dir / "ray-token"

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "localhost") else self.host  # noqa: S104 - compared
        return f"http://{host}:{self.port}"

    @property
    def temp_dir(self) -> Path:
        """Ray's temporary directory: short, and the same for the same data directory."""
        name = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:_TEMP_NAME_HEX]
        return Path(tempfile.gettempdir()) / f"rh-{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A cluster that answers."""

    url: str
    dashboard_url: str
    bucket: str
    s3_endpoint_url: str | None


def bucket_of(data_dir: Path) -> S3Settings | None:
    """Return the embedded bucket of that data directory, as it was started last; None where there never was one."""
    ports = _read_ports(data_dir / _PORTS_FILE)
    return None if ports is None else settings_of(data_dir / _BUCKET_DIR, ports)


class EmbeddedCluster:
    def __init__(self, place: Place, settings: Settings, say: Callable[[str], None]) -> None:
        self._place = place
        self._settings = settings
        self._say = say
        self._stack = ExitStack()

    def start(self) -> Running:
        """Start all of it and return when it answers. Raises: StartRefused, ServiceError."""
        try:
            return self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop what was started, newest first."""
        self._stack.close()

    def _start(self) -> Running:
        place = self._place
        busy = f"a cluster is running on {place.data_dir} already; `rayhaul down` stops it"
        self._stack.enter_context(locked(place.data_dir, busy=busy))
        # We hold the lock: whatever still runs for this directory lost its `up` to a SIGKILL, and holds its ports.
        _reap(place.data_dir)
        _check_disk(place.data_dir)
        _check_port(place.host, place.port)
        check_exporter(self._settings.otlp)
        settings = with_ledger_key(self._with_bucket(), place.ledger_key_path)
        assert settings.s3.bucket is not None
        ledger_url = settings.ledger.url or place.ledger_url
        self._say("ledger")
        prepare_ledger(settings, ledger_url)
        if not place.key_path.exists():
            make_operator_key(settings, ledger_url, place.key_path, "made at first start")
        self._say("Ray")
        dashboard_url = self._start_ray()
        # Imported only now: Ray and Serve read their environment when they are imported.
        from actors.runtime import dismiss_agents, start_scheduler, stop_scheduler  # noqa: PLC0415
        from serve_app.deployment import run_api  # noqa: PLC0415

        self._say("scheduler and agents")
        start_scheduler(
            settings, ledger_url=ledger_url, bucket=settings.s3.bucket, api_url=seen_from_head(place.host, place.port)
        )
        self._stack.callback(_quietly, lambda: stop_scheduler(timeout_s=3))
        self._stack.callback(_quietly, lambda: dismiss_agents(timeout_s=2))
        self._say("API")
        run_api(settings, ledger_url=ledger_url, host=place.host, port=place.port)
        await_ready(place.url, timeout_s=_READY_TIMEOUT_S)
        write_up_file(
            place.data_dir,
            url=place.url,
            dashboard_url=dashboard_url,
            bucket=settings.s3.bucket,
        )
        self._stack.callback((place.data_dir / "up.json").unlink, missing_ok=True)
        write_last_up(place.data_dir)
        return Running(
            url=place.url,
            dashboard_url=dashboard_url,
            bucket=settings.s3.bucket,
            s3_endpoint_url=settings.s3.endpoint_url,
        )

    def _with_bucket(self) -> Settings:
        """Return the settings with a bucket: the one that is configured, else an embedded one."""
        if self._settings.s3.is_set:
            return self._settings
        self._say("bucket")
        ports_path = self._place.data_dir / _PORTS_FILE
        ports = _read_ports(ports_path)
        if ports is not None and not all(_is_free("127.0.0.1", port) for port in ports):
            ports = None  # links given out earlier will not work, but all else will
        store = Seaweed(self._place.data_dir / _BUCKET_DIR, ports=ports)
        kept = KeptStore(store)
        kept.start()
        self._stack.callback(kept.stop)
        ports_path.write_text(" ".join(map(str, store.ports)))
        # In a store of its own nobody else uploads.
        sweep = self._settings.sweep.model_copy(update={"owns_prefix": True})
        return self._settings.model_copy(update={"s3": store.settings, "sweep": sweep})

    def _start_ray(self) -> str:
        place = self._place
        temp_dir = place.temp_dir
        shutil.rmtree(temp_dir, ignore_errors=True)
        temp_dir.mkdir(mode=0o700)
        self._stack.callback(shutil.rmtree, temp_dir, ignore_errors=True)
        os.environ.update(_ray_environment(place, temp_dir))
        import ray  # noqa: PLC0415 - see above

        self._stack.callback(_reap, place.data_dir)
        self._stack.callback(ray.shutdown)
        for _ in range(_RAY_STARTS_MAX - 1):
            try:
                return self._init_ray(temp_dir)
            except ServiceError as error:
                why = next((why for said, why in _PASSING.items() if said in error.message), None)
                if why is None:
                    raise
                self._say(f"Ray once more: {why}")
                ray.shutdown()
                _reap(place.data_dir)
        return self._init_ray(temp_dir)

    def _init_ray(self, temp_dir: Path) -> str:
        """Return the dashboard's URL. Raises: ServiceError."""
        import ray  # noqa: PLC0415

        from actors.runtime import NAMESPACE  # noqa: PLC0415

        try:
            context = ray.init(
                # Never an existing cluster: one may be running beside us.
                address="local",
                namespace=NAMESPACE,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=free_port("127.0.0.1", _DASHBOARD_PORT),
                resources={"head": 1, "agent": self._settings.scaling.agents_max},
                object_store_memory=_OBJECT_STORE_BYTES,
                log_to_driver=False,
                configure_logging=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(temp_dir),
            )
        except Exception as error:
            # Ray has no error of its own for this; the last line of what it says is the cause.
            said = str(error).strip().splitlines()
            raise ServiceError(f"Ray did not start: {said[-1] if said else type(error).__name__}") from error
        return f"http://{context.dashboard_url}"


def _ray_environment(place: Place, temp_dir: Path) -> dict[str, str]:
    if not place.token_path.exists():
        write_private(place.token_path, secrets.token_hex(32))
    haproxy = temp_dir / "h"
    metrics_port = free_port("0.0.0.0", 9101)  # noqa: S104 - HAProxy binds it so; found free the same way
    stats_port = free_port("0.0.0.0", 8404)  # noqa: S104
    # Serve's own proxies, which take what HAProxy has no replica for yet. They share a port (SO_REUSEPORT) with those
    # of any other cluster on this machine, and a request would now and then be answered by that one.
    fallback_ports = [free_port(place.host, first) for first in (8500, 9500)]
    replica_ports = free_block()
    return {
        _MARK: str(place.data_dir),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(place.token_path),
        "RAY_USAGE_STATS_ENABLED": "0",
        # What Ray's own processes in C++ write becomes JSON, one object a line (rayhaul/log_lines.py reads it).
        "RAY_BACKEND_LOG_JSON": "1",
        # Ray would run its processes at nice 15; moving bytes is what they are for.
        "RAY_worker_niceness": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # Serve gives its ingress 5 s to start: too few on a busy machine.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # What it may not read of clients' headers is taken off before it does.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.edge.before_serve",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replica_ports[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replica_ports[-1]),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        # Not to this machine's syslog: HAProxy writes down whole URLs. Ours are the lines about requests.
        "RAY_SERVE_HAPROXY_LOG_TARGET": "/dev/null",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_ports[0]),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_ports[1]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "2",
    }


def _reap(data_dir: Path) -> None:
    """Kill what is left of a cluster of this data directory, until nothing is.

    HAProxy detaches itself and outlives a killed `up`; and for a moment there are others that would start it again.
    """
    deadline_s = time.monotonic() + _REAP_TIMEOUT_S
    while (left := _carrying(data_dir)) and time.monotonic() < deadline_s:
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_REAP_POLL_S)


def _carrying(data_dir: Path) -> list[int]:
    """Return the processes, but for this one, that a cluster of this data directory started."""
    mark = os.fsencode(f"{_MARK}={data_dir}\0")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes() + b"\0":
                found.append(int(entry.name))
    return found


def _check_disk(data_dir: Path) -> None:
    free = shutil.disk_usage(data_dir).free
    if free < _DISK_FREE_BYTES_MIN:
        raise StartRefused(
            f"only {free // 2**20} MiB are free under {data_dir}; "
            f"at least {_DISK_FREE_BYTES_MIN // 2**20} MiB are needed"
        )


def _check_port(host: str, port: int) -> None:
    if not _is_free(host, port):
        raise StartRefused(f"port {port} on {host} is taken or not ours to bind; choose another one with --port")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(host: str, first: int) -> int:
    """Return the usual port, or where that is taken any free one near it. Raises: StartRefused.

    By chance: of two clusters that start together both would find the same next one free, and one would fail.
    """
    near = list(range(first + 1, first + _PORTS_LOOKED_AT))
    secrets.SystemRandom().shuffle(near)
    for port in (first, *near):
        if _is_free(host, port):
            return port
    raise StartRefused(f"no free port from {first} to {first + _PORTS_LOOKED_AT - 1}")


def free_block() -> range:
    """Return a block of ports for a cluster's replicas, none of them taken. Raises: StartRefused."""
    blocks = [range(first, first + _REPLICA_PORTS_BLOCK) for first in _REPLICA_PORTS[::_REPLICA_PORTS_BLOCK]]
    # Of two clusters that start at the same time each should find one of its own.
    secrets.SystemRandom().shuffle(blocks)
    for block in blocks:
        if all(_is_free("0.0.0.0", port) for port in block):  # noqa: S104 - Serve binds them so
            return block
    raise StartRefused(f"no {_REPLICA_PORTS_BLOCK} free ports in a row from {_REPLICA_PORTS[0]} on")


def _read_ports(path: Path) -> StorePorts | None:
    try:
        return StorePorts(*map(int, path.read_text().split()))
    except (OSError, ValueError, TypeError):
        return None


def _quietly(step: Callable[[], None]) -> None:
    """Stop as well as possible: what fails here must not keep the rest from being stopped."""
    try:
        step()
    except RayhaulError as error:
        log.warning("%s", error.message)
