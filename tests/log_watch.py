"""Every log line that the tests cause is held against the schema; a session with a line that breaks it fails.

In this process a handler at the root formats what our packages say, from debug up, as production does. Of processes
that tests start the files are read: ours as they are, Ray's own as `rayhaul logs` shows them.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from rayhaul.log import JsonFormatter
from rayhaul.log_lines import part_of, read_lines

_ROOMS = ("rayhaul", "tasks", "actors", "serve_app", "dashboards")
_SHOWN_MAX = 20
_TOLD = "log-lines"
#: A file for each part of the suite: lines checked, violations.
_TALLIES = Path(__file__).parents[1] / ".pytest_cache" / "log-lines"
_NAME_CHARACTERS_MAX = 200
#: Shown in full where it is wrong; a traceback can be long.
_CHARACTERS_MAX = 500
#: What tests call the secrets that no line may have, and our keys.
_SECRET = re.compile(r"tell-nobody|rayhaul_live_[0-9A-Za-z]{8}_")
#: What a worker process writes to its stderr besides lines of ours: Ray's marks, what Ray has to say to a user (there
#: and not in its own file), Serve's words before it is configured.
_RAYS_OWN = re.compile(
    r"|:(job_id|actor_name|task_name):.*|\{\"asctime\":.*\"message\":\":info_message:.*"
    r"|(INFO|WARNING) \d{4}-.* serve \d+ -- .*|  • .*"
)

valid = fastjsonschema.compile(json.loads((files("rayhaul") / "log_schema.json").read_text()))


class LogWatch(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.formatter = JsonFormatter("agent")
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.check(self.format(record), "in process")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the line's fault
            self.violations.append(f"{record.pathname}:{record.lineno}: {type(error).__name__}: {error}")

    def check(self, text: str, where: str) -> None:
        """Count a line as a process writes it."""
        self.counts[where] += 1
        try:
            self._check(json.loads(text))
            if len(text.splitlines()) != 1:
                raise ValueError("more than one line")
        except ValueError as error:  # what both JSON and the schema raise are kinds of it
            self.violations.append(f"{where}: {error}: {text[:_CHARACTERS_MAX]}")

    def _check(self, line: Any) -> None:
        valid(line)
        if found := _SECRET.search(line["msg"]):
            raise ValueError(f"a secret, {found.group()}")

    def check_ours(self, path: Path) -> None:
        """Check a file that should hold lines of ours and nothing else."""
        for text in path.read_text(errors="replace").split("\n")[:-1]:
            if not _RAYS_OWN.fullmatch(text):
                self.check(text, "processes")

    def check_ray_session(self, directory: Path) -> None:
        """Check the log files of a Ray session, as far as they were written."""
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            part = part_of(name)
            if part is None or not path.is_file():
                continue
            if part.handler == "ray/worker":
                self.check_ours(path)
            texts: Iterable[str] = path.read_text(errors="replace").split("\n")[:-1]
            for line in read_lines(texts, part):
                self.counts["as read"] += 1
                try:
                    self._check(line)
                except ValueError as error:
                    self.violations.append(f"{name}: {error}: {str(line)[:_CHARACTERS_MAX]}")

    # --- hooks ---

    def pytest_sessionstart(self) -> None:
        logging.getLogger().addHandler(self)
        for room in _ROOMS:
            logging.getLogger(room).setLevel(logging.DEBUG)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        logging.getLogger().removeHandler(self)
        # One process of several (pytest-xdist) tells the one that sums.
        told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if told is not None:
            told[_TOLD] = (dict(self.counts), self.violations)
            return
        if self.violations and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        _TALLIES.mkdir(parents=True, exist_ok=True)
        # Whoever names many files one by one asks for more than a file name holds.
        name = "+".join(Path(path).name for path in session.config.args)[:_NAME_CHARACTERS_MAX]
        (_TALLIES / name).write_text(f"{self.counts.total()} {len(self.violations)}")

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        counts, violations = getattr(node, "workeroutput", {}).get(_TOLD, ({}, ["a process of the tests told nothing"]))
        self.counts.update(counts)
        self.violations += violations

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        where = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        terminalreporter.write_line(
            f"log lines checked {self.counts.total()} ({where or 'none'}), violations {len(self.violations)}",
            red=bool(self.violations),
        )
        for violation in self.violations[:_SHOWN_MAX]:
            terminalreporter.write_line(f"  {violation}")


def total() -> str:
    """Return what the last run of each part of the suite counted, and the sum."""
    tallies = {path.name: tuple(map(int, path.read_text().split())) for path in sorted(_TALLIES.iterdir())}
    parts = ", ".join(f"{name} {checked}" for name, (checked, _) in tallies.items())
    checked, violations = (sum(column) for column in zip(*tallies.values(), strict=True))
    return f"log lines checked over the whole suite: {checked} ({parts}), violations {violations}"


#: The one of this session.
watch = LogWatch()


if __name__ == "__main__":
    print(total())
