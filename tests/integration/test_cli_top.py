"""`rayhaul top` as a process, over a real service in which a slow job runs."""

import asyncio
import os
import pty
import re
import signal
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_call import called
from cli_process import MAIN, Environ, bare_environ
from inprocess import Service, quick_settings, running_service
from origin import Origin

from rayhaul.client.aio import AsyncClient
from rayhaul.job import JobStatus
from serve_app.seaweed import Seaweed


@pytest.fixture
async def service(tmp_path: Path, store: Seaweed) -> AsyncIterator[Service]:
    settings = quick_settings(store.settings.model_copy(update={"prefix": f"{tmp_path.name}/"}))
    async with running_service(tmp_path, settings) as service:
        yield service


@pytest.fixture
def alice(tmp_path: Path, service: Service) -> Environ:
    return {**bare_environ(tmp_path), "RAYHAUL_URL": service.url, "RAYHAUL_API_KEY": service.alice}


@pytest.fixture
def operator(alice: Environ, service: Service) -> Environ:
    return {**alice, "RAYHAUL_API_KEY": service.operator}


@pytest.fixture
async def slow(service: Service) -> AsyncIterator[str]:
    """A job of alice's that stays in the middle."""
    async with Origin() as origin, AsyncClient(service.url, service.alice) as client:
        job = await client.submit(origin.add("slow.bin", size=6_000_000, stall_after=1_000_000))
        async with asyncio.timeout(30):
            while (await client.get(job.id)).status is not JobStatus.DOWNLOADING:
                await asyncio.sleep(0.05)
        yield job.id
        await client.cancel(job.id)
        origin.resume()


async def test_alerts_that_are_not_quiet(service: Service, alice: Environ) -> None:
    """A job that fails for good makes the alert about dead letters pending at least; quiet ones are not shown."""
    async with Origin() as origin, AsyncClient(service.url, service.alice) as client:
        job = await client.submit(origin.add("busy.bin", size=10, status=503))
        async with asyncio.timeout(60):
            while not any(alert["name"] == "DLQNonEmpty" for alert in (await _seen(alice))["alerts"]):
                await asyncio.sleep(0.2)
        assert (await client.get(job.id)).status is JobStatus.FAILED
    seen = await _seen(alice)
    assert {alert["state"] for alert in seen["alerts"]} <= {"pending", "firing"}
    assert "DLQNonEmpty" in (await called(alice, "top", "--once")).stdout


async def _seen(environ: Environ) -> Any:
    return (await called(environ, "top", "--json")).json


async def test_once(alice: Environ, operator: Environ, slow: str) -> None:
    """Without a terminal it is shown once: an operator sees the agents, a user what is theirs; JSON has the same."""
    by_operator, by_user, told = await asyncio.gather(
        called(operator, "top"), called(alice, "top", "--once"), called(operator, "top", "--json")
    )
    assert [(ran.code, ran.stderr) for ran in (by_operator, by_user, told)] == [(0, "")] * 3
    assert "1 running, 0 waiting" in by_operator.stdout.splitlines()[0]
    assert re.search(r"^agent-\S+ +online +\S+ +\d+% +\d/8 ", by_operator.stdout, re.MULTILINE)
    assert re.search(rf"^{slow} +downloading .* agent-\S+ +slow.bin", by_operator.stdout, re.MULTILINE)
    assert "AGENT " not in by_user.stdout
    assert slow in by_user.stdout
    assert "\x1b" not in by_operator.stdout
    assert [job["id"] for job in told.json["slowest"]] == [slow]
    assert told.json["running"] == 1
    assert all(agent["state"] == "online" for agent in told.json["agents"])
    assert told.json["queue"]["dlqDepth"] == 0


@asynccontextmanager
async def on_terminal(environ: Environ) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Yield `rayhaul top` on a terminal of its own, and that terminal."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MAIN, "top"),
        env={**environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        async with asyncio.timeout(60):
            yield process, ours
        assert termios.tcgetattr(theirs) == before, "the terminal is not as it was"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(theirs)
        os.close(ours)


def read_until(terminal: int, holds: Callable[[str], bool]) -> str:
    shown = b""
    while not holds(shown.decode(errors="replace")):
        shown += os.read(terminal, 65_536)
    return shown.decode(errors="replace")


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
async def test_live(operator: Environ, slow: str, key: bytes) -> None:
    """It draws again and again, until `q` or Ctrl-C, and leaves the terminal as it was."""
    async with on_terminal(operator) as (process, terminal):
        await asyncio.to_thread(read_until, terminal, lambda shown: shown.count(slow) >= 2)
        os.write(terminal, b"\x1b[A")
        await asyncio.to_thread(read_until, terminal, lambda shown: slow in shown)
        if key == b"\x03":
            process.send_signal(signal.SIGINT)
        else:
            os.write(terminal, key)
        assert await process.wait() == (0 if key == b"q" else 130)
        left = os.read(terminal, 1_000_000).decode(errors="replace")
        assert "Traceback" not in left
        assert "\x1b[?1049l" in left, "the screen from before is shown again"


async def test_a_cluster_that_goes_away(tmp_path: Path, store: Seaweed) -> None:
    """What was there and does not answer any more is said, and asked again."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(running_service(tmp_path, quick_settings(store.settings)))
        environ = {**bare_environ(tmp_path), "RAYHAUL_URL": service.url, "RAYHAUL_API_KEY": service.operator}
        async with on_terminal(environ) as (process, terminal):
            await asyncio.to_thread(read_until, terminal, lambda shown: "waiting" in shown)
            await stack.aclose()
            await asyncio.to_thread(read_until, terminal, lambda shown: "Trying again; q ends." in shown)
            os.write(terminal, b"q")
            assert await process.wait() == 0


async def test_nothing_runs(tmp_path: Path) -> None:
    """Where there never was one, the sentence says how to start it."""
    ran = await called(bare_environ(tmp_path), "top")
    assert (ran.code, ran.stdout) == (3, "")
    assert "start one with `rayhaul up`" in ran.stderr
