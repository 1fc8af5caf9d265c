"""Null tests: each check is switched off, one at a time, and its test, green before, must go red.

    python tests/nulls.py [NAME…]

A suite that cannot fail proves nothing. Exit code 1: a check can be off and nobody notices. The checks that keep wrong
bytes out are in `null_checks.py`, the controls of SECURITY.md in the others. What can not be run here (without root) is
skipped, and said to be.
"""

import os
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import null_callers  # noqa: E402 - after the path is set
import null_checks  # noqa: E402
import null_egress  # noqa: E402
import null_limits  # noqa: E402
from switches import Null  # noqa: E402

_LISTS = (null_checks.NULLS, null_callers.NULLS, null_limits.NULLS, null_egress.NULLS)
NULLS = {name: null for nulls in _LISTS for name, null in nulls.items()}
assert len(NULLS) == sum(map(len, _LISTS)), "each name is there once"

#: pytest's own exit codes for "tests ran, and some failed", for "it broke" and for "there was none to run".
_FAILED, _BROKE, _NONE_RAN = 1, 3, 5
#: Plugins of pytest's that are imported already are not rewritten, which is of no use to anybody here.
_OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")


class _Ran:
    """Tells tests that were skipped from those that passed, and what could not begin from what failed."""

    def __init__(self) -> None:
        self.count = 0
        self.is_broken = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.when == "call" and not report.skipped
        self.is_broken |= report.when == "setup" and report.failed

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.is_broken:
            session.exitstatus = _BROKE
        elif exitstatus == 0 and self.count == 0:
            session.exitstatus = _NONE_RAN


def run(null: Null, *, off: bool) -> int:
    """Return pytest's exit code for the null's test, in a process that ends with what was switched off in it.

    It is a fork: what is imported above is most of what a test takes to start.
    """
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(silence, descriptor)
        if off:
            null.switch()
        os._exit(pytest.main([*_OPTIONS, null.test], plugins=[_Ran()]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def verdict(null: Null, before: int) -> str:
    """Return what became of it; `before` is the exit code with all checks on: others would be red whatever is off."""
    if before:
        return "skipped" if before == _NONE_RAN else "RED ANYWAY"
    code = run(null, off=True)
    return "red" if code == _FAILED else f"NOT RED (exit {code})"


def main() -> int:
    os.chdir(ROOT)
    # Of the processes that tests start.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    chosen = sys.argv[1:] or list(NULLS)
    before: dict[str, int] = {}
    found = []
    for name in chosen:
        null = NULLS[name]
        began_s = time.monotonic()
        if null.test not in before:
            before[null.test] = run(null, off=False)
        found.append(verdict(null, before[null.test]))
        print(f"{found[-1]:14} {name:16} {null.check}: {null.test} ({time.monotonic() - began_s:.0f} s)", flush=True)
    skipped = found.count("skipped")
    print(f"{found.count('red')} of {len(found)} checks are missed when they are off; {skipped} were skipped")
    return 0 if found.count("red") + skipped == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
