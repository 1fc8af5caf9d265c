"""B1 and B7: one large file from an origin to a bucket, by Rayhaul and by its peers, side by side in one run.

B1: wall and CPU from POST to a job that is completed and verified, on two sinks; the peers' from start to exit. CPU is
what moves the bytes: Rayhaul's agents, all processes of a peer. Ways take turns, so that a machine that slows down
slows all of them. B7: the memory of an agent above idle while a file of one size and of eight times that goes through.
Writes bench/results/b1.json and b7.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any, Self

import psutil

from bench import peers, surroundings
from bench.peers import ONE_FILE, Peer, Spent
from bench.surroundings import SINKS, Cluster, Missing, emptied, nginx, rayhaul_up
from rayhaul.settings import S3Settings

RESULTS = Path(__file__).parent / "results"
MIB = 1024**2
RAYHAUL = "rayhaul"
_JOB_TIMEOUT_S = 900
_BLOCK_BYTES = 64 * MIB
#: Wall against the best peer, by sink (measurements.md's targets are the project's own).
_WALL_TARGET = {"rclone": 0.6, "seaweedfs": 0.9}
_CPU_TARGET = 0.6
_MEMORY_TARGET_MIB = 150


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.moving", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the file")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way; medians are told")
    parser.add_argument("--sinks", default=",".join(SINKS), help="of: " + ", ".join(SINKS))
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="on the disk to use")
    arguments = parser.parse_args()
    peers.debian("nginx", "nginx-light")
    ways, told = peers.available(ONE_FILE)
    for sentence in told:
        print(sentence)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.directory) as name:
        directory = Path(name)
        write_file(directory / "www" / "file", arguments.mib)
        with nginx(directory / "www", directory / "nginx") as origin:
            rows = []
            for sink in arguments.sinks.split(","):
                rows += _side_by_side(
                    sink, f"{origin}/file", arguments.mib, ways=ways, rounds=arguments.rounds, directory=directory
                )
        kept = {"mib": arguments.mib, "rounds": arguments.rounds, "leftOut": told, "ways": rows}
        _keep("b1", {**kept, "againstBest": against_best(rows)})
        _print_table(rows)
        write_file(directory / "www" / "large", 8 * arguments.mib)
        with nginx(directory / "www", directory / "nginx-again") as origin:
            grown = _memory(origin, arguments.mib, directory)
    _keep("b7", grown)
    print(json.dumps(grown, indent=2))


def write_file(path: Path, mib: int) -> None:
    """Write a file of chance, which nothing can compress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = os.urandom(_BLOCK_BYTES)
    with path.open("wb") as file:
        for at in range(0, mib * MIB, _BLOCK_BYTES):
            file.write(block[: min(_BLOCK_BYTES, mib * MIB - at)])


def _side_by_side(
    sink_name: str, url: str, mib: int, *, ways: Sequence[Peer], rounds: int, directory: Path
) -> list[dict[str, Any]]:
    spent: defaultdict[str, list[Spent]] = defaultdict(list)
    base = directory / sink_name
    with SINKS[sink_name](base / "store") as sink, rayhaul_up(base / "cluster", sink) as cluster:
        # What a process does for the first time (imports, connections) is not what a file costs.
        one_job(cluster, f"{url}?warm")
        for number in range(rounds):
            spent[RAYHAUL].append(one_job(cluster, f"{url}?{number}"))
            emptied(sink)
            for way in ways:
                scratch = base / "scratch"
                scratch.mkdir(exist_ok=True)
                variables = {"URL": url, "KEY": "file", "SIZE": str(mib * MIB), "SCRATCH": str(scratch)}
                with suppress(CalledProcessError):
                    spent[way.name].append(_tried(way, sink, variables))
                emptied(sink)
    return [_row(sink_name, name, runs, mib) for name, runs in spent.items()]


def _tried(way: Peer, sink: S3Settings, variables: Mapping[str, str]) -> Spent:
    try:
        return peers.run(way, sink, variables)
    except CalledProcessError as error:
        print(f"{way.name} failed: {error.stderr.strip()[-400:]}")
        raise


def one_job(cluster: Cluster, url: str) -> Spent:
    """Have a file moved; return what it took from POST to completed and verified."""
    with cluster.client() as client:
        before = cluster.usage()
        began_s = time.perf_counter()
        client.wait(client.submit(url).id, timeout_s=_JOB_TIMEOUT_S)
        wall_s = time.perf_counter() - began_s
        after = cluster.usage()
    return Spent(wall_s=wall_s, cpu_s=after.cpu_s - before.cpu_s, rss_mib=after.rss_bytes / MIB)


def _row(sink: str, way: str, runs: Sequence[Spent], mib: int) -> dict[str, Any]:
    return {
        "sink": sink,
        "way": way,
        "runs": len(runs),
        "wallS": round(statistics.median(run.wall_s for run in runs), 2),
        "wallSMin": round(min(run.wall_s for run in runs), 2),
        "wallSMax": round(max(run.wall_s for run in runs), 2),
        "cpuSPerGib": round(statistics.median(run.cpu_s for run in runs) * 1024 / mib, 2),
        "rssMib": round(max(run.rss_mib for run in runs)),
    }


class _Highest:
    """The highest RSS of some processes, looked at twenty times a second."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.rss_bytes = 0

    def _look(self) -> None:
        while not self._stop.wait(0.05):
            self.rss_bytes = max(self.rss_bytes, *(process.memory_info().rss for process in self._processes))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _memory(origin: str, mib: int, directory: Path) -> dict[str, Any]:
    """Return how far the agent's memory rose above idle, by the file's size."""
    base = directory / "memory"
    grown: dict[str, float] = {}
    with surroundings.rclone_s3(base / "store") as sink, rayhaul_up(base / "cluster", sink) as cluster:
        one_job(cluster, f"{origin}/file?warm")
        emptied(sink)
        agents = cluster.agents()
        idle = max(agent.memory_info().rss for agent in agents)
        for name, size_mib in (("file", mib), ("large", 8 * mib)):
            with _Highest(agents) as highest:
                one_job(cluster, f"{origin}/{name}?measured")
            emptied(sink)
            grown[f"{size_mib} MiB"] = round((highest.rss_bytes - idle) / MIB, 1)
    return memory_verdict(idle / MIB, grown)


def memory_verdict(idle_mib: float, grown: Mapping[str, float]) -> dict[str, Any]:
    """Return whether it is little, and the same for a file of eight times the size: within a tenth, and two MiB."""
    low, high = min(grown.values()), max(grown.values())
    return {
        "rssIdleMib": round(idle_mib),
        "rssAboveIdleMib": dict(grown),
        "targetMib": _MEMORY_TARGET_MIB,
        "isMet": high <= _MEMORY_TARGET_MIB and high - low <= max(0.1 * high, 2),
    }


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    for sink in dict.fromkeys(row["sink"] for row in rows):
        found = [row for row in rows if row["sink"] == sink]
        ours = next(row for row in found if row["way"] == RAYHAUL)
        print(f"\nsink {sink}\n{'way':32} {'wall s':>8} {'CPU s/GiB':>10} {'RSS MiB':>8} {'wall, ours/its':>15}")
        for row in found:
            print(
                f"{row['way']:32} {row['wallS']:8.2f} {row['cpuSPerGib']:10.2f} {row['rssMib']:8}"
                f" {ours['wallS'] / row['wallS']:15.2f}"
            )
    for told in against_best(rows):
        print(
            f"\n{told['sink']}, against the best peer: wall {told['wall']:.2f} (target {told['wallTarget']}), "
            f"CPU {told['cpu']:.2f} ({told['cpuTarget']}): {'met' if told['isMet'] else 'missed'}"
        )


def against_best(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return our wall and CPU as parts of the best peer's, by sink; nothing of a sink where no peer ran."""
    told = []
    for sink in dict.fromkeys(row["sink"] for row in rows):
        ours = next(row for row in rows if row["sink"] == sink and row["way"] == RAYHAUL)
        others = [row for row in rows if row["sink"] == sink and row["way"] != RAYHAUL]
        if others:
            wall = round(ours["wallS"] / min(row["wallS"] for row in others), 2)
            cpu = round(ours["cpuSPerGib"] / min(row["cpuSPerGib"] for row in others), 2)
            targets = {"wallTarget": _WALL_TARGET[sink], "cpuTarget": _CPU_TARGET}
            is_met = wall <= _WALL_TARGET[sink] and cpu <= _CPU_TARGET
            told.append({"sink": sink, "wall": wall, "cpu": cpu, **targets, "isMet": is_met})
    return told


def _keep(name: str, found: Mapping[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main()
        except Missing as missing:
            raise SystemExit(str(missing)) from missing
