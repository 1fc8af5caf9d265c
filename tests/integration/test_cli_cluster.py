"""`rayhaul up` and `down` as processes: the command's part of it. The cluster itself is started in tests/cluster."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_process import MAIN, Environ, bare_environ, rayhaul, started, until

from rayhaul.client.endpoint import read_up_file, start_ticks, write_last_up, write_up_file


@pytest.fixture
def bare(tmp_path: Path) -> Environ:
    return bare_environ(tmp_path)


#: Stands in for `python -m serve_app.up`, which the cluster tests start for real: writes the up file, answers, ends on
#: SIGTERM. What it is told to do otherwise comes in STAND_IN.
STAND_IN = """
import http.server, os, signal, sys, threading
from pathlib import Path
from rayhaul.client.endpoint import remove_up_file, write_last_up, write_up_file

place = Path(sys.argv[sys.argv.index("--data-dir") + 1])
print("arguments", *sys.argv[1:], flush=True)
if os.environ.get("STAND_IN") == "dies":
    print("the disk is full", file=sys.stderr)
    sys.exit(7)

class Ready(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready)
threading.Thread(target=server.serve_forever, daemon=True).start()
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
url = f"http://127.0.0.1:{server.server_port}"
write_up_file(place, url=url, dashboard_url="http://127.0.0.1:8265", bucket="rayhaul")
(place / "api-key").write_text("key-of-up")
write_last_up(place)
print("running", flush=True)
if os.environ.get("STAND_IN") == "returns":
    sys.exit(0)
stop.wait()
remove_up_file(place)
print("stopped well", flush=True)
"""


@pytest.fixture
def stand_in(bare: Environ, tmp_path: Path) -> Iterator[Environ]:
    """An environment in whose working directory `serve_app.up` is the stand-in."""
    (tmp_path / "serve_app").mkdir()
    (tmp_path / "serve_app" / "__init__.py").touch()
    (tmp_path / "serve_app" / "up.py").write_text(STAND_IN)
    yield bare
    left = read_up_file(tmp_path / "data")
    if left is not None and left.is_running:
        os.kill(left.pid, signal.SIGKILL)


async def test_up_and_down(stand_in: Environ, tmp_path: Path) -> None:
    """A detached cluster outlives its starter, is found by the other commands, is started once, and stops when told."""
    place = tmp_path / "data"
    arguments = ("up", "--detach", "--data-dir", str(place), "--port", "8123", "--agents", "3")
    first = await rayhaul(stand_in, *arguments)
    assert first.code == 0
    running = read_up_file(place)
    assert running is not None
    assert running.is_running
    assert os.getsid(running.pid) == running.pid
    assert all(text in first.stdout for text in (running.url, running.dashboard_url, "rayhaul down"))
    log = (place / "up.log").read_text()
    assert log.splitlines() == [f"arguments --host 127.0.0.1 --port 8123 --data-dir {place} --agents 3", "running"]
    again = await rayhaul(stand_in, *arguments, "--json")
    assert (again.code, again.json["pid"]) == (0, running.pid)
    # The stand-in is no API: that somebody unlike Rayhaul answers shows that it was found.
    assert (await rayhaul(stand_in, "jobs")).stderr == f"rayhaul: {running.url} does not answer as Rayhaul does\n"
    stopped = await rayhaul(stand_in, "down")
    assert (stopped.code, stopped.stdout) == (0, "stopped\n")
    assert start_ticks(running.pid) != running.pid_start_ticks
    assert "stopped well" in (place / "up.log").read_text()
    assert (await rayhaul(stand_in, "down")).stdout == "nothing is running\n"
    assert (await rayhaul(stand_in, "down", "--json")).json == {"stopped": False}


@pytest.mark.parametrize(("behaviour", "code", "said"), [("dies", 7, "the disk is full"), ("returns", 0, "arguments")])
async def test_up_that_fails(stand_in: Environ, tmp_path: Path, behaviour: str, code: int, said: str) -> None:
    """A cluster that ends at once is told with the last of its log, of this start and not of one before."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "up.log").write_text("an older failure\n")
    ran = await rayhaul({**stand_in, "STAND_IN": behaviour}, "up", "--detach", "--data-dir", str(tmp_path / "data"))
    assert (ran.code, ran.stdout) == (1, "")
    assert f"ended with code {code}" in ran.stderr
    assert said in ran.stderr
    assert "older" not in ran.stderr


async def test_up_in_the_foreground(stand_in: Environ, tmp_path: Path) -> None:
    """In the foreground the command becomes the cluster: the same process, under the reader's eyes."""
    async with started(stand_in, "up", "--host", "::1", "--data-dir", "data") as process:
        line = await until(process.stdout, "arguments")
        assert line.split()[1:] == ["--host", "::1", "--port", "8000", "--data-dir", str(tmp_path / "data")]
        await until(process.stdout, "running")
        running = read_up_file(tmp_path / "data")
        assert running is not None
        assert running.pid == process.pid
        process.terminate()
        await until(process.stdout, "stopped well")
        assert await process.wait() == 0


async def test_up_without_ray(bare: Environ) -> None:
    """Where only the client is installed, the command says what to install."""
    ran = await rayhaul(bare, "up", script=f"import sys; sys.modules['ray'] = None; {MAIN}")
    assert (ran.code, ran.stdout) == (2, "")
    assert ran.stderr == "rayhaul: a cluster needs Ray and more: pip install 'rayhaul[cluster]'\n"


async def test_down_spares_others(bare: Environ, tmp_path: Path) -> None:
    """A process that merely has the number of an ended cluster is left alone."""
    # This test's own number, with another start time.
    write_up_file(tmp_path, url="http://127.0.0.1:1", dashboard_url="", bucket="b")
    up_file = tmp_path / "up.json"
    up_file.write_text(json.dumps({**json.loads(up_file.read_text()), "pidStartTicks": 1}))
    write_last_up(tmp_path, bare)
    assert (await rayhaul(bare, "down")).stdout == "nothing is running\n"
