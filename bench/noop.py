"""A Serve deployment that does nothing, set up as Rayhaul's API is: what Ray, its ingress and FastAPI cost alone.

`python -m bench.noop ADDRESS` deploys it at /noop on a Ray cluster that runs already, and returns. The class is
pickled by value, as everything of `__main__` is: the replicas need not find this file.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import ray
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from ray import serve

APP = "noop"
PATH = "/noop"


def _deployment() -> serve.Application:
    place = {"num_cpus": 0, "resources": {"head": 0.001}}

    @serve.deployment(name=APP, max_ongoing_requests=4096, ray_actor_options=place)
    @serve.ingress()
    class Noop:
        def __serve_build_asgi_app__(self) -> FastAPI:
            app = FastAPI()

            @app.get("/")
            async def nothing() -> dict[str, bool]:
                return {"ok": True}

            @app.post("/", status_code=201)
            async def nothing_with_a_body(request: Request) -> dict[str, bool]:
                await request.body()
                return {"ok": True}

            @app.get("/events")
            async def clock(first_s: float, every_s: float) -> StreamingResponse:
                return StreamingResponse(ticks(first_s, every_s), media_type="text/event-stream")

            return app

    async def ticks(first_s: float, every_s: float) -> AsyncIterator[str]:
        """Yield an event at `first_s`, by the wall clock, and each `every_s` from there, with the time it was due."""
        # One so that the client has its answer at once.
        yield ":\n\n"
        for number in itertools.count():
            due_s = first_s + number * every_s
            await asyncio.sleep(max(0.0, due_s - time.time()))
            event = json.dumps({"seq": number, "ts": datetime.fromtimestamp(due_s, UTC).isoformat()})
            yield f"id: {number}\nevent: tick\ndata: {event}\n\n"

    deployment: Any = Noop
    application: serve.Application = deployment.bind()
    return application


def main() -> None:
    ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
    serve.run(_deployment(), name=APP, route_prefix=PATH)
    ray.shutdown()


if __name__ == "__main__":
    main()
