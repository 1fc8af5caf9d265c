"""`rayhaul deploy` and `undeploy`: a process that starts, renews or stops Rayhaul on a Ray cluster, and ends."""

import argparse
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from rayhaul import log
from rayhaul.errors import RayhaulError
from rayhaul.settings import Settings
from serve_app.attached import Deployed, Target, deploy, make_key, undeploy
from serve_app.starting import StartRefused

_EXIT_FAILED = 1
_EXIT_USAGE = 2
#: Nodes may have to be bought and booted before the first agent reports.
_READY_S = 300.0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rayhaul deploy", description=__doc__)
    parser.add_argument("--address", default="auto", help="address of the Ray cluster's head")
    parser.add_argument("--host", default="0.0.0.0", help="address the API listens on, on each of its nodes")  # noqa: S104
    parser.add_argument("--port", type=int, default=8000, help="port the API listens on")
    parser.add_argument("--data-dir", type=Path, help="where the operator's key is written, and a SQLite ledger lies")
    parser.add_argument("--ready-s", type=float, default=_READY_S, help="longest wait until it is ready, seconds")
    parser.add_argument("--stop", action="store_true", help="stop what runs, and start nothing")
    parser.add_argument("--key-only", action="store_true", help="only make an operator's key; needs no Ray cluster")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        _complain(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}")
        return _EXIT_USAGE
    log.setup("cli", "warn")
    target = Target(
        address=arguments.address,
        host=arguments.host,
        port=arguments.port,
        data_dir=(arguments.data_dir or settings.data_dir).expanduser().resolve(),
        ready_s=arguments.ready_s,
    )
    try:
        if arguments.stop:
            is_stopped = undeploy(target.address, _say)
            _say("stopped; its jobs go on with the next `rayhaul deploy`" if is_stopped else "nothing runs there")
        elif arguments.key_only:
            make_key(target, settings)
            _say(f"an operator's API key is in {target.key_path}")
        else:
            _tell(deploy(target, settings, _say), target, settings)
    except StartRefused as error:
        _complain(error.message)
        return _EXIT_USAGE
    except RayhaulError as error:
        _complain(error.message)
        return _EXIT_FAILED
    return 0


def _tell(deployed: Deployed, target: Target, settings: Settings) -> None:
    key = str(target.key_path) if target.key_path.exists() else "(made earlier, not on this machine)"
    _say(
        f"Rayhaul is deployed on {deployed.nodes_count} node{'' if deployed.nodes_count == 1 else 's'} and goes on.\n"
        f"  page and API   {deployed.url}\n"
        f"  bucket         {settings.s3.bucket}\n"
        f"  ledger         {'SQLite' if deployed.ledger_url.startswith('sqlite') else 'PostgreSQL'}\n"
        f"  API key        {key}\n"
        f"Upgrade: the same command once more      Stop: rayhaul undeploy"
    )


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - it talks to a terminal


def _complain(text: str) -> None:
    print(f"rayhaul: {text}", file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Ray leaves threads behind that would delay the end; nothing of ours runs in this process any more.
    os._exit(code)
