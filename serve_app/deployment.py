"""Ray, half two: the API as a Ray Serve application behind Serve's own ingress."""

import logging
import os
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import ProxyLocation
from ray.serve.schema import LoggingConfig

from actors.runtime import RayScheduler
from rayhaul import log
from rayhaul.errors import ServiceError
from rayhaul.ledger.store import open_ledger
from rayhaul.metrics import Meter
from rayhaul.settings import Settings
from serve_app.app import create_app
from tasks.sink import Sink

APP = "rayhaul"
#: Requests and event streams one replica carries at once; a stream is one of them for as long as it is open.
_ONGOING_MAX = 4096


@serve.deployment(
    name="api",
    max_ongoing_requests=_ONGOING_MAX,
    graceful_shutdown_wait_loop_s=0.2,
    graceful_shutdown_timeout_s=2,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class Api:
    """A replica: it reads the ledger itself and asks the scheduler for the rest."""

    def __init__(self, settings: Settings, ledger_url: str) -> None:
        log.setup("api", settings.log_level)
        replica = f"api/{os.getpid()}"
        self._ledger = open_ledger(settings.ledger, ledger_url, read_only=True)
        # Presigning is arithmetic: the sink is never connected here.
        self._links = Sink(settings.s3, meter=Meter(), connections_max=1)
        self._app = create_app(
            plane=RayScheduler(), ledger=self._ledger, links=self._links, settings=settings, replica=replica
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


def run_api(settings: Settings, *, ledger_url: str, host: str, port: int) -> None:
    """Start Serve's ingress on host and port, and the API behind it; return when it answers.

    Raises: ServiceError where Serve cannot start.
    """
    try:
        _run_api(settings, ledger_url, host, port)
    except (RayError, RuntimeError, TimeoutError) as error:
        cause = str(error).strip().splitlines()
        raise ServiceError(f"Ray Serve did not start: {cause[-1] if cause else type(error).__name__}") from error


def _run_api(settings: Settings, ledger_url: str, host: str, port: int) -> None:
    # Serve announces each step to the terminal; `up` says what there is to say.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    logging_config = LoggingConfig(encoding="JSON", log_level="WARNING", enable_access_log=False)
    http_options: dict[str, Any] = {"host": host, "port": port}
    serve.start(proxy_location=ProxyLocation.EveryNode, http_options=http_options, logging_config=logging_config)
    deployment: Any = Api
    app = deployment.options(num_replicas=settings.api.replicas, logging_config=logging_config)
    serve.run(app.bind(settings, ledger_url), name=APP, route_prefix="/", logging_config=logging_config)
