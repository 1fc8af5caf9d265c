"""A real embedded cluster for tests: `rayhaul up` as a process of its own, on its own ports and directories."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom

from log_watch import watch

from rayhaul import Client
from rayhaul.log_lines import part_of
from serve_app import embedded as start
from serve_app.embedded import Place

_UP_TIMEOUT_S = 300
_UP = re.compile(r"^\S*\brayhaul up\b", re.MULTILINE)
_PORTS = range(5_100, 5_900)
#: By `free_port`, none of them twice.
_given: set[int] = set()


def free_port() -> int:
    """Return one that neither the connections of a starting cluster take (there are hundreds) nor its store or Ray."""
    while (port := start.free_port("127.0.0.1", SystemRandom().choice(_PORTS))) in _given:
        pass
    _given.add(port)
    return port


def eventually(holds: Callable[[], bool], *, within_s: float, what: str) -> float:
    """Wait until `holds` does; return how long it took."""
    began_s = time.monotonic()
    while not holds():
        if time.monotonic() - began_s > within_s:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began_s


class Embedded:
    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.log_path = data_dir.parent / f"{data_dir.name}-up.log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self.data_dir / "api-key").read_text().strip()

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAYHAUL_")}
        return kept | {
            "RAYHAUL_EGRESS__ALLOW": "127.0.0.1/32",
            "RAYHAUL_LIVENESS__HEARTBEAT_S": "0.5",
            "XDG_STATE_HOME": str(self.data_dir.parent),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **self._settings,
        }

    def client(self) -> Client:
        return Client(self.url, self.key)

    def up(self, *, agents: int = 2, script: str | None = None) -> None:
        """Start it, where there is a script by the `rayhaul up` in that, and return when it says that it is up."""
        words = ["--port", str(self.port), "--agents", str(agents), "--data-dir", str(self.data_dir)]
        command = [sys.executable, "-m", "rayhaul.cli.main", "up", *words]
        if script is not None:
            # It takes the place of the shell, for signals are sent to that.
            command = ["bash", "-euc", _UP.sub(rf"exec \g<0> {shlex.join(words)}", script)]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=None if script is None else self.data_dir.parent,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                start_new_session=True,
            )
        process = self._process

        def is_up() -> bool:
            assert process.poll() is None, self.log_path.read_text()
            return "Rayhaul is up" in self.log_path.read_text()

        eventually(is_up, within_s=_UP_TIMEOUT_S, what="the cluster is up")

    def signal(self, number: signal.Signals) -> float:
        """Send a signal to `up` and wait for its end; return how long that took. Its log lines are checked."""
        assert self._process is not None
        kept = self._keep_logs()
        began_s = time.monotonic()
        self._process.send_signal(number)
        self._process.wait(60)
        took_s = time.monotonic() - began_s
        watch.check_ray_session(kept)
        shutil.rmtree(kept)
        return took_s

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGTERM)

    def processes(self, name: str = "") -> dict[int, str]:
        """Return the cluster's processes whose command line contains `name`: pid -> command line."""
        commands, parents, ours = {}, {}, set()
        mark = os.fsencode(self.data_dir)
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            try:
                marks = (entry / "environ").read_bytes() + os.fsencode((entry / "cwd").readlink())
                commands[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                # pid (name) state parent, where a name may have anything in it.
                parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            # Processes of the test itself have the directory in neither place.
            if mark in marks:
                ours.add(pid)
        # Who gives itself a title may have written it over its environment, but stands below one that has not.
        while below := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= below
        return {pid: commands[pid] for pid in ours if name in commands[pid]}

    def _keep_logs(self) -> Path:
        """Give the log files of the Ray session second names: `up` removes them when it ends."""
        kept = Path(tempfile.mkdtemp(dir=self.data_dir.parent, prefix="logs-"))
        for logs in self.temp_dir.glob("session_2*/logs"):
            for path in logs.rglob("*"):
                name = path.relative_to(logs)
                if path.is_file() and part_of(str(name)) is not None:
                    (kept / name).parent.mkdir(exist_ok=True)
                    with suppress(OSError):  # written anew or gone this moment
                        (kept / name).hardlink_to(path)
        return kept

    @property
    def temp_dir(self) -> Path:
        """Ray's temporary directory, while it runs."""
        return Place(data_dir=self.data_dir, host="127.0.0.1", port=self.port).temp_dir

    def ray_logs(self, pid: int | None = None) -> str:
        """Return what the cluster's own processes, or one of them, have logged, while it runs."""
        return "\n".join(path.read_text() for path in self.temp_dir.glob(f"session_2*/logs/worker-*{pid or ''}.err"))


@contextmanager
def embedded(data_dir: Path, *, agents: int = 2, script: str | None = None, **settings: str) -> Iterator[Embedded]:
    """Yield a running cluster and stop it."""
    cluster = Embedded(data_dir, **settings)
    try:
        cluster.up(agents=agents, script=script)
        yield cluster
    finally:
        cluster.stop()
