"""`rayhaul up` and `down`, `deploy` and `undeploy`, `storage-check`: processes that this one starts, becomes, or stops.

Laws of this file:
1. The cluster's code is not imported: the command line installs without it.
2. A signal goes only to the process that wrote the up file: number and start time must both fit.
"""

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from rayhaul.cli.connect import Exit, UsageError
from rayhaul.cli.output import Json, complain, print_json, say
from rayhaul.client.endpoint import LOG_FILE, UpFile, read_last_up, read_up_file, remove_up_file
from rayhaul.client.errors import ConnectionFailed

#: Ray, its dashboard and the API on a slow, cold machine take about a minute.
START_S_MAX = 120.0

#: A cluster hands its leases back and stops in a few seconds.
STOP_S_MAX = 30.0

_POLL_S = 0.1
_RAY_TOKEN_FILE = "ray-token"  # noqa: S105 - its name
_LOG_LINES = 20
_LOG_BYTES = 64 * 1024

DataDir = Annotated[
    Path | None,
    typer.Option(help="Where the cluster keeps its data.", show_default="RAYHAUL_DATA_DIR, else ~/.rayhaul"),
]

Address = Annotated[str, typer.Option(help="Address of the Ray cluster's head; `auto`: the one this machine is in.")]


def up(
    *,
    host: Annotated[str, typer.Option(help="Address that the API listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port that the API listens on.", min=1, max=65_535)] = 8000,
    data_dir: DataDir = None,
    agents: Annotated[int | None, typer.Option(help="Agents to start with.", min=1)] = None,
    detach: Annotated[bool, typer.Option("--detach", help="In the background; `rayhaul down` stops it.")] = False,
    as_json: Json = False,
) -> None:
    """Start a cluster on this machine, or go on with the one that was there."""
    if as_json and not detach:
        raise UsageError("--json needs --detach: in the foreground the cluster speaks to people")
    _check_ray()
    place = _data_dir(data_dir)
    words = ["--host", host, "--port", str(port), "--data-dir", str(place)]
    if agents is not None:
        words += ["--agents", str(agents)]
    if not detach:
        # From here on this process is the cluster, which says by itself where another one holds the directory.
        become("serve_app.up", words)
    running = read_up_file(place)
    if running is not None and running.is_running:
        _tell(running, place, "Rayhaul is up already.", as_json=as_json)
    else:
        command = [sys.executable, "-m", "serve_app.up", *words]
        _tell(_start(command, place), place, "Rayhaul is up.", as_json=as_json)


def down(*, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Stop the cluster on this machine. Its jobs go on with the next `up`."""
    place = data_dir.expanduser().resolve() if data_dir else read_last_up()
    running = read_up_file(place) if place else None
    if place is None or running is None or not running.is_running:
        _report_stop("nothing is running", is_stopped=False, as_json=as_json)
        return
    try:
        os.kill(running.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError:
        complain(f"the cluster is another user's: process {running.pid} may not be stopped by you")
        raise typer.Exit(Exit.FAILED) from None
    say(f"stopping the cluster of {place} (process {running.pid}) …")
    if not _await_end(running):
        complain(f"it has not stopped within {STOP_S_MAX:g} s; process {running.pid} goes on, see {place / LOG_FILE}")
        raise typer.Exit(Exit.FAILED)
    # A cluster that was killed leaves it behind.
    if read_up_file(place) == running:
        remove_up_file(place)
    _report_stop("stopped", is_stopped=True, as_json=as_json)


def deploy(
    *,
    address: Address = "auto",
    host: Annotated[str, typer.Option(help="Address that the API listens on, on each node.")] = "0.0.0.0",  # noqa: S104
    port: Annotated[int, typer.Option(help="Port that the API listens on.", min=1, max=65_535)] = 8000,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where the operator's key is written, and a SQLite ledger lies.",
            show_default="RAYHAUL_DATA_DIR, else ~/.rayhaul",
        ),
    ] = None,
    ready_s: Annotated[float, typer.Option(help="Longest wait until it is ready, seconds.", min=1)] = 300,
    key_only: Annotated[bool, typer.Option("--key-only", help="Only make an operator's key; needs no Ray.")] = False,
) -> None:
    """Start Rayhaul on a Ray cluster that runs (`ray up`), or bring it up to date there; it goes on by itself.

    Run it on a node of that cluster, with the settings it is to have (RAYHAUL_…) in the environment.
    """
    _check_ray()
    words = ["--address", address, "--host", host, "--port", str(port), "--ready-s", str(ready_s)]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir.expanduser().resolve())]
    become("serve_app.deploy", [*words, *(["--key-only"] if key_only else [])])


def undeploy(*, address: Address = "auto") -> None:
    """Stop Rayhaul on a Ray cluster. Ledger and bucket stay; its jobs go on with the next `deploy`."""
    _check_ray()
    become("serve_app.deploy", ["--address", address, "--stop"])


def storage_check(
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Check the bucket of `rayhaul up` in that directory.",
            show_default="the bucket that is configured, else that of the last `rayhaul up`",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try out what the bucket supports and what it refuses, and say what that means for Rayhaul.

    Run it where the settings are (RAYHAUL_S3__…). It writes about 16 MiB below a prefix of its own and takes all of it
    away again. The exit code is 0 when all that Rayhaul needs works.
    """
    if importlib.util.find_spec("boto3") is None:
        complain("looking at a bucket needs boto3: pip install 'rayhaul[cluster]'")
        raise typer.Exit(Exit.USAGE)
    words = ["--data-dir", str(data_dir.expanduser().resolve())] if data_dir is not None else []
    become("serve_app.storage_check", [*words, *(["--json"] if as_json else [])])


def _check_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        complain("a cluster needs Ray and more: pip install 'rayhaul[cluster]'")
        raise typer.Exit(Exit.USAGE)


def become(module: str, words: Sequence[str]) -> NoReturn:
    """Go on as the process that does it: the exit code is its own."""
    os.execv(sys.executable, [sys.executable, "-m", module, *words])  # noqa: S606 - no shell, and our own interpreter


def _data_dir(given: Path | None) -> Path:
    if given is not None:
        return given.expanduser().resolve()
    # Making the settings' models takes a third of the time that any other command takes to start.
    from rayhaul.settings import Settings  # noqa: PLC0415

    try:
        return Settings().data_dir.expanduser().resolve()
    except ValidationError as err:
        first = err.errors(include_input=False)[0]
        complain(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise typer.Exit(Exit.USAGE) from None


def _start(command: Sequence[str], place: Path) -> UpFile:
    """Start the cluster in a session of its own and return once it answers; else say why not, and leave."""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_up_file(place)
    log_path = place / LOG_FILE
    with log_path.open("ab") as log:
        log_start = log.tell()
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    say(f"starting, see {log_path} …")
    try:
        running = _await_start(child, place)
    except KeyboardInterrupt:
        child.terminate()
        raise
    if running is not None:
        return running
    if child.returncode is None:
        child.terminate()
        complain(f"the cluster did not answer within {START_S_MAX:g} s and is told to stop; see {log_path}")
    else:
        complain(f"the cluster ended with code {child.returncode}; the last of {log_path}:")
        say(_log_tail(log_path, log_start))
    raise typer.Exit(Exit.FAILED)


def _await_start(child: "subprocess.Popen[bytes]", place: Path) -> UpFile | None:
    """Return what the cluster says of itself once it answers; None where it ended or took too long."""
    deadline_s = time.monotonic() + START_S_MAX
    while time.monotonic() < deadline_s and child.poll() is None:
        running = read_up_file(place)
        if running is not None and asyncio.run(_is_ready(running.url)):
            return running
        time.sleep(_POLL_S)
    return None


async def _is_ready(url: str) -> bool:
    from rayhaul.client.aio import AsyncClient  # noqa: PLC0415

    async with AsyncClient(url, timeout_s=5) as client:
        try:
            return await client.ready()
        except ConnectionFailed:
            return False


def _await_end(running: UpFile) -> bool:
    deadline_s = time.monotonic() + STOP_S_MAX
    while running.is_running:
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def _log_tail(path: Path, start: int) -> str:
    """Return the last lines that were written after `start`."""
    with path.open("rb") as log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(start, end - _LOG_BYTES))
        return "\n".join(log.read().decode(errors="replace").splitlines()[-_LOG_LINES:])


def _tell(running: UpFile, place: Path, headline: str, *, as_json: bool) -> None:
    if as_json:
        print_json(running)
        return
    token = place / _RAY_TOKEN_FILE
    typer.echo(
        f"{headline}\n"
        f"  page and API   {running.url}\n"
        f"  Ray dashboard  {running.dashboard_url}{f'   (token: {token})' if token.exists() else ''}\n"
        f"  bucket         {running.bucket}\n"
        f"  data           {place}\n"
        f"Try: rayhaul get URL      Stop: rayhaul down"
    )


def _report_stop(text: str, *, is_stopped: bool, as_json: bool) -> None:
    if as_json:
        print_json({"stopped": is_stopped})
    else:
        typer.echo(text)
