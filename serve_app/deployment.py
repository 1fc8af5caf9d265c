"""Ray, half two: the API as a Ray Serve application behind Serve's own ingress."""

import asyncio
import logging
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.log_files import ClusterLines, NodeLines, joined, read_directory, session_directory
from actors.process import settle
from actors.runtime import RayScheduler, start_scheduler, tell_metrics
from rayhaul import log
from rayhaul.errors import ServiceError, Unavailable
from rayhaul.ids import IdFactory
from rayhaul.ledger.store import open_ledger
from rayhaul.log_lines import Wanted
from rayhaul.metrics import Meter
from rayhaul.settings import Settings
from rayhaul.trace_export import check_exporter
from rayhaul.tracing import OFF, Tracer
from serve_app.app import create_app
from serve_app.starting import StartRefused, prepare_ledger, seen_from_head
from tasks.sink import Sink

logger = logging.getLogger(__name__)

APP = "rayhaul"
#: Where Serve listens unless it is told otherwise (docs.ray.io, HTTPOptions).
_SERVE_DEFAULT = ("127.0.0.1", 8000)
#: Requests and event streams one replica carries at once; a stream is one of them for as long as it is open.
_ONGOING_MAX = 4096
#: Longest wait for the log lines of a node; a process may have to be started there first.
_NODE_LINES_S = 20.0
#: What one of several replicas asks for: so little that any node has it.
_MEMORY_BYTES = 1024 * 1024
_LOGGING = LoggingConfig(encoding="JSON", log_level="WARNING", enable_access_log=False)


@serve.deployment(
    name="api",
    max_ongoing_requests=_ONGOING_MAX,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=2,
    # An upgrade starts the new replica before it stops the old one, also where there is only one.
    max_surge_percent=100,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class Api:
    """A replica: it reads the ledger itself and asks the scheduler for the rest."""

    _tracer: Tracer = OFF

    def __init__(self, settings: Settings, ledger_url: str) -> None:
        replica = IdFactory()("api")
        log.setup("api", settings.log_level, secrets=settings.secrets, file_bytes_max=log.FILE_BYTES_MAX)
        self._ledger = open_ledger(settings.ledger, ledger_url, read_only=True)
        # Presigning is arithmetic: the sink is never connected here.
        self._links = Sink(settings.s3, meter=Meter(), connections_max=1)
        self._app = create_app(
            plane=RayScheduler(),
            ledger=self._ledger,
            links=self._links,
            settings=settings,
            replica=replica,
            logs=_ClusterLogs(),
        )
        # Whichever replica is asked for the metrics: what the others have counted is in the sum.
        meter = self._app.state.replica.meter
        self._telling = asyncio.get_running_loop().create_task(tell_metrics(replica, meter))
        self._tracer = self._app.state.replica.tracer
        settle()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def __del__(self) -> None:
        # Serve calls it when the replica is stopped.
        self._tracer.close()


class _ClusterLogs:
    """The log files of all nodes (ports.LogReader): here by this process, elsewhere by a Ray task.

    No process of ours has to live there: it is the lines of those that died that are looked for.
    """

    async def read(self, wanted: Wanted, lines_max: int) -> ClusterLines:
        try:
            async with asyncio.timeout(_NODE_LINES_S):
                nodes = [node["NodeID"] for node in await asyncio.to_thread(ray.nodes) if node["Alive"]]
        except (RayError, TimeoutError) as error:
            raise Unavailable("Ray's control service does not answer") from error
        here = ray.get_runtime_context().get_node_id()
        looks = [self._look_at(node, wanted, lines_max) for node in nodes if node != here]
        found = await asyncio.gather(asyncio.to_thread(_node_lines, wanted, lines_max), *looks)
        return joined([look for look in found if look is not None], lines_max, nodes_count=len(nodes))

    async def _look_at(self, node_id: str, wanted: Wanted, lines_max: int) -> NodeLines | None:
        reader: Any = ray.remote(_node_lines)
        options = {"num_cpus": 0, "max_retries": 0, "enable_task_events": False}
        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        try:
            async with asyncio.timeout(_NODE_LINES_S):
                look: NodeLines = await reader.options(**options, scheduling_strategy=there).remote(wanted, lines_max)
                return look
        except (RayError, TimeoutError) as error:
            logger.warning("no log lines from node %s: %s", node_id, type(error).__name__)
            return None


def _node_lines(wanted: Wanted, lines_max: int) -> NodeLines:
    return read_directory(session_directory(), wanted, lines_max)


def run_api(settings: Settings, *, ledger_url: str, host: str, port: int) -> None:
    """Start Serve's ingress on host and port, and the API behind it; return when it answers.

    Where the API runs already, its replicas are replaced one after the other. Raises: ServiceError where it cannot.
    """
    try:
        _run_api(settings, ledger_url, host, port)
    except (RayError, RuntimeError, TimeoutError) as error:
        cause = str(error).strip().splitlines()
        raise ServiceError(f"Ray Serve did not start: {cause[-1] if cause else type(error).__name__}") from error


def listens_at() -> tuple[str, int] | None:
    """Return (host, port) of the ingress that runs on this Ray cluster; None where Serve does not run."""
    # Serve has no public way to ask; it would take new options and say in its log that it ignores them.
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else (client.http_config.host, client.http_config.port)


def stop_api() -> None:
    """Stop the API and Serve with it; requests under way have a moment to end."""
    serve.shutdown()  # type: ignore[no-untyped-call]


def app_builder(arguments: dict[str, Any]) -> serve.Application:
    """Return the API for a Serve config file (KubeRay's RayService), after starting the scheduler, which starts agents.

    Serve calls it in a task of its own on a node of the cluster: settings are that node's environment.

    Raises: StartRefused, ServiceError, Unavailable; Serve reports the deployment as failed and says why.
    """
    if arguments:
        raise StartRefused("the application takes no arguments: its settings are RAYHAUL_… in the environment")
    settings = Settings()
    if settings.s3.bucket is None or settings.ledger.url is None:
        raise StartRefused("bucket and ledger must be set: RAYHAUL_S3__BUCKET and RAYHAUL_LEDGER__URL")
    check_exporter(settings.otlp)
    prepare_ledger(settings, settings.ledger.url)
    host, port = listens_at() or _SERVE_DEFAULT
    api_url = seen_from_head(host, port)
    start_scheduler(settings, ledger_url=settings.ledger.url, bucket=settings.s3.bucket, api_url=api_url)
    return _application(settings, settings.ledger.url)


def _run_api(settings: Settings, ledger_url: str, host: str, port: int) -> None:
    # Serve announces each step to the terminal; those who start it say what there is to say.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    http_options: dict[str, Any] = {"host": host, "port": port}
    serve.start(proxy_location=ProxyLocation.EveryNode, http_options=http_options, logging_config=_LOGGING)
    serve.run(_application(settings, ledger_url), name=APP, route_prefix="/", logging_config=_LOGGING)


def _application(settings: Settings, ledger_url: str) -> serve.Application:
    deployment: Any = Api
    app: serve.Application = deployment.options(
        num_replicas=settings.api.replicas,
        ray_actor_options=place_of_replicas(settings),
        logging_config=_LOGGING,
    ).bind(settings, ledger_url)
    return app


def place_of_replicas(settings: Settings) -> dict[str, Any]:
    """Return what a replica's node must have. A single one stays on the head: a node with a replica is never idle.

    Several are spread over the nodes, which then stay. Ray spreads only what asks for something: whatever needs nothing
    goes to a node that is drawn by lot, and all replicas may meet on one.
    """
    needed = {"resources": {"head": 0.001}} if settings.api.replicas == 1 else {"memory": _MEMORY_BYTES}
    return {"num_cpus": 0, **needed}
