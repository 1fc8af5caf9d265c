"""cluster.yaml, cluster.local.yaml and aws/: accepted by those who read them, and as safe as they claim."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore import xform_name
from botocore.session import Session
from botocore.validate import ParamValidator
from documents import block
from jsonschema import ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli
from typer.main import get_group

from rayhaul.cli.main import app
from rayhaul.settings import Settings

ROOT = Path(__file__).parents[2]
Config = dict[str, Any]
Change = Callable[[Config], object]
Check = Callable[[Config], bool]
MIB = 1024 * 1024
COMMANDS: dict[str, Any] = {"ray": cli, "rayhaul": get_group(app)}


def read(name: str) -> Config:
    loaded: Config = yaml.safe_load((ROOT / name).read_text())
    return loaded


def starts(config: Config) -> list[str]:
    """Return the commands that start Ray, of the head and of the others."""
    return [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]


def exports(command: str) -> dict[str, str]:
    found = re.search(r"export ([^;]*);", command)
    return dict(pair.split("=", 1) for pair in found[1].split()) if found else {}


def common_faults(config: Config) -> Iterator[str]:
    """Tell what is wrong with a config for any provider."""
    yield from (fault for fault, holds in COMMON.items() if not holds(config))


def object_store_bytes(command: str) -> int:
    found = re.search(r"--object-store-memory=(\d+)", command)
    return int(found[1]) if found else 0


def exported(name: str, value: str) -> Check:
    """Return whether head and workers are started with that in the environment."""
    return lambda config: all(exports(command).get(name) == value for command in starts(config))


def head_has(text: str) -> Check:
    return lambda config: text in starts(config)[0]


def set_up(*texts: str) -> Check:
    return lambda config: any(all(text in command for text in texts) for command in config["setup_commands"])


COMMON: dict[str, Check] = {
    "no token": exported("RAY_AUTH_MODE", "token"),
    "nice": exported("RAY_worker_niceness", "0"),
    "no HAProxy": exported("RAY_SERVE_ENABLE_HA_PROXY", "1"),
    "obeys clients": exported("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve_app.edge.before_serve"),
    "GCS forgets": lambda config: (
        exports(starts(config)[0]).items()
        >= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": "$HOME/ray-gcs"}.items()
    ),
    "large object store": lambda config: all(0 < object_store_bytes(told) <= 256 * MIB for told in starts(config)),
    "open dashboard": head_has("--dashboard-host=127.0.0.1"),
    "work on the head": head_has("--num-cpus=0"),
    "nobody starts workers": head_has("--autoscaling-config=~/ray_bootstrap_config.yaml"),
    "workers find no head": lambda config: "--address=$RAY_HEAD_IP:6379" in starts(config)[1],
    "token not copied": lambda config: any(path.endswith("/.ray/auth_token") for path in config["file_mounts"]),
    "token not private": set_up("chmod 600 ~/.ray/auth_token"),
    "no token in a shell": set_up("RAY_AUTH_MODE=token", ".bashrc"),
}


def aws_faults(config: Config) -> Iterator[str]:
    """Tell what is wrong with a config for AWS."""
    yield from common_faults(config)
    if config["provider"].get("cache_stopped_nodes") is not False:
        yield "stopped nodes are kept"
    if config["provider"].get("use_internal_ips") is not True:
        yield "public addresses"
    if not config["provider"].get("security_group", {}).get("GroupName"):
        yield "a security group of Ray's"
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    if head["resources"] != {"CPU": 0, "head": 1} or "InstanceMarketOptions" in head["node_config"]:
        yield "a head that works or goes"
    agents = [kind for name, kind in types.items() if name != config["head_node_type"]]
    if any(kind["resources"].get("agent") != 1 for kind in agents):
        yield "not one agent a node"
    if {kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") for kind in agents} != {"spot", None}:
        yield "not spot and on-demand"
    for kind in types.values():
        yield from node_faults(kind["node_config"], is_head=kind is head)


def node_faults(node: Config, *, is_head: bool) -> Iterator[str]:
    metadata = node.get("MetadataOptions", {})
    if metadata.get("HttpTokens") != "required" or metadata.get("HttpPutResponseHopLimit") != 1:
        yield "open metadata"
    if not all(
        disk["Ebs"].get("Encrypted") is True and disk["Ebs"].get("VolumeType") == "gp3"
        for disk in node.get("BlockDeviceMappings", [{"Ebs": {}}])
    ):
        yield "plain disk"
    if not node.get("IamInstanceProfile", {}).get("Arn", "").endswith("/rayhaul-head" if is_head else "/rayhaul-agent"):
        yield "wrong role"


def test_the_files_as_they_are() -> None:
    """Nothing is wrong with what is shipped."""
    assert list(aws_faults(read("cluster.yaml"))) == []
    assert list(common_faults(read("cluster.local.yaml"))) == []


def replaced(where: str, old: str, new: str = "") -> Change:
    def change(config: Config) -> None:
        before = config[where]
        config[where] = json.loads(json.dumps(before).replace(old, new))
        assert config[where] != before, f"{old} is not in {where}"

    return change


def node(kind: str, **changes: object) -> Change:
    return lambda config: config["available_node_types"][kind]["node_config"].update(changes)


HEAD, WORKER = "head_start_ray_commands", "worker_start_ray_commands"
AWS_MISTAKES: list[tuple[str, Change]] = [
    ("no token", replaced(HEAD, "RAY_AUTH_MODE=token")),
    ("no token", replaced(WORKER, "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled")),
    ("nice", replaced(WORKER, "RAY_worker_niceness=0")),
    ("no HAProxy", replaced(WORKER, "RAY_SERVE_ENABLE_HA_PROXY=1")),
    ("obeys clients", replaced(WORKER, "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve_app.edge.before_serve")),
    ("GCS forgets", replaced(HEAD, "RAY_gcs_storage=rocksdb")),
    ("GCS forgets", replaced(HEAD, "RAY_gcs_storage_path=$HOME/ray-gcs")),
    ("large object store", replaced(WORKER, "--object-store-memory=134217728")),
    ("open dashboard", replaced(HEAD, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0")),
    ("work on the head", replaced(HEAD, "--num-cpus=0")),
    ("nobody starts workers", replaced(HEAD, "--autoscaling-config=~/ray_bootstrap_config.yaml")),
    ("workers find no head", replaced(WORKER, "$RAY_HEAD_IP", "head")),
    ("token not copied", replaced("file_mounts", "auth_token", "token")),
    ("token not private", replaced("setup_commands", "chmod 600", "chmod 644")),
    ("no token in a shell", replaced("setup_commands", "RAY_AUTH_MODE=token ")),
    ("stopped nodes are kept", lambda config: config["provider"].pop("cache_stopped_nodes")),
    ("public addresses", lambda config: config["provider"].pop("use_internal_ips")),
    ("a security group of Ray's", lambda config: config["provider"].pop("security_group")),
    ("a head that works or goes", lambda config: config["available_node_types"]["head"]["resources"].update(CPU=2)),
    ("a head that works or goes", node("head", InstanceMarketOptions={"MarketType": "spot"})),
    ("not one agent a node", lambda config: config["available_node_types"]["agent_spot"]["resources"].pop("agent")),
    ("not spot and on-demand", node("agent_spot", InstanceMarketOptions={})),
    ("open metadata", node("agent_ondemand", MetadataOptions={"HttpTokens": "optional"})),
    ("open metadata", node("head", MetadataOptions={"HttpTokens": "required", "HttpPutResponseHopLimit": 2})),
    ("plain disk", node("agent_spot", BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeType": "gp3"}}])),
    ("wrong role", node("agent_spot", IamInstanceProfile={"Arn": "arn:aws:iam::0:instance-profile/rayhaul-head"})),
]


@pytest.mark.parametrize(("fault", "change"), AWS_MISTAKES, ids=[f"{n}-{m[0]}" for n, m in enumerate(AWS_MISTAKES)])
def test_a_mistake_is_seen(fault: str, change: Change) -> None:
    """Each of the checks above notices what it is there for."""
    config = read("cluster.yaml")
    change(config)
    assert fault in set(aws_faults(config))


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.local.yaml"])
def test_ray_takes_it(name: str) -> None:
    """Ray's own preparation and schema accept the file, and none of Ray's defaults are left in the start commands."""
    config = read(name)
    prepared = prepare_config(deepcopy(config))
    validate_config(prepared)
    for part in (HEAD, WORKER, "setup_commands", "file_mounts"):
        assert prepared[part] == config[part]
    # And it would not accept anything.
    with pytest.raises(ValidationError):
        validate_config(prepared | {"max_worker": 3})


#: Those that Ray itself runs once.
RUN_ONCE = [*starts(read("cluster.local.yaml")), starts(read("cluster.yaml"))[0]]


@pytest.mark.parametrize("command", RUN_ONCE, ids=["own head", "own worker", "aws head"])
@pytest.mark.parametrize(("failures", "tries", "result"), [(0, 1, 0), (2, 3, 0), (9, 5, 1)])
def test_ray_is_started_once_more(command: str, failures: int, tries: int, result: int, tmp_path: Path) -> None:
    """Where Ray did not start within its own time, what is left of it is stopped and it is started again."""
    stand_in = tmp_path / "ray"
    works = f"[ $1 = stop ] || [ $(grep -c ^start {tmp_path}/calls) -gt {failures} ]"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{works}\n')
    stand_in.chmod(0o755)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD_IP": "192.0.2.10"}
    assert subprocess.run(["bash", "-c", command], env=environment, timeout=60).returncode == result
    calls = [line.split()[0] for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == ["start", "stop"] * (tries - 1) + (["start"] if result == 0 else ["start", "stop"])


def test_ec2_takes_the_nodes() -> None:
    """EC2's own description of RunInstances knows every field of every node, and no other."""
    shape = Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    assert shape is not None

    def report(config: Config) -> str:
        # What Ray makes of it: one subnet, and how many machines (autoscaler/_private/aws/node_provider.py).
        asked = {key: value for key, value in config.items() if key != "SubnetIds"}
        told: str = ParamValidator().validate(asked | {"MinCount": 1, "MaxCount": 1}, shape).generate_report()
        return told

    for kind in read("cluster.yaml")["available_node_types"].values():
        assert report(kind["node_config"]) == ""
        assert "Unknown parameter" in report(kind["node_config"] | {"MetaDataOptions": {}})


def calls_of(script: str, program: str, home: Path) -> list[list[str]]:
    """Run lines of the shell, with one of their programs taken away; return how that is called."""
    (home / "bin").mkdir()
    stand_in = home / "bin" / program
    told = "import json, sys; print(json.dumps(sys.argv[1:]))"
    stand_in.write_text(f"#!/bin/sh\nexec {sys.executable} -S -c '{told}' \"$@\" >> {home}/calls\n")
    stand_in.chmod(0o755)
    environment = {"HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", script], cwd=ROOT, env=environment, check=True, timeout=60)
    return [json.loads(line) for line in (home / "calls").read_text().splitlines()]


def test_the_commands_are_aws_s(tmp_path: Path) -> None:
    """The lines of docs/operations.md call operations that AWS has, with all parameters these need and no others."""
    calls = calls_of(block("AWS"), "aws", tmp_path)
    assert len(calls) == 13
    for call in calls:
        service, operation, *words = call
        assert aws_report(service, operation, dict(zip(words[::2], words[1::2], strict=True))) == "", call
    profiles = {call[-1] for call in calls if "create-instance-profile" in call}
    kinds = read("cluster.yaml")["available_node_types"].values()
    assert {kind["node_config"]["IamInstanceProfile"]["Arn"].rpartition("/")[2] for kind in kinds} == profiles


def aws_report(service: str, operation: str, words: dict[str, str]) -> str:
    """Return what AWS's own description of the operation has against a call; the command line makes its names of it."""
    model = Session().get_service_model(service)
    names = {xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(names[operation]).input_shape
    assert shape is not None
    members = {f"--{xform_name(name, '-')}": name for name in shape.members}
    if operation.startswith("authorize-security-group"):
        # The command line's own, for one entry of IpPermissions.
        members |= {"--protocol": "IpProtocol", "--cidr": "CidrIp", "--source-group": "SourceSecurityGroupName"}
        members |= {"--port": "FromPort"}
    given = {members.get(flag, flag): value for flag, value in words.items()}
    for name, value in given.items():
        if value.startswith("file://"):
            assert json.loads((ROOT / value.removeprefix("file://")).read_text())["Version"] == "2012-10-17"
        if shape.members.get(name) is not None and shape.members[name].type_name == "integer":
            given[name] = int(value)  # type: ignore[assignment]
    told: str = ParamValidator().validate(given, shape).generate_report()
    return told


@pytest.mark.parametrize("script", [block("up on three hosts"), block("upgrade on three hosts")], ids=["up", "upgrade"])
def test_the_commands_are_ray_s(script: str, tmp_path: Path) -> None:
    """Ray takes what docs/operations.md calls it with, and what is run on the head is a command.

    `make drill-rayup` runs them on three hosts.
    """
    # It takes long, and needs an index of packages.
    assert script.startswith("pip wheel --no-deps --wheel-dir dist .")
    calls = calls_of(script.replace("pip wheel", ": "), "ray", tmp_path)
    assert [call[0] for call in calls if call[0] in {"up", "exec"}][-1] == "exec"
    for call in calls:
        check_command(["ray", *call])


def check_command(words: list[str]) -> None:
    """Have the words read as they are when the command is run, and what is to be run elsewhere as well."""
    command, *words = words
    if command in COMMANDS:
        name, *words = words
        context = COMMANDS[command].commands[name].make_context(name, words)
        if name == "exec":
            check_command(shlex.split(context.params["cmd"].removeprefix("RAYHAUL_CONFIG=~/rayhaul-settings.yaml ")))
    else:
        assert command == "cat", command


def test_the_settings_are_settings(tmp_path: Path) -> None:
    """What docs/operations.md has written into a file is read as settings."""
    calls_of(block("up on three hosts").replace("pip wheel", ": "), "ray", tmp_path)
    settings = Settings(**yaml.safe_load((tmp_path / ".rayhaul-cluster" / "settings.yaml").read_text()))
    assert settings.api.replicas == 2


def statements(name: str) -> list[Config]:
    found: list[Config] = json.loads((ROOT / "aws" / name).read_text())["Statement"]
    return found


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_the_policies_are_narrow() -> None:
    """No action is a pattern, only looking is allowed everywhere, and the roles of head and agents hardly overlap."""
    for name in ("head-policy.json", "agent-policy.json"):
        for statement in statements(name):
            assert statement["Effect"] == "Allow"
            actions = listed(statement["Action"])
            assert not any("*" in action for action in actions), statement["Sid"]
            if "*" in listed(statement["Resource"]):
                assert all(action.startswith("ec2:Describe") for action in actions), statement["Sid"]
    agent = {action for statement in statements("agent-policy.json") for action in listed(statement["Action"])}
    head = {action for statement in statements("head-policy.json") for action in listed(statement["Action"])}
    assert all(action.startswith("s3:") for action in agent)
    assert {action for action in head if action.startswith("s3:")} == {"s3:GetObject"}
    assert "s3:DeleteObject" not in agent


def test_the_head_starts_nothing_but_agents() -> None:
    """What the head may start has the agents' role, asks for metadata tokens, and encrypts its disks."""
    by_sid = {statement["Sid"]: statement for statement in statements("head-policy.json")}
    started = by_sid["AddAgents"]["Condition"]
    assert started["StringEquals"]["ec2:MetadataHttpTokens"] == "required"
    assert started["ArnEquals"]["ec2:InstanceProfile"].endswith(":instance-profile/rayhaul-agent")
    assert by_sid["AddAgentsWithEncryptedDisks"]["Condition"] == {"Bool": {"ec2:Encrypted": "true"}}
    cluster = read("cluster.yaml")["cluster_name"]
    assert started["StringEquals"]["aws:RequestTag/ray-cluster-name"] == cluster
    ended = by_sid["UpdateAndRemoveAgents"]["Condition"]["StringEquals"]
    assert ended == {"aws:ResourceTag/ray-cluster-name": cluster}
    assert by_sid["GiveAgentsTheirRoleAlone"]["Resource"].endswith(":role/rayhaul-agent")
    # A statement without a condition names each resource, or a kind that holds no secrets.
    for resource in by_sid["AddAgentsHere"]["Resource"]:
        assert not resource.endswith("*") or re.search(r":(network-interface|spot-instances-request)/\*$", resource)
