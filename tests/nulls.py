"""Null tests: each check that keeps wrong bytes out is switched off, and its test, green before, must go red.

    python tests/nulls.py [NAME…]

A suite that cannot fail proves nothing. Exit code 1: a check can be off and nobody notices.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from null_checks import NULLS  # noqa: E402 - after the path is set

#: pytest's own exit code for "tests ran, and some failed".
_FAILED = 1


def run(name: str | None, test: str) -> int:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "null_checks", "-p", "no:cacheprovider", test],
        cwd=ROOT,
        env={**os.environ, "RAYHAUL_NULL": name or "", "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ).returncode


def main() -> int:
    chosen = sys.argv[1:] or list(NULLS)
    unnoticed = []
    #: Tests that pass with all checks on: others would be red whatever is off.
    green: set[str] = set()
    for name in chosen:
        null = NULLS[name]
        began_s = time.monotonic()
        if null.test in green or run(None, null.test) == 0:
            green.add(null.test)
            code = run(name, null.test)
            verdict = "red" if code == _FAILED else f"NOT RED (exit {code})"
        else:
            code, verdict = None, "RED ANYWAY"
        if code != _FAILED:
            unnoticed.append(name)
        print(f"{verdict:14} {name:12} {null.check}: {null.test} ({time.monotonic() - began_s:.0f} s)", flush=True)
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} checks are missed when they are off")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
