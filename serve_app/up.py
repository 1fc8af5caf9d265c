"""`rayhaul up`: the embedded cluster in the foreground, until Ctrl-C or SIGTERM."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from rayhaul import log
from rayhaul.errors import RayhaulError
from rayhaul.settings import Settings
from serve_app.embedded import EmbeddedCluster, Place

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_STOPPED = 130


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rayhaul up", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address the API listens on")
    parser.add_argument("--port", type=int, default=8000, help="port the API listens on")
    parser.add_argument("--data-dir", type=Path, help="where ledger, bucket and keys lie")
    parser.add_argument("--agents", type=int, default=2, help="agents to start with, and the fewest to keep")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    try:
        settings = _settings(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        _complain(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}")
        return _EXIT_USAGE
    log.setup("cli", "warn")
    place = Place(data_dir=settings.data_dir.expanduser().resolve(), host=arguments.host, port=arguments.port)
    cluster = EmbeddedCluster(place, settings, lambda step: _say(f"starting {step} …"))
    _on_signals(_stop_start)
    try:
        running = cluster.start()
    except RayhaulError as error:
        _complain(error.message)
        return _EXIT_FAILED
    except _Stopped:
        _say("stopped before it was up")
        return _EXIT_STOPPED
    stop = threading.Event()
    _on_signals(lambda *_: stop.set())
    _say(
        f"Rayhaul is up.\n"
        f"  page and API   {running.url}\n"
        f"  Ray dashboard  {running.dashboard_url}   (token: {place.token_path})\n"
        f"  bucket         {running.bucket}{f' at {running.s3_endpoint_url}' if running.s3_endpoint_url else ''}\n"
        f"  API key        {place.key_path}\n"
        f"Try: rayhaul get URL      Stop: Ctrl-C"
    )
    stop.wait()
    _say("stopping …")
    cluster.stop()
    _say("stopped; unfinished jobs go on with the next `rayhaul up`")
    return 0


class _Stopped(BaseException):
    """A signal came while the cluster was starting: not an Exception, so that nothing on the way takes it for one."""


def _stop_start(*_: object) -> None:
    # Once is enough: what was started is being stopped.
    _on_signals(signal.SIG_IGN)
    raise _Stopped


def _on_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def _settings(arguments: argparse.Namespace) -> Settings:
    settings = Settings()
    changes: dict[str, object] = {}
    if arguments.data_dir is not None:
        changes["data_dir"] = arguments.data_dir
    agents = max(1, arguments.agents)
    changes["scaling"] = settings.scaling.model_copy(
        update={"agents_min": agents, "agents_max": max(agents, settings.scaling.agents_max)}
    )
    return settings.model_copy(update=changes)


def _say(text: str) -> None:
    print(text, flush=True)


def _complain(text: str) -> None:
    print(f"rayhaul: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Ray leaves threads behind that would delay the end; everything of ours has been stopped by now.
    os._exit(code)
