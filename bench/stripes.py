"""B5: one file from an origin that limits each connection, with one agent and with four, side by side in one run.

The limit is nginx's `limit_rate`: what more agents bring is more connections, each with the same limit. The sink is one
that takes parts in any order; rclone's server writes them into one file, from the first to the last.
Writes bench/results/b5.json.
"""

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import peers
from bench.moving import RESULTS, one_job, write_file
from bench.surroundings import SINKS, Missing, emptied, nginx, rayhaul_up
from rayhaul.settings import S3Settings

_AGENTS = (1, 4)
#: Of the time with one agent, against that with four.
_SPEEDUP_TARGET = 3.6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stripes", description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the file")
    parser.add_argument("--rate-kib", type=int, default=1024, help="KiB/s that the origin gives to one connection")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each way; medians are told")
    parser.add_argument("--sink", default="seaweedfs", choices=tuple(SINKS))
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="on the disk to use")
    arguments = parser.parse_args()
    peers.debian("nginx", "nginx-light")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.directory) as name:
        directory = Path(name)
        write_file(directory / "www" / "file", arguments.mib)
        limit = f"limit_rate {arguments.rate_kib}k;"
        with (
            nginx(directory / "www", directory / "nginx", more=limit) as origin,
            SINKS[arguments.sink](directory / "store") as sink,
        ):
            taken = _runs(f"{origin}/file", sink, rounds=arguments.rounds, directory=directory)
    rows = [_row(agents, runs, arguments.mib, taken[1]) for agents, runs in taken.items()]
    found = {"mib": arguments.mib, "rateKibPerConnection": arguments.rate_kib, "rounds": arguments.rounds, "ways": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "b5.json").write_text(json.dumps(found, indent=2) + "\n")
    _print_table(rows)


def _runs(url: str, sink: S3Settings, *, rounds: int, directory: Path) -> dict[int, list[float]]:
    """Return how long each run took, in seconds, by the number of agents."""
    taken: defaultdict[int, list[float]] = defaultdict(list)
    for number in range(rounds):
        for agents in _AGENTS:
            with rayhaul_up(directory / f"cluster-{agents}-{number}", sink, agents=agents) as cluster:
                taken[agents].append(one_job(cluster, f"{url}?{agents}-{number}").wall_s)
            emptied(sink)
    return taken


def _row(agents: int, runs: Sequence[float], mib: int, alone: Sequence[float]) -> dict[str, Any]:
    wall_s = statistics.median(runs)
    return {
        "agents": agents,
        "runs": len(runs),
        "wallS": round(wall_s, 2),
        "mibPerS": round(mib / wall_s, 1),
        "speedup": round(statistics.median(alone) / wall_s, 2),
    }


def _print_table(rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{'agents':>6} {'wall s':>8} {'MiB/s':>8} {'speedup':>8}")
    for row in rows:
        print(f"{row['agents']:6} {row['wallS']:8.2f} {row['mibPerS']:8.1f} {row['speedup']:8.2f}")
    print(f"target: {_SPEEDUP_TARGET} with {_AGENTS[-1]} agents")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main()
        except Missing as missing:
            raise SystemExit(str(missing)) from missing
