"""kubernetes/rayservice.yaml: accepted by Ray Serve, in agreement with itself, and as locked down as it claims."""

import json
import warnings
from pathlib import Path
from typing import Any

import yaml

from rayhaul.settings import Settings

with warnings.catch_warnings():
    # Serve's own models use what pydantic will drop one day.
    warnings.simplefilter("ignore", DeprecationWarning)
    from ray.serve.schema import ServeDeploySchema

    from serve_app.deployment import APP, app_builder, place_of_replicas

ROOT = Path(__file__).parents[2]
Config = dict[str, Any]


def rayservice() -> tuple[Config, Config]:
    """Return the RayService and the NetworkPolicy."""
    service, policy = yaml.safe_load_all((ROOT / "kubernetes" / "rayservice.yaml").read_text())
    return service, policy


def test_serve_takes_the_rayservice() -> None:
    """Ray Serve's schema accepts `serveConfigV2`, and what it names is there."""
    service, _ = rayservice()
    config = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = config.applications
    assert (application.name, application.route_prefix) == (APP, "/")
    assert application.import_path == f"{app_builder.__module__}:{app_builder.__name__}"
    # A number of replicas that only Serve knows would not be shared by their rate limits, nor spread over the nodes.
    assert list(application.deployments) == []


def test_the_rayservice_agrees_with_itself() -> None:
    """One agent a worker, as many as there may be workers; the same image, settings and switches everywhere."""
    cluster = rayservice()[0]["spec"]["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    head = cluster["headGroupSpec"]
    (head_pod,) = head["template"]["spec"]["containers"]
    (worker_pod,) = workers["template"]["spec"]["containers"]
    # Quoted once more, for KubeRay puts the words into a shell's command line.
    assert json.loads(json.loads(workers["rayStartParams"]["resources"].strip("'"))) == {"agent": 1}
    assert json.loads(json.loads(head["rayStartParams"]["resources"].strip("'"))) == {"head": 1}
    assert head["rayStartParams"]["num-cpus"] == "0"
    environment = {entry["name"]: entry["value"] for entry in worker_pod["env"]}
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert environment["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == "serve_app.edge.before_serve"
    assert environment["RAYHAUL_SCALING__AGENTS_MAX"] == str(workers["maxReplicas"])
    assert environment["RAYHAUL_SCALING__AGENTS_MIN"] == str(workers["minReplicas"])
    settings = Settings.model_validate(
        {
            "api": {"replicas": environment["RAYHAUL_API__REPLICAS"]},
            "scaling": {"agents_min": 1, "agents_max": environment["RAYHAUL_SCALING__AGENTS_MAX"]},
        }
    )
    assert settings.scaling.agents_max == workers["maxReplicas"]
    assert "resources" not in place_of_replicas(settings)
    for field in ("image", "envFrom", "env", "securityContext"):
        assert head_pod[field] == worker_pod[field]
    assert cluster["rayVersion"] in (ROOT / "setup.cfg").read_text().split("ray[serve]==")[1].splitlines()[0]
    assert f"rayproject/ray:{cluster['rayVersion']}-" in (ROOT / "kubernetes" / "Dockerfile").read_text()
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"]


def test_the_pods_are_locked_down() -> None:
    """No root, no capabilities, no credentials for Kubernetes on agents; strangers reach the API's port alone."""
    service, policy = rayservice()
    cluster = service["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]
    for template in templates:
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        # The policy speaks of these pods.
        assert template["metadata"]["labels"].items() >= policy["spec"]["podSelector"]["matchLabels"].items()
    assert templates[1]["spec"]["automountServiceAccountToken"] is False
    open_to_all = [rule["ports"] for rule in policy["spec"]["ingress"] if "from" not in rule]
    assert open_to_all == [[{"port": 8000}]]


def test_where_replicas_go() -> None:
    """One stays on the head. Several ask for something that each node has: Ray spreads no others, but draws lots."""
    one, several = (place_of_replicas(Settings.model_validate({"api": {"replicas": count}})) for count in (1, 3))
    assert one == {"num_cpus": 0, "resources": {"head": 0.001}}
    assert several["num_cpus"] == 0
    assert "resources" not in several
    assert several["memory"] > 0
