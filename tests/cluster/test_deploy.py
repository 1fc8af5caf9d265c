"""`rayhaul deploy` and `undeploy` on a real Ray that grows by itself; and Serve's own way, which is KubeRay's."""

import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from secrets import token_bytes

import pytest
import yaml
from autoscaled import Autoscaled
from documents import block, with_texts
from embedded import Embedded, eventually
from origin import Origin, content_sha256
from test_cluster import MIB, sha256_of_object
from test_listening import listeners

from rayhaul import Client
from rayhaul.job import FINAL, JobStatus
from rayhaul.settings import S3Settings
from serve_app.seaweed import Seaweed

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 400


def as_environment(bucket: S3Settings) -> dict[str, str]:
    assert bucket.secret_access_key is not None
    return {
        "RAYHAUL_S3__ENDPOINT_URL": str(bucket.endpoint_url),
        "RAYHAUL_S3__BUCKET": str(bucket.bucket),
        "RAYHAUL_S3__ACCESS_KEY_ID": str(bucket.access_key_id),
        "RAYHAUL_S3__SECRET_ACCESS_KEY": bucket.secret_access_key.get_secret_value(),
        "RAYHAUL_EGRESS__ALLOW": "127.0.0.1/32",
    }


class Attached(Autoscaled):
    """A Ray cluster whose nodes have the settings in their environment too, as pods have."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        super().__init__(directory, nodes_max=1, idle_timeout_s=600)
        self.settings = settings

    @property
    def environment(self) -> Mapping[str, str]:
        return {**super().environment, **self.settings}

    def run(self, command: str, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ours against this cluster, with these settings and no others."""
        environment = {name: value for name, value in self.environment.items() if not name.startswith("RAYHAUL_S3")}
        return subprocess.run(
            [sys.executable, "-m", "rayhaul.cli.main", command, *words],
            env={**environment, **settings},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def attach(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        where = ("--address", self.address, "--host", "127.0.0.1", "--data-dir", str(self.directory / "data"))
        return self.run("deploy", *where, "--port", str(self.port), *words, **settings)

    def undeploy(self) -> subprocess.CompletedProcess[str]:
        return self.run("undeploy", "--address", self.address)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory, store: Seaweed) -> Iterator[Attached]:
    directory = tmp_path_factory.mktemp("attached") / "ray"
    ledger_url = f"sqlite:///{directory}/ledger.db"
    # Serve's own way has no data directory: what the ledger is sealed with is in the environment, as the bucket is.
    ledger = {"RAYHAUL_LEDGER__URL": ledger_url, "RAYHAUL_LEDGER__SECRET_KEY": b64encode(token_bytes(32)).decode()}
    cluster = Attached(directory, as_environment(store.settings) | ledger)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_deploy_without_a_bucket(ray: Attached) -> None:
    """A cluster of many machines has no bucket of its own: one sentence, exit code 2, nothing started."""
    refused = ray.attach()
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "no bucket is configured: set RAYHAUL_S3__BUCKET" in refused.stderr
    assert ray.processes("SchedulerActor") == {}


def test_deploy_where_no_ray_is(ray: Attached, store: Seaweed) -> None:
    """No Ray at that address: one sentence, exit code 2."""
    nowhere = ray.run("deploy", "--address", "127.0.0.1:9", **as_environment(store.settings))
    assert nowhere.returncode == 2, nowhere.stdout + nowhere.stderr
    assert "no Ray cluster to be had at '127.0.0.1:9'" in nowhere.stderr
    assert "Traceback" not in nowhere.stderr


def test_deploy_and_undeploy(ray: Attached, store: Seaweed, origin: Origin) -> None:
    """Deployed while the agent's node is not there yet; a job is done; undeployed, and nothing of it is left."""
    deployed = ray.attach(**as_environment(store.settings))
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    assert "waiting for one to join" in deployed.stdout
    with ray.client() as client:
        job = client.wait(client.submit(origin.add("short.bin", size=9 * MIB, seed=4)).id, timeout_s=120)
        assert sha256_of_object(client, job.id) == content_sha256(4, 9 * MIB)
        printed = _printed_in_a_ray_task(ray, origin.add("task.bin", size=MIB, seed=5))
        (newest,) = client.list(limit=1).jobs
        assert newest.result is not None
        assert printed == newest.result.key
        assert sha256_of_object(client, newest.id) == content_sha256(5, MIB)
    _undeploy(ray)


def _printed_in_a_ray_task(ray: Attached, url: str) -> str:
    """Run the document's example against this cluster; return what it printed last."""
    ours = {
        '"RAYHAUL_URL": "https://…"': f'"RAYHAUL_URL": "{ray.url}"',
        '"RAYHAUL_API_KEY": "…"': f'"RAYHAUL_API_KEY": "{ray.key}"',
        "https://files.example/data.bin": url,
    }
    text = with_texts(block("in a Ray task"), ours)
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**ray.environment, "RAY_ADDRESS": ray.address},
        cwd=ray.directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def _undeploy(ray: Attached) -> None:
    stopped = ray.undeploy()
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "stopped" in stopped.stdout
    for name in ("SchedulerActor", "AgentActor", "ServeReplica", "haproxy"):
        assert ray.processes(name) == {}, name


@pytest.mark.drill
def test_deploy_renew_and_undeploy(ray: Attached, store: Seaweed, origin: Origin) -> None:
    """Renewed under a running job; stopped; and the job goes on."""
    settings = as_environment(store.settings)
    url = origin.add("long.bin", size=48 * MIB, seed=5, rate_bytes_per_s=MIB)

    first = ray.attach(**settings)
    assert first.returncode == 0, first.stdout + first.stderr
    key_path = ray.directory / "data" / "api-key"
    assert key_path.stat().st_mode & 0o777 == 0o600
    key = ray.key
    with ray.client() as client:
        job_id = client.submit(url, connections=2).id
        eventually(lambda: client.get(job_id).progress.bytes > MIB, within_s=60, what="it has begun")

        scheduler = ray.processes("SchedulerActor")
        broken = ray.attach(**settings, RAYHAUL_LEDGER__URL="postgresql://nobody@127.0.0.1:9/none")
        assert broken.returncode == 1, broken.stdout + broken.stderr
        assert "Traceback" not in broken.stderr
        assert ray.processes("SchedulerActor") == scheduler, "what can be known to fail has stopped nothing"

        again = ray.attach(**settings)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "what ran has been stopped" in again.stdout
        assert ray.processes("SchedulerActor") != scheduler
        assert ray.key == key
        assert client.get(job_id).status not in FINAL

        elsewhere = ray.run("deploy", "--address", ray.address, "--port", "1", **settings)
        assert elsewhere.returncode == 2
        assert f"the API listens on 127.0.0.1 port {ray.port}" in elsewhere.stderr

    _undeploy(ray)
    assert "nothing runs there" in ray.undeploy().stdout

    key_path.unlink()
    third = ray.attach(**settings)
    assert third.returncode == 0, third.stdout + third.stderr
    # The ledger knows a key: another one is made only where it is asked for.
    assert not key_path.exists()
    with Client(ray.url, key) as client:
        done = client.wait(job_id, timeout_s=120)
        assert done.requeues <= 2
        assert sha256_of_object(client, job_id) == content_sha256(5, 48 * MIB)
    made = ray.attach("--key-only", **settings)
    assert made.returncode == 0, made.stderr
    assert ray.key != key
    with ray.client() as client:
        assert client.get(job_id).status is JobStatus.COMPLETED
    assert ray.attach("--key-only", **settings).returncode == 2
    assert ray.undeploy().returncode == 0


@pytest.mark.drill
def test_the_rayservice_s_application(ray: Attached, cluster: Embedded, origin: Origin) -> None:
    """What kubernetes/rayservice.yaml tells Serve starts scheduler, agents and API, and a job is done.

    Another cluster runs on this machine. Serve's proxies set SO_REUSEPORT: on a port that both have, the kernel would
    give a request to either, and who asks is unknown to the other one.
    """
    service, _ = yaml.safe_load_all((ROOT / "kubernetes" / "rayservice.yaml").read_text())
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    config["http_options"] = {"host": "127.0.0.1", "port": ray.port}
    config_path = ray.directory / "serve.yaml"
    config_path.write_text(yaml.safe_dump(config))
    (ray.directory / "data" / "api-key").unlink(missing_ok=True)
    told = subprocess.run(
        [str(Path(sys.executable).with_name("serve")), "deploy", str(config_path)],
        env={**ray.environment, "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{ray.dashboard_port}"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    made = ray.attach("--key-only")
    assert made.returncode == 0, made.stderr
    with ray.client() as client:
        eventually(lambda: _status(f"{ray.url}/readyz") == 200, within_s=120, what="the application is ready")
        job = client.wait(client.submit(origin.add("one.bin", size=MIB, seed=6)).id, timeout_s=60)
        assert sha256_of_object(client, job.id) == content_sha256(6, MIB)
    ours = {(address, port) for _, address, port in listeners(ray)}
    assert len(ours) > 10
    assert not ours & {(address, port) for _, address, port in listeners(cluster)}
    assert ray.undeploy().returncode == 0


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status)
    except OSError as error:
        return getattr(error, "code", 0)
