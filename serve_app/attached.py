"""The attached start: Rayhaul on a Ray cluster that runs already; started there, brought up to date, stopped.

Laws of this file:
1. What can be known to fail is found before anything is changed, and said in one sentence.
2. All that it starts outlives it (detached actors), and all that a job needs lies in ledger and bucket: whatever runs
   may be stopped at any time, and the next start goes on.
3. The old scheduler has stopped writing before the ledger is migrated, and is gone before the new one starts.
"""

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from actors.runtime import NAMESPACE, SCHEDULER, dismiss_agents, start_scheduler, stop_scheduler
from rayhaul.errors import Unavailable
from rayhaul.settings import Settings
from rayhaul.trace_export import check_exporter
from serve_app.deployment import listens_at, run_api, stop_api
from serve_app.starting import (
    StartRefused,
    await_ready,
    check_ledger,
    locked,
    make_operator_key,
    prepare_ledger,
    seen_from_head,
    with_ledger_key,
)

#: An agent cancels its transfers and sends a last report.
_GOODBYE_S = 10.0
#: A turn with a slow disk, and the ledger's connections closed.
_SCHEDULER_STOP_S = 30.0
#: Ray forgets a killed actor's name within a second or two; a node that is being lost takes longer.
_ACTORS_GONE_S = 60.0
#: Requests and event streams under way are given their time by Serve, and HAProxy its own.
_API_GONE_S = 120.0
_POLL_S = 0.1
_KNOCK_S = 5.0
_SERVE_NAMESPACE = "serve"
#: The resource that Ray itself gives to the head's node alone.
_HEAD_NODE = "node:__internal_head__"
_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which Ray cluster, and where on it the API listens."""

    address: str
    host: str
    port: int
    #: Of the machine that deploys: holds the operator's key, and the ledger where that is SQLite's.
    data_dir: Path
    #: Longest wait for the first agent, seconds.
    ready_s: float

    @property
    def key_path(self) -> Path:
        return self.data_dir / "api-key"

    @property
    def ledger_key_path(self) -> Path:
        return self.data_dir / "ledger-key"

    def ledger_url(self, settings: Settings) -> str:
        return settings.ledger.url or f"sqlite:///{self.data_dir / 'ledger.db'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    url: str
    ledger_url: str
    nodes_count: int


def deploy(target: Target, settings: Settings, say: Say) -> Deployed:
    """Start or renew the control plane on a running Ray cluster; return when it is ready.

    Raises: StartRefused, ServiceError, Unavailable.
    """
    busy = f"{target.data_dir} is in use: by another `rayhaul deploy`, or by a cluster that `rayhaul down` stops"
    with locked(target.data_dir, busy=busy), _attached(target.address):
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        ledger_url = target.ledger_url(settings)
        check(settings, ledger_url, nodes)
        check_exporter(settings.otlp)
        settings = with_ledger_key(settings, target.ledger_key_path)
        _check_port(target)
        check_ledger(settings, ledger_url)
        if _stop_actors(say):
            say("what ran has been stopped; jobs that were running go on in a moment")
        say("ledger …")
        knows_keys = prepare_ledger(settings, ledger_url)
        if not knows_keys:
            make_operator_key(settings, ledger_url, target.key_path, "made at first deployment")
        assert settings.s3.bucket is not None, "checked above"
        say("scheduler and agents …")
        start_scheduler(
            settings, ledger_url=ledger_url, bucket=settings.s3.bucket, api_url=seen_from_head(target.host, target.port)
        )
        say("API …")
        run_api(settings, ledger_url=ledger_url, host=target.host, port=target.port)
        url = f"http://{_reach(target.host, nodes)}:{target.port}"
        if not any("agent" in node["Resources"] for node in nodes):
            say("no node has the resource `agent` yet; waiting for one to join …")
        await_ready(url, timeout_s=target.ready_s)
    return Deployed(url=url, ledger_url=ledger_url, nodes_count=len(nodes))


def undeploy(address: str, say: Say) -> bool:
    """Stop API, scheduler and agents; ledger and bucket stay. Tell whether there was anything to stop.

    Raises: StartRefused, Unavailable.
    """
    with _attached(address):
        is_served = listens_at() is not None
        if is_served:
            say("stopping the API …")
            stop_api()
            _await_gone(_SERVE_NAMESPACE, _API_GONE_S)
        return _stop_actors(say) or is_served


def check(settings: Settings, ledger_url: str, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raises: StartRefused where these nodes (as `ray.nodes()` gives them) cannot carry this."""
    if not settings.s3.is_set:
        raise StartRefused(
            "no bucket is configured: set RAYHAUL_S3__BUCKET (and endpoint and keys where they are needed); "
            "a cluster of many machines cannot share an embedded one"
        )
    machines = {node["NodeManagerAddress"] for node in nodes}
    if ledger_url.startswith("sqlite") and len(machines) > 1:
        raise StartRefused(
            f"the ledger is SQLite, which is for one machine, and the cluster has {len(machines)}: "
            "set RAYHAUL_LEDGER__URL=postgresql://…"
        )
    if not any("head" in node["Resources"] for node in nodes):
        raise StartRefused(
            "no node has the resource `head`, on which the scheduler runs: "
            """start the head with --resources='{"head": 1}'"""
        )


def _check_port(target: Target) -> None:
    found = listens_at()
    if found is not None and found != (target.host, target.port):
        raise StartRefused(
            f"the API listens on {found[0]} port {found[1]}: give the same --host and --port, "
            "or `rayhaul undeploy` first"
        )


@contextmanager
def _attached(address: str) -> Iterator[None]:
    """Be a driver of the Ray cluster at `address`. Raises: StartRefused."""
    try:
        _knock(address)
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StartRefused(f"no Ray cluster to be had at {address!r} from this machine: {cause}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raises: OSError where nobody listens: Ray itself would try for minutes, and then end this process."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _reach(host: str, nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return an address at which an API that listens on `host` can be asked: the head always has an ingress."""
    if host not in _EVERY_ADDRESS:
        return host
    return next(str(node["NodeManagerAddress"]) for node in nodes if _HEAD_NODE in node["Resources"])


def _stop_actors(say: Say) -> bool:
    """Stop scheduler and agents of an earlier deployment; tell whether there were any.

    Agents go first and say goodbye: what they had in hand is handed back and charged to nobody. What does not go
    by itself is killed: what it had not reported is done again under new leases, and what it had is in the ledger.

    Raises: Unavailable where one does not go away.
    """
    names = _names(NAMESPACE)
    if SCHEDULER in names:
        dismiss_agents(_GOODBYE_S)
        try:
            stop_scheduler(timeout_s=_SCHEDULER_STOP_S)
        except Unavailable as error:
            # What it had committed stands, and what it had not was promised to nobody.
            say(f"{error.message}; it is killed")
    for name in sorted(_names(NAMESPACE), key=lambda name: name != SCHEDULER):
        # ValueError: it has gone by itself.
        with suppress(ValueError):
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    _await_gone(NAMESPACE, _ACTORS_GONE_S)
    return bool(names)


def _names(namespace: str) -> list[str]:
    named = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in named if actor["namespace"] == namespace]


def _await_gone(namespace: str, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while left := _names(namespace):
        if time.monotonic() > deadline_s:
            raise Unavailable(f"not stopped within {timeout_s:g} s: {', '.join(left)}; nothing new has been started")
        time.sleep(_POLL_S)


def make_key(target: Target, settings: Settings) -> None:
    """Make another operator's key; needs the ledger and no Ray. Raises: StartRefused, ServiceError, Unavailable."""
    if target.key_path.exists():
        raise StartRefused(f"there is a key in {target.key_path} already")
    with locked(target.data_dir, busy=f"{target.data_dir} is in use"):
        ledger_url = target.ledger_url(settings)
        if target.ledger_key_path.exists():
            settings = with_ledger_key(settings, target.ledger_key_path)
        # Else none is made here: those who run elsewhere on this ledger would not have it, and be locked out.
        prepare_ledger(settings, ledger_url)
        make_operator_key(settings, ledger_url, target.key_path, "made by `rayhaul deploy --key-only`")
