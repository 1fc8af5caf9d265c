"""Every route of the API held against its own OpenAPI document, with thousands of made-up requests (schemathesis).

    python tests/fuzz.py --examples 200

The API runs in this process over the small plane (tests/plane.py) and a real ledger; schemathesis is a process that
asks it over HTTP with an operator's key. Event streams are ended all the time, as by a replica that is being replaced,
so that they can be asked for like all else.
"""

import argparse
import asyncio
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from control_scene import scene_of
from plane import Site, api_settings, listening, site_at

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_STREAMS_END_S = 0.05
#: Of schemathesis, all that there are.
PHASES = "examples,coverage,fuzzing,stateful"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuzzed:
    """What schemathesis said: its exit code, how many requests it made, all its words."""

    code: int
    cases: int
    text: str


async def fuzz(directory: Path, *, examples: int, seed: int | None = None, phases: str = PHASES) -> Fuzzed:
    """Make up to `examples` requests for each operation and phase."""
    settings = api_settings(rate_per_minute=1_000_000_000)
    async with site_at(directory, settings) as site, listening(site.app) as url:
        await scene_of(site)
        ending = asyncio.create_task(_end_streams(site))
        try:
            authorization = site.auth["olga"]["Authorization"]
            return await _run(url, authorization, directory, examples=examples, seed=seed, phases=phases)
        finally:
            ending.cancel()
            with suppress(asyncio.CancelledError):
                await ending


async def _end_streams(site: Site) -> None:
    while True:
        await asyncio.sleep(_STREAMS_END_S)
        site.app.state.replica.feed.close()


async def _run(
    url: str, authorization: str, directory: Path, *, examples: int, seed: int | None, phases: str
) -> Fuzzed:
    command = ["--config-file", str(_CONFIG), "run", f"{url}/openapi.json", "--max-examples", str(examples)]
    command += ["--header", f"Authorization:{authorization}", "--generation-database", "none", "--no-color"]
    command += ["--phases", phases]
    command += [] if seed is None else ["--seed", str(seed)]
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *command,
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        text = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = re.search(r"([\d,]+) generated", text)
    assert process.returncode is not None
    return Fuzzed(code=process.returncode, cases=int(found[1].replace(",", "")) if found else 0, text=text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=200, help="requests for each operation and phase, at most")
    parser.add_argument("--seed", type=int, help="the one that schemathesis printed, to see it again")
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="rayhaul-fuzz-") as directory:
        fuzzed = asyncio.run(fuzz(Path(directory), examples=arguments.examples, seed=arguments.seed))
    print(fuzzed.text)
    return fuzzed.code


if __name__ == "__main__":
    sys.exit(main())
