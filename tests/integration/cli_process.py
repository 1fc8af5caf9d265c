"""`rayhaul` as a process, for tests: its streams and its exit code."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAIN = "from rayhaul.cli.main import main; main()"
TIMEOUT_S = 60

Environ = Mapping[str, str]


@dataclass(frozen=True)
class Ran:
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Everything on stdout, as the one JSON document that it must be."""
        return json.loads(self.stdout)


@asynccontextmanager
async def started(environ: Environ, *arguments: str, script: str = MAIN) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `rayhaul`; it is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *arguments),
        env=environ,
        cwd=environ["HOME"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def rayhaul(environ: Environ, *arguments: str, script: str = MAIN) -> Ran:
    async with started(environ, *arguments, script=script) as process:
        stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return Ran(process.returncode, stdout.decode(), stderr.decode())


async def until(stream: asyncio.StreamReader | None, text: str) -> str:
    """Read lines until one has `text`; return that line."""
    assert stream is not None
    while line := (await stream.readline()).decode():
        if text in line:
            return line
    raise AssertionError(f"{text!r} did not come")


def bare_environ(home: Path) -> Environ:
    """Return an environment that knows of no cluster, but the code that is tested."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return {**kept, "HOME": str(home), "COLUMNS": "200"}


def shown_on(terminal: int, pattern: str | None = None) -> str:
    """Return what a terminal shows until there is `pattern`, or until it is closed; without colours."""
    shown = b""
    while pattern is None or not re.search(pattern.encode(), shown):
        try:
            shown += os.read(terminal, 65_536)
        except OSError:
            assert pattern is None, f"{pattern!r} did not come"
            os.close(terminal)
            break
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
