"""A real Ray cluster that grows and shrinks, on one machine: the head, autoscaler v2, and a raylet for each node.

A node is a raylet that Ray's own fake provider starts and kills; the autoscaler that tells it to, the GCS and the
raylets are the real ones. Ray's `AutoscalingCluster` would do the same, but it begins and ends with `ray stop --force`,
and its base file is missing from the wheel.

    with autoscaled(directory) as ray:
        ray.nodes()                # the head alone, until an actor asks for the resource `agent`
        ray.deploy(store.settings, {"RAYHAUL_SCALING__AGENTS_MAX": "3"})
        ray.client().submit(...)
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedded import eventually, free_port

from rayhaul import Client
from rayhaul.settings import S3Settings
from serve_app.embedded import free_block

#: In the environment of every process of the cluster: how they are found at the end, however that came.
_MARK = "RAYHAUL_TEST_AUTOSCALED"
#: What the fake provider expects its head to be called (ray.autoscaler._private.fake_multi_node.node_provider).
_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
_HEAD_TYPE = "ray.head.default"
_PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_UP_TIMEOUT_S = 300
_STOP_TIMEOUT_S = 20
#: Ray gives its head 30 seconds to start, whatever else the machine is doing, and then gives up.
_STARTS_MAX = 3
_MIB = 1024 * 1024
#: Ray refuses less than 75 MB for a node's object store.
_OBJECT_STORE_BYTES = 80 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as the GCS knows it, dead ones included."""

    node_id: str
    is_head: bool
    is_alive: bool
    started_at_s: float
    ended_at_s: float | None


class Autoscaled:
    def __init__(self, directory: Path, *, nodes_max: int = 3, idle_timeout_s: float = 6) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.gcs_port, self.dashboard_port, self.port = free_port(), free_port(), free_port()
        self.log_path = directory / "ray-start.log"
        # HAProxy's socket lies below it, in at most 97 characters.
        self.temp_dir = Path(tempfile.mkdtemp(prefix="rhas-"))
        self._nodes_max = nodes_max
        self._idle_timeout_s = idle_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._token = secrets.token_hex(32)
        self._token_path = directory / "ray-token"
        self._token_path.write_text(self._token)
        self._token_path.chmod(0o600)
        self._serve_environment = _serve_environment(self.temp_dir / "h")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.gcs_port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What the cluster's processes, and those that connect to it, find in their environment."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAYHAUL_", "RAY_"))}
        return kept | {
            _MARK: str(self.directory),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token_path),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": str(self.temp_dir),
            "RAY_worker_niceness": "0",
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # All of it on loopback, as where Ray knows one node only; else it would look up this machine's address.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            **self._serve_environment,
        }

    def start(self) -> None:
        """Start the head and the autoscaler; return when the GCS knows the head."""
        for _ in range(_STARTS_MAX):
            self._start_head()
            eventually(lambda: self._is_over() or self._is_up(), within_s=_UP_TIMEOUT_S, what="Ray's head is up")
            if not self._is_over():
                return
            self._kill()
        raise AssertionError(self.log_path.read_text())

    def _start_head(self) -> None:
        config_path = self.directory / "autoscaling.json"
        config_path.write_text(json.dumps(self._config()))
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(config_path),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**self.environment, **_head_environment()},
                start_new_session=True,
            )

    def _is_over(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _is_up(self) -> bool:
        with suppress(OSError):
            return [node.is_alive for node in self.nodes()] == [True]
        return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.directory / "data" / "api-key").read_text().strip()

    def client(self) -> Client:
        return Client(self.url, self.key)

    def deploy(self, bucket: S3Settings, settings: Mapping[str, str]) -> None:
        """Put Rayhaul on it, as `rayhaul deploy` does; return when an agent is online."""
        assert bucket.secret_access_key is not None
        command = [sys.executable, "-m", "serve_app.deploy", "--address", self.address]
        target = ["--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.directory / "data")]
        done = subprocess.run(
            [*command, *target],
            env={
                **self.environment,
                "RAYHAUL_EGRESS__ALLOW": "127.0.0.1/32",
                "RAYHAUL_S3__ENDPOINT_URL": str(bucket.endpoint_url),
                "RAYHAUL_S3__BUCKET": str(bucket.bucket),
                "RAYHAUL_S3__ACCESS_KEY_ID": str(bucket.access_key_id),
                "RAYHAUL_S3__SECRET_ACCESS_KEY": bucket.secret_access_key.get_secret_value(),
                **settings,
            },
            capture_output=True,
            text=True,
            timeout=_UP_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs("worker-*.err")

    def stop(self) -> None:
        """Stop it, and kill what is left of it, the raylets of its nodes included; delete its temporary directory."""
        if self._process is not None and not self._is_over():
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        self._kill()
        if self._process is not None:
            self._process.wait(_STOP_TIMEOUT_S)
        shutil.rmtree(self.temp_dir)

    def _kill(self) -> None:
        def are_gone() -> bool:
            left = self.processes()
            for pid in left:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        eventually(are_gone, within_s=_STOP_TIMEOUT_S, what="all of its processes are gone")

    def processes(self, name: str = "") -> dict[int, str]:
        """Return the cluster's processes whose command line contains `name`: pid -> command line."""
        found = {}
        mark = os.fsencode(f"{_MARK}={self.directory}\0")
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                environment = (entry / "environ").read_bytes() + b"\0"
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if mark in environment and name in command:
                found[int(entry.name)] = command
        return found

    def nodes(self) -> Sequence[Node]:
        """Return the GCS's list of nodes, the oldest first. Raises: OSError."""
        return sorted(map(_node, self._listed("nodes")), key=lambda node: node.started_at_s)

    def actors(self) -> Mapping[str, str]:
        """Return where the actors are that live: name -> node id. Raises: OSError."""
        return {row["name"]: row["node_id"] for row in self._listed("actors") if row["state"] == "ALIVE"}

    def _listed(self, what: str) -> Sequence[Mapping[str, Any]]:
        """Ask Ray's dashboard, which asks the GCS."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.dashboard_port}/api/v0/{what}?detail=1&limit=1000",
            headers={"Authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            rows: Sequence[Mapping[str, Any]] = json.load(response)["data"]["result"]["result"]
        return rows

    def logs(self, pattern: str) -> str:
        """Return what files of the session's log directory hold, while it runs."""
        return "\n".join(path.read_text() for path in sorted(self.temp_dir.glob(f"session_2*/logs/{pattern}")))

    def _command(self, config_path: Path) -> Sequence[str]:
        ports = {
            "--port": self.gcs_port,
            "--dashboard-port": self.dashboard_port,
            "--ray-client-server-port": free_port(),
            "--dashboard-agent-listen-port": free_port(),
            "--min-worker-port": 0,
            "--max-worker-port": 0,
        }
        return [
            str(Path(sys.executable).with_name("ray")),
            *("start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
            *(f"{option}={port}" for option, port in ports.items()),
            *("--num-cpus=1", '--resources={"head": 1}', f"--object-store-memory={_OBJECT_STORE_BYTES}"),
            *(f"--temp-dir={self.temp_dir}", f"--autoscaling-config={config_path}"),
        ]

    def _config(self) -> Mapping[str, Any]:
        """Return what a cluster.yaml says elsewhere: one agent a node, and none on the head."""
        node = {"CPU": 1, "agent": 1, "object_store_memory": _OBJECT_STORE_BYTES}
        return {
            "cluster_name": "rayhaul-test",
            "max_workers": self._nodes_max,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": self._idle_timeout_s / 60,
            "provider": {
                "type": "external",
                "module": _PROVIDER,
                "gcs_address": self.address,
                "head_node_id": _HEAD_ID,
                "launch_multiple": True,
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "head_node_type": _HEAD_TYPE,
            "available_node_types": {
                _HEAD_TYPE: {"resources": {"CPU": 1, "head": 1}, "node_config": {}, "max_workers": 0},
                "agent": {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": self._nodes_max},
            },
            # Ray fills these in by itself for its own clouds, but not for an external provider.
            **{name: [] for name in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
            "cluster_synced_files": [],
        }


def _serve_environment(haproxy: Path) -> Mapping[str, str]:
    """Return what keeps Serve's ingress apart from that of other clusters on this machine."""
    replica_ports = free_block()
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replica_ports[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replica_ports[-1]),
        # A machine that other tests keep busy must not look like an ingress that is broken.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "2",
    }


def _head_environment() -> Mapping[str, str]:
    return {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "AUTOSCALER_METRIC_PORT": str(free_port()),
        "DASHBOARD_METRIC_PORT": str(free_port()),
        "RAY_enable_autoscaler_v2": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
    }


def _node(row: Mapping[str, Any]) -> Node:
    ended_ms = row.get("end_time_ms")
    return Node(
        node_id=row["node_id"],
        is_head=row["is_head_node"],
        is_alive=row["state"] == "ALIVE",
        started_at_s=row["start_time_ms"] / 1000,
        ended_at_s=ended_ms / 1000 if ended_ms else None,
    )


@contextmanager
def autoscaled(directory: Path, *, nodes_max: int = 3, idle_timeout_s: float = 6) -> Iterator[Autoscaled]:
    """Yield a running cluster and stop it."""
    cluster = Autoscaled(directory, nodes_max=nodes_max, idle_timeout_s=idle_timeout_s)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
