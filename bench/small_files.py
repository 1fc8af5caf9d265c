"""B2: many small files from an origin to a bucket, by Rayhaul with its full ledger and by rclone, in one run.

Rayhaul's time runs from the first POST /jobs/batch until every job is completed; rclone's from start to exit. Writes
bench/results/b2.json.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bench import peers
from bench.moving import RESULTS
from bench.peers import MANY_FILES
from bench.surroundings import SINKS, Cluster, Missing, emptied, nginx, rayhaul_up

_DEADLINE_S = 600
#: Each look costs the machine that is measured.
_POLL_S = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.small_files", description=__doc__)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--bytes", type=int, default=20_000, help="of each file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sinks", default=",".join(SINKS), help="of: " + ", ".join(SINKS))
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="on the disk to use")
    arguments = parser.parse_args()
    peers.debian("nginx", "nginx-light")
    rows = []
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.directory) as name:
        directory = Path(name)
        names = _write_files(directory / "www", arguments.files, arguments.bytes)
        with nginx(directory / "www", directory / "nginx") as origin:
            urls = [f"{origin}/{name}" for name in names]
            for sink in arguments.sinks.split(","):
                rows.append(_side_by_side(sink, urls, arguments.rounds, directory))
                print(json.dumps(rows[-1], indent=2, ensure_ascii=False))
    RESULTS.mkdir(exist_ok=True)
    kept = {"files": arguments.files, "bytes": arguments.bytes, "rounds": arguments.rounds, "sinks": rows}
    (RESULTS / "b2.json").write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def _write_files(root: Path, count: int, size_bytes: int) -> list[str]:
    names = [f"{number // 1000}/{number}.bin" for number in range(count)]
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size_bytes))
    return names


def _side_by_side(sink_name: str, urls: list[str], rounds: int, directory: Path) -> dict[str, object]:
    base = directory / sink_name
    list_path = directory / f"{sink_name}.csv"
    list_path.write_text("".join(f"{url},{url.rpartition('/')[2]}\n" for url in urls))
    ours: list[float] = []
    theirs: list[float] = []
    runnable, told = peers.available((MANY_FILES,))
    if not runnable:
        raise Missing("; ".join(told))
    with SINKS[sink_name](base / "store") as sink, rayhaul_up(base / "cluster", sink) as cluster:
        _all_done_s(cluster, [f"{url}?warm" for url in urls[:100]])
        for number in range(rounds):
            emptied(sink)
            ours.append(_all_done_s(cluster, [f"{url}?{number}" for url in urls]))
            emptied(sink)
            theirs.append(peers.run(MANY_FILES, sink, {"LIST": str(list_path), "KEY": "list"}).wall_s)
    median_s, peer_s = statistics.median(ours), statistics.median(theirs)
    return {
        "sink": sink_name,
        "filesPerS": round(len(urls) / median_s),
        "filesPerSAll": [round(len(urls) / wall_s) for wall_s in ours],
        MANY_FILES.name: round(len(urls) / peer_s),
        "ratio": round(peer_s / median_s, 2),
        "target": 1.0,
    }


def _all_done_s(cluster: Cluster, urls: list[str]) -> float:
    """Return the seconds from asking for all of them until all are completed."""
    with cluster.client() as client:
        tag = {"run": f"{time.time_ns()}"}
        began_s = time.perf_counter()
        client.submit_many({"url": url, "tags": tag} for url in urls)
        left = ("queued", "downloading", "uploading")
        while any(client.list(status=status, tag=f"run:{tag['run']}", limit=1).jobs for status in left):
            assert time.perf_counter() - began_s < _DEADLINE_S, "not all done in time"
            time.sleep(_POLL_S)
        wall_s = time.perf_counter() - began_s
        failed = client.list(status="failed", tag=f"run:{tag['run']}", limit=1).jobs
        assert not failed, failed[0].error
    return wall_s


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main()
        except Missing as missing:
            raise SystemExit(str(missing)) from missing
