"""wrk as a load generator: it costs little CPU itself, which on a small machine is what is measured otherwise."""

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers import debian
from bench.surroundings import Missing

#: One thread: the rest of the machine is for what is asked. NUMBER in the body counts the requests.
_SCRIPT = """
local paths, n = {}, 0
for line in io.lines(os.getenv("WRK_PATHS")) do paths[#paths + 1] = line end
local method, body = os.getenv("WRK_METHOD"), os.getenv("WRK_BODY")
local headers = {}
for name, value in string.gmatch(os.getenv("WRK_HEADERS"), "([^:\\n]+): ([^\\n]+)") do headers[name] = value end
request = function()
  n = n + 1
  return wrk.format(method, paths[n % #paths + 1], headers, body and string.gsub(body, "NUMBER", n) or nil)
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests":%d,"durationUs":%d,"p50Us":%d,"p95Us":%d,"p99Us":%d,"refused":%d,"broken":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(95), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked for, over and over; the paths in turn."""

    method: str
    paths: Sequence[str]
    headers: Mapping[str, str]
    body: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of it: a closed loop, so latencies are those of as many connections as there were."""

    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def wrk() -> str:
    """Return the path of wrk, installed if need be. Raises: Missing."""
    found = debian("wrk", "wrk")
    if found is None:
        raise Missing("wrk is not here (Debian: apt-get install wrk)")
    return found


def run(url: str, asked: Asked, *, connections: int, duration_s: int) -> Load:
    """Ask over so many connections for so long. Every answer must be a 2xx."""
    with tempfile.TemporaryDirectory() as name:
        script, paths = Path(name) / "ask.lua", Path(name) / "paths"
        script.write_text(_SCRIPT)
        paths.write_text("".join(f"{path}\n" for path in asked.paths))
        environment = {**os.environ, "WRK_METHOD": asked.method, "WRK_PATHS": str(paths)}
        environment["WRK_HEADERS"] = "\n".join(f"{name}: {value}" for name, value in asked.headers.items())
        if asked.body is not None:
            environment["WRK_BODY"] = asked.body
        command = [wrk(), "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "10s", "-s", str(script), url]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["refused"] == found["broken"] == 0, f"{asked.method} {asked.paths[0]}: {found}"
    return Load(
        requests_per_s=found["requests"] / found["durationUs"] * 1e6,
        p50_ms=found["p50Us"] / 1000,
        p95_ms=found["p95Us"] / 1000,
        p99_ms=found["p99Us"] / 1000,
    )
