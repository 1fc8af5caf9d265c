"""B6: a thousand event streams at once. How late an event is, from its commit to its client, and what a stream costs.

First each stream follows a job of its own; then each follows all jobs, and every event goes to all of them. Events
are made by pausing and resuming queued jobs, at a rate, while the agent looks at an origin that never answers. The
lag is the client's clock, when it has the bytes, less the event's `ts`; all clients are one process, so their own
waiting is in it. Every stream must get each of its events once. Beside us, in the same run, as many streams of a
deployment that does nothing but tell the time are open, with as many events: what Serve, its ingress and the client
cost alone. Memory is what the replica's and the ingress's processes grow by while streams that have nothing to tell
are opened. Writes bench/results/b6.json.
"""

import argparse
import asyncio
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from bench import noop
from bench.api import deploy_noop, mute_origin
from bench.moving import RESULTS
from bench.surroundings import SINKS, Cluster, Missing, rayhaul_up
from rayhaul import AsyncClient
from rayhaul.client.sse import SseParser

_LAG_TARGET_MS = 250
#: Events a second: of a thousand jobs that each tell something every 20 s, and of all to everybody.
_OWN_PER_S = 50
_ALL_PER_S = 2
#: Streams opened at once.
_OPENING = 50
_SETTLE_S = 3.0
_PATIENCE_S = 20.0
#: Time for all streams to be opened before the first tick.
_OPENED_S = 20.0
_SETTINGS = {
    "RAYHAUL_API__RATE_PER_MINUTE": "100000000",
    "RAYHAUL_AGENT__PROBE_SLOTS": "1",
    # None of them ends within a run.
    "RAYHAUL_API__SSE_AGE_S_MAX": "86400",
}
#: By what its command line says.
_PROCESSES = {"replica": "ServeReplica:rayhaul:api", "ingress": "haproxy"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=30, help="of each part")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="on the disk to use")
    arguments = parser.parse_args()
    settings = {**_SETTINGS, "RAYHAUL_API__SSE_STREAMS_MAX": str(2 * arguments.streams)}
    settings["RAYHAUL_API__SSE_STREAMS_PER_USER_MAX"] = settings["RAYHAUL_API__SSE_STREAMS_MAX"]
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.directory) as name,
        mute_origin() as origin,
        SINKS["rclone"](Path(name) / "store") as sink,
        rayhaul_up(Path(name) / "cluster", sink, settings=settings) as cluster,
    ):
        deploy_noop(cluster)
        found = asyncio.run(_measured(cluster, origin, arguments.streams, arguments.seconds))
    found = {"cores": os.cpu_count(), "seconds": arguments.seconds, **found, "lagP99TargetMs": _LAG_TARGET_MS}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "b6.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


async def _measured(cluster: Cluster, origin: str, streams: int, seconds: int) -> dict[str, Any]:
    async with AsyncClient(cluster.url, cluster.key) as client:
        jobs = await client.submit_many(f"{origin}/{number}" for number in range(streams))
        own_paths = [f"/jobs/{job_id}/events" for job_id in jobs]
        # What is there for the first stream already is not what a stream costs.
        async with _open(cluster, own_paths[:_OPENING]):
            await asyncio.sleep(_SETTLE_S)
        await asyncio.sleep(_SETTLE_S)
        before = _rss_bytes(cluster)
        async with _open(cluster, own_paths) as heard:
            await asyncio.sleep(_SETTLE_S)
            after = _rss_bytes(cluster)
            own = await _told(client, jobs, heard, rate_per_s=_OWN_PER_S, seconds=seconds, hearers=1)
        # Fresh ones, none of which is paused.
        jobs = await client.submit_many(f"{origin}/again/{number}" for number in range(streams))
        async with _open(cluster, ["/events"] * streams) as heard:
            everything = await _told(client, jobs, heard, rate_per_s=_ALL_PER_S, seconds=seconds, hearers=streams)
    noop_own = await _ticked(cluster, streams, seconds, every_s=streams / _OWN_PER_S, apart_s=1 / _OWN_PER_S)
    noop_all = await _ticked(cluster, streams, seconds, every_s=1 / _ALL_PER_S, apart_s=0.0)
    return {
        "streams": streams,
        "kibPerIdleStream": {name: round((after[name] - before[name]) / 1024 / streams, 1) for name in _PROCESSES},
        "replicaRssMib": {"before": round(before["replica"] / 1024**2), "open": round(after["replica"] / 1024**2)},
        "eachItsOwnJob": own,
        "eachAllJobs": everything,
        "noop": {"eachItsOwn": noop_own, "eachAll": noop_all},
    }


class _Heard:
    """What all streams have got: how late each event of these kinds came, milliseconds."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._kinds = kinds
        self.lags_ms: list[float] = []
        #: By (stream, seq): how often it came.
        self.times: Counter[tuple[int, int]] = Counter()
        self._more = asyncio.Event()

    async def at_least(self, count: int) -> None:
        while len(self.lags_ms) < count:
            self._more.clear()
            await self._more.wait()

    async def read(self, stream: int, response: aiohttp.ClientResponse) -> None:
        parser = SseParser()
        async with response:
            async for received in response.content.iter_any():
                now_s = time.time()
                for sent in parser.feed(received):
                    if sent.event in self._kinds:
                        event = json.loads(sent.data)
                        self.lags_ms.append((now_s - datetime.fromisoformat(event["ts"]).timestamp()) * 1000)
                        self.times[stream, event["seq"]] += 1
                        self._more.set()


@asynccontextmanager
async def _open(
    cluster: Cluster, paths: Sequence[str], kinds: Sequence[str] = ("paused", "resumed")
) -> AsyncIterator[_Heard]:
    """Yield what is heard on these streams, when all of them are open."""
    heard, gate = _Heard(kinds), asyncio.Semaphore(_OPENING)
    timeout = aiohttp.ClientTimeout(total=None)
    headers = {"Authorization": f"Bearer {cluster.key}", "Accept": "text/event-stream"}
    async with AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))

        async def open_one(number: int, path: str) -> asyncio.Task[None]:
            async with gate:
                response = await session.get(f"{cluster.url}{path}", headers=headers)
            assert response.status == 200, await response.text()
            return asyncio.create_task(heard.read(number, response))

        reading = await asyncio.gather(*(open_one(number, path) for number, path in enumerate(paths)))
        try:
            yield heard
            assert not any(task.done() for task in reading), "a stream has ended"
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


async def _told(
    client: AsyncClient, jobs: Sequence[str], heard: _Heard, *, rate_per_s: int, seconds: int, hearers: int
) -> dict[str, Any]:
    """Have jobs paused and resumed in turn, and return how late those who listen got to know."""
    count = rate_per_s * seconds
    turns = itertools.cycle([*((client.pause, job) for job in jobs), *((client.resume, job) for job in jobs)])
    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, (act, job) in zip(range(count), turns, strict=False):
            await asyncio.sleep(began_s + number / rate_per_s - time.perf_counter())
            group.create_task(act(job))
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            await heard.at_least(count * hearers)
    assert len(heard.times) == count * hearers, f"{len(heard.times)} of {count * hearers} came"
    assert max(heard.times.values()) == 1, "an event came twice"
    return {"eventsPerS": rate_per_s, **_lags(heard)}


async def _ticked(cluster: Cluster, streams: int, seconds: int, *, every_s: float, apart_s: float) -> dict[str, Any]:
    """Return how late the ticks of the deployment that does nothing come, the streams' first ones `apart_s`."""
    begin_s = time.time() + _OPENED_S
    paths = [f"{noop.PATH}/events?first_s={begin_s + number * apart_s}&every_s={every_s}" for number in range(streams)]
    async with _open(cluster, paths, kinds=("tick",)) as heard:
        assert time.time() < begin_s, "the streams were not open in time"
        await asyncio.sleep(begin_s + seconds - time.time())
        return _lags(heard)


def _lags(heard: _Heard) -> dict[str, Any]:
    cuts = statistics.quantiles(heard.lags_ms, n=100)
    return {
        "received": len(heard.lags_ms),
        "lagP50Ms": round(cuts[49], 1),
        "lagP99Ms": round(cuts[98], 1),
        "lagMaxMs": round(max(heard.lags_ms), 1),
    }


def _rss_bytes(cluster: Cluster) -> dict[str, int]:
    return {
        name: sum(process.memory_info().rss for process in cluster.processes(told)) for name, told in _PROCESSES.items()
    }


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main()
        except Missing as missing:
            raise SystemExit(str(missing)) from missing
