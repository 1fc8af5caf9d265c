"""B4: what the API adds to what Ray Serve costs by itself. Both stand behind one ingress and are asked in turns.

POST /jobs answers when the job is fsynced; GET /jobs/{id} reads the ledger. Beside them a deployment that does nothing
is asked the same way, with the same bodies. The one agent looks at an origin that never answers, so that nothing but
the door is at work. Latency at 100 a second is that of an open loop: it counts from when a request was due. Writes
bench/results/b4.json.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from bench import noop, wrk
from bench.moving import RESULTS
from bench.surroundings import SINKS, Cluster, Missing, rayhaul_up
from bench.wrk import Asked, Load

_TARGETS = {"POST": 0.35, "GET": 0.5}
_P95_TARGET_MS = 25
#: Jobs that GET asks for in turn.
_JOBS = 1000
_RATE_PER_S = 100
_WARM_UP_S = 2
_DEPLOYED_S = 60.0
_SETTINGS = {"RAYHAUL_API__RATE_PER_MINUTE": "100000000", "RAYHAUL_AGENT__PROBE_SLOTS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.api", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; medians are told")
    parser.add_argument("--connections", default="1,16,64", help="at once, separated by commas")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="on the disk to use")
    arguments = parser.parse_args()
    wrk.wrk()
    counts = [int(number) for number in arguments.connections.split(",")]
    with (
        tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.directory) as name,
        mute_origin() as origin,
        SINKS["rclone"](Path(name) / "store") as sink,
        rayhaul_up(Path(name) / "cluster", sink, settings=_SETTINGS) as cluster,
    ):
        deploy_noop(cluster)
        pairs = _pairs(cluster, origin)
        for pair in pairs.values():
            for asked in pair:
                wrk.run(cluster.url, asked, connections=4, duration_s=_WARM_UP_S)
        rows = [
            _row(method, pair, cluster.url, connections=count, rounds=arguments.rounds, seconds=arguments.seconds)
            for count in counts
            for method, pair in pairs.items()
        ]
        steady = {
            whose: asyncio.run(_at_a_rate(cluster.url, asked, arguments.seconds))
            for whose, asked in zip(("ours", "noop"), pairs["POST"], strict=True)
        }
    found = {
        "cores": os.cpu_count(),
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "requests": rows,
        "postAt100PerS": {**steady, "p95TargetMs": _P95_TARGET_MS},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "b4.json").write_text(json.dumps(found, indent=2) + "\n")
    _print_table(rows, steady)


@contextmanager
def mute_origin() -> Iterator[str]:
    """Yield the URL of somebody who takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def deploy_noop(cluster: Cluster) -> None:
    """Have the deployment that does nothing answer at `noop.PATH` of this cluster."""
    raylet, *_ = cluster.processes("raylet/raylet")
    address = re.search(r"--gcs-address=(\S+)", " ".join(raylet.cmdline()))
    assert address is not None, raylet.cmdline()
    # What the cluster was started with, its token above all.
    theirs = {name: value for name, value in raylet.environ().items() if name.startswith(("RAY_SERVE_", "RAY_AUTH_"))}
    command = [sys.executable, "-m", noop.__name__, address[1]]
    subprocess.run(command, env=os.environ | theirs, check=True, capture_output=True)
    # The ingress learns of it a moment later; until then the API answers that there is no such route.
    deadline_s = time.monotonic() + _DEPLOYED_S
    while True:
        try:
            urllib.request.urlopen(f"{cluster.url}{noop.PATH}/", timeout=5).close()
        except urllib.error.URLError:
            assert time.monotonic() < deadline_s, "the deployment does not answer"
            time.sleep(0.1)
        else:
            return


def _pairs(cluster: Cluster, origin: str) -> Mapping[str, tuple[Asked, Asked]]:
    """Return by method what is asked of us, and the same of the deployment that does nothing."""
    body = json.dumps({"url": f"{origin}/NUMBER", "tags": {"bench": "b4"}})
    headers = {"Authorization": f"Bearer {cluster.key}", "Content-Type": "application/json"}
    with cluster.client() as client:
        ids = client.submit_many(f"{origin}/first/{number}" for number in range(_JOBS))
    nothing = (f"{noop.PATH}/",)
    return {
        "POST": (
            Asked(method="POST", paths=("/jobs",), headers=headers, body=body),
            Asked(method="POST", paths=nothing, headers=headers, body=body),
        ),
        "GET": (
            Asked(method="GET", paths=[f"/jobs/{job_id}" for job_id in ids], headers=headers),
            Asked(method="GET", paths=nothing, headers=headers),
        ),
    }


def _row(
    method: str, pair: tuple[Asked, Asked], url: str, *, connections: int, rounds: int, seconds: int
) -> dict[str, Any]:
    """Return medians, and the median of the rounds' ratios: a machine that slows down slows both of a round."""
    runs: list[tuple[Load, Load]] = []
    for _ in range(rounds):
        ours, theirs = (wrk.run(url, asked, connections=connections, duration_s=seconds) for asked in pair)
        runs.append((ours, theirs))
    return {
        "method": method,
        "connections": connections,
        "perS": round(statistics.median(ours.requests_per_s for ours, _ in runs)),
        "p50Ms": round(statistics.median(ours.p50_ms for ours, _ in runs), 2),
        "p95Ms": round(statistics.median(ours.p95_ms for ours, _ in runs), 2),
        "noopPerS": round(statistics.median(theirs.requests_per_s for _, theirs in runs)),
        "noopP50Ms": round(statistics.median(theirs.p50_ms for _, theirs in runs), 2),
        "ratio": round(statistics.median(ours.requests_per_s / theirs.requests_per_s for ours, theirs in runs), 2),
        "ratioAll": [round(ours.requests_per_s / theirs.requests_per_s, 2) for ours, theirs in runs],
        "target": _TARGETS[method],
    }


async def _at_a_rate(url: str, asked: Asked, seconds: int) -> dict[str, float]:
    """Return the latencies of requests that come whether or not the ones before them were answered."""
    assert asked.body is not None
    body = asked.body
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        began_s = time.perf_counter()

        async def ask(number: int) -> float:
            due_s = began_s + number / _RATE_PER_S
            await asyncio.sleep(due_s - time.perf_counter())
            data = body.replace("NUMBER", f"steady/{number}")
            async with session.post(f"{url}{asked.paths[0]}", data=data, headers=asked.headers) as answer:
                assert answer.status == 201, await answer.text()
                await answer.read()
            return (time.perf_counter() - due_s) * 1000

        asking = [group.create_task(ask(number)) for number in range(seconds * _RATE_PER_S)]
    cuts = statistics.quantiles((task.result() for task in asking), n=100)
    return {"p50Ms": round(cuts[49], 2), "p95Ms": round(cuts[94], 2), "p99Ms": round(cuts[98], 2)}


def _print_table(rows: Sequence[Mapping[str, Any]], steady: Mapping[str, Mapping[str, float]]) -> None:
    print(
        f"{'':5} {'connections':>11} {'per s':>7} {'p50 ms':>7} {'p95 ms':>7} {'no-op':>7} {'ratio':>6} {'target':>7}"
    )
    for row in rows:
        print(
            f"{row['method']:5} {row['connections']:11} {row['perS']:7} {row['p50Ms']:7.2f} {row['p95Ms']:7.2f}"
            f" {row['noopPerS']:7} {row['ratio']:6.2f} {row['target']:7}"
        )
    for whose, latency in steady.items():
        print(
            f"POST at {_RATE_PER_S}/s, {whose}: p50 {latency['p50Ms']} ms, p95 {latency['p95Ms']} ms,"
            f" p99 {latency['p99Ms']} ms" + (f" (target: p95 below {_P95_TARGET_MS} ms)" if whose == "ours" else "")
        )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main()
        except Missing as missing:
            raise SystemExit(str(missing)) from missing
