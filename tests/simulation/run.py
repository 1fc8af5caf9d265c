"""Run many seeds in several processes, and print what broke in a way that can be replayed.

.venv/bin/python tests/simulation/run.py --first 1 --seeds 2000
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from history import Figures, live
from setups import Setup
from twin import inline, ledger_files
from violations import Violation

#: Seeds of a share: enough to keep a process busy for some seconds.
_SHARE = 20
#: One seed of so many runs on the real ledger, with the reference beside it.
_REAL_EVERY = 20
#: Sets of strings are walked in an order that hangs on this: with another one, a seed is another history.
_HASH_SEED = "0"


def run_share(seeds: Sequence[int]) -> tuple[Figures, list[str]]:
    """Run some seeds; return the figures and a report of each one that broke."""
    logging.disable()
    figures, broken = Figures(), []
    with ledger_files() as files:
        for seed in seeds:
            real = inline(files.fresh(str(seed))) if seed % _REAL_EVERY == 0 else None
            try:
                figures.take(asyncio.run(live(Setup.drawn(seed), real)))
            except Violation as violation:
                broken.append(report(seed, violation))
    return figures, broken


def report(seed: int, violation: Violation) -> str:
    """Return what broke, what led to it, and how to see it again."""
    lines = "\n".join(violation.__notes__)
    again = f".venv/bin/python tests/simulation/run.py --first {seed} --seeds 1"
    return f"SEED {seed} BROKE {violation}\n{lines}\nreplay: {again}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--show", type=int, default=3, help="reports of broken seeds to print")
    chosen = parser.parse_args()
    began_s = time.monotonic()
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    shares = [seeds[at : at + _SHARE] for at in range(0, len(seeds), _SHARE)]
    total = Figures()
    broken: list[str] = []
    with ProcessPoolExecutor(chosen.processes) as pool:
        for figures, reports in pool.map(run_share, shares):
            total.counts += figures.counts
            total.digest ^= figures.digest
            broken += reports
            for text in reports:
                print(text if len(broken) <= chosen.show else text.partition("\n")[0], end="\n\n", flush=True)
    took_s = time.monotonic() - began_s
    print("  ".join(f"{name}: {count}" for name, count in total.counts.items()))
    pace = f"{took_s:.0f} s, {len(seeds) / took_s * 60:.0f} histories a minute"
    print(f"seeds {seeds[0]} to {seeds[-1]}: {pace}, digest: {total.digest:08x}")
    print(f"{len(broken)} broke")
    return 1 if broken else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != _HASH_SEED:
        os.environ["PYTHONHASHSEED"] = _HASH_SEED
        os.execv(sys.executable, [sys.executable, *sys.argv])
    sys.exit(main())
