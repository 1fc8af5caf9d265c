"""The API as one ASGI application: wiring only."""

import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from actors.log_files import LocalLogs
from actors.ports import ControlPlane, LogReader
from rayhaul.alert_file import read_objectives
from rayhaul.ledger.base import Ledger
from rayhaul.metrics import Meter
from rayhaul.settings import Settings
from rayhaul.trace_export import open_tracer
from serve_app import (
    agents,
    dlq,
    events,
    jobs,
    keys,
    log_lines,
    openapi,
    operations,
    pages,
    parts,
    problems,
    receipts,
    session,
    slos,
    webhooks,
)
from serve_app.auth import Keyring
from serve_app.context import Context
from serve_app.feed import Feed
from serve_app.limits import Limiter
from serve_app.live import Live
from serve_app.replica import Links, Replica
from tasks.guard import AddressGuard
from tasks.schemes import SourceRules

__all__ = ["Links", "create_app", "document"]

#: Where there are no files, there are no lines.
_NO_LOGS = LocalLogs()


def create_app(
    *,
    plane: ControlPlane,
    ledger: Ledger,
    links: Links,
    settings: Settings,
    replica: str,
    logs: LogReader = _NO_LOGS,
    clock: Callable[[], float] = time.time,
) -> FastAPI:
    """Return the API. Writes and live state go through `plane`; `ledger` is only read.

    `replica` names this process in the cluster's metrics. The application needs no lifespan events; call
    `app.state.replica.feed.close()` before it goes away, to send its event streams elsewhere at once, and
    `app.state.replica.tracer.close()`.
    """
    meter = Meter()
    tracer = open_tracer(settings.otlp, "api", meter, instance=replica)
    live = Live(plane)
    guard = AddressGuard(settings.egress)
    limiter = Limiter(settings.api, meter=meter, clock=clock)
    app = _application()
    problems.install(app)
    app.add_middleware(Context, meter=meter, limiter=limiter, body_bytes_max=settings.api.body_bytes_max, tracer=tracer)
    app.state.limiter = limiter
    app.state.keyring = Keyring(ledger, plane.note_keys_used, keep_s=settings.api.key_cache_s, clock=clock)
    app.state.replica = Replica(
        name=replica,
        plane=plane,
        ledger=ledger,
        links=links,
        settings=settings,
        clock=clock,
        meter=meter,
        guard=guard,
        sources=SourceRules(settings, guard),
        keyring=app.state.keyring,
        live=live,
        logs=logs,
        objectives=read_objectives(),
        feed=Feed(ledger=ledger, live=live, meter=meter, settings=settings.api, clock=clock),
        tracer=tracer,
    )
    return app


def document() -> dict[str, Any]:
    """Return the OpenAPI document, which hangs on no setting and no cluster."""
    return openapi.describe(_application())


def _application() -> FastAPI:
    app = FastAPI(
        title="Rayhaul",
        version=version("rayhaul"),
        # FastAPI's own pages load scripts from elsewhere, which would run with the session of whoever is signed in.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        # Ours are the metrics and the log lines; the framework's would show what a caller sent.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
    )
    for room in (
        jobs,
        parts,
        receipts,
        events,
        dlq,
        agents,
        operations,
        slos,
        webhooks,
        keys,
        log_lines,
        session,
        pages,
    ):
        app.include_router(room.routes)
    app.openapi = partial(openapi.describe, app)  # type: ignore[method-assign]
    return app
