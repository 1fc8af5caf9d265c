"""`make demo`: the whole path with a real file, told step by step; it leaves nothing running behind.

Without a URL the file is an archive of the Ray installation of this very environment (some 250 MB), served by a local
HTTP server with ranges. What the demo runs is what a user would type: `rayhaul up`, `rayhaul get`, `rayhaul down`.
"""

import argparse
import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom

import ray
from aiohttp import web

from rayhaul import Client
from rayhaul.errors import RayhaulError
from rayhaul.wire import JobView
from serve_app.embedded import free_port

_READ_BYTES = 1024 * 1024
_SIZE_BYTES_MIN = 200 * 1024 * 1024
_UP_TIMEOUT_S = 180
_HOST = "127.0.0.1"
#: Neither connections of a starting cluster take one of these (there are hundreds) nor its store or Ray.
_PORTS = range(5_100, 5_900)


class DemoFailed(Exception):
    """The demo did not show what it promises."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("url", nargs="?", help="a file to fetch instead of the local one")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scratch = Path(tempfile.mkdtemp(prefix="rayhaul-demo-"))
    try:
        if arguments.url:
            _run(arguments.url, scratch, allow="")
        else:
            with _served(_real_file(scratch)) as url:
                _run(url, scratch, allow="127.0.0.1/32")
    except (DemoFailed, RayhaulError, subprocess.CalledProcessError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo stopped", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return 0


def _run(url: str, scratch: Path, *, allow: str) -> None:
    data_dir = scratch / "data"
    port = free_port(_HOST, SystemRandom().choice(_PORTS))
    environment = {
        **os.environ,
        "RAYHAUL_EGRESS__ALLOW": ",".join(filter(None, (os.environ.get("RAYHAUL_EGRESS__ALLOW"), allow))),
        # The demo is a guest here: the last cluster of this user stays what it was.
        "XDG_STATE_HOME": str(scratch),
        "RAYHAUL_URL": f"http://127.0.0.1:{port}",
    }
    with _up(data_dir, port, environment):
        environment["RAYHAUL_API_KEY"] = (data_dir / "api-key").read_text().strip()
        _show("get", url, environment=environment)
        with Client(environment["RAYHAUL_URL"], environment["RAYHAUL_API_KEY"]) as client:
            _verify(client, client.list(limit=1).jobs[0], url)
    _check_nothing_left(data_dir)


def _verify(client: Client, job: JobView, url: str) -> None:
    """Compare what the bucket holds with the source, byte for byte by SHA-256."""
    if job.result is None:
        raise DemoFailed(f"job {job.id} is {job.status}")
    link = client.download_link(job.id).url
    source_bytes, source_sha256 = _digest(url)
    object_bytes, object_sha256 = _digest(link)
    print(f"\nsource  {source_bytes:>12} bytes  sha256 {source_sha256}")
    print(f"bucket  {object_bytes:>12} bytes  sha256 {object_sha256}")
    if (source_bytes, source_sha256) != (object_bytes, object_sha256):
        raise DemoFailed("the bucket does not hold the source's bytes")
    print("the same bytes\n")
    print(f"object  {job.result.bucket}/{job.result.key}")
    print(f"link    {link}")
    if curl := shutil.which("curl"):
        told = "%{http_code}, %{size_download} bytes"
        done = subprocess.run(  # noqa: S603 - curl, and a link of our own
            [curl, "-sS", "-o", os.devnull, "-w", told, link], check=True, capture_output=True, text=True
        )
        print(f"curl    {done.stdout}\n")


def _digest(url: str) -> tuple[int, str]:
    digest, size_bytes = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - what the user gave
        while piece := response.read(_READ_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
    return size_bytes, digest.hexdigest()


def _show(*words: str, environment: dict[str, str]) -> None:
    """Run a rayhaul command as a user would, and show it."""
    print(f"\n$ rayhaul {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "rayhaul.cli.main", *words]
    subprocess.run(command, check=True, env=environment)  # noqa: S603 - our own command


@contextmanager
def _up(data_dir: Path, port: int, environment: dict[str, str]) -> Iterator[None]:
    where = ("--data-dir", str(data_dir))
    try:
        _show("up", "--detach", "--port", str(port), *where, environment=environment)
        yield
    finally:
        _show("down", *where, environment=environment)


def _check_nothing_left(data_dir: Path) -> None:
    """See that no process of the cluster outlived it."""
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            # Ray's processes have the token's path in their environment, the bucket has its directory.
            marks = (process / "environ").read_bytes() + os.fsencode((process / "cwd").readlink())
            if os.fsencode(data_dir) in marks:
                left.append(f"{process.name} {command[:100]}")
        except OSError:
            continue
    if left:
        raise DemoFailed(f"processes are left behind: {left}")
    print("nothing is left running")


def _real_file(scratch: Path) -> Path:
    """Pack the installed Ray into one archive: real bytes that every machine with Rayhaul has."""
    archive = scratch / "ray-installation.tar"
    print(f"packing {Path(ray.__file__).parent} …", flush=True)
    with tarfile.open(archive, "w") as tar:
        tar.add(Path(ray.__file__).parent, arcname="ray")
    size_bytes = archive.stat().st_size
    if size_bytes < _SIZE_BYTES_MIN:
        raise DemoFailed(f"{archive.name} has only {size_bytes} bytes; give a URL")
    return archive


@contextmanager
def _served(path: Path) -> Iterator[str]:
    """Serve one file over HTTP with ranges, from a thread."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    port = free_port(_HOST, SystemRandom().choice(_PORTS))
    up = threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get(f"/{path.name}", lambda _: _answer(path))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        up.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="origin")
    thread.start()
    up.wait()
    try:
        yield f"http://127.0.0.1:{port}/{path.name}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def _answer(path: Path) -> web.FileResponse:
    return web.FileResponse(path)


if __name__ == "__main__":
    sys.exit(main())
