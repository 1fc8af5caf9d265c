"""`rayhaul` called in this process: for what a command says and does. A process of its own takes a second to start."""

import asyncio
import io
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future

import pytest
from cli_process import TIMEOUT_S, Environ, Ran

from rayhaul.cli.main import main

#: What a shell may have set, and a command must not see.
_OURS = ("RAYHAUL_", "XDG_")

#: Environment, directory and streams are the process's: one command at a time.
_turn = threading.Lock()


async def called(environ: Environ, *arguments: str) -> Ran:
    """Run a command in a thread: this loop may be what serves it."""
    ended: Future[Ran] = Future()
    threading.Thread(target=_run, args=(environ, arguments, ended), name="rayhaul", daemon=True).start()
    async with asyncio.timeout(TIMEOUT_S):
        return await asyncio.wrap_future(ended)


def _run(environ: Environ, arguments: Sequence[str], ended: "Future[Ran]") -> None:
    try:
        with _turn:
            ended.set_result(_ran(environ, arguments))
    except BaseException as error:  # noqa: BLE001 - told to the test's thread
        ended.set_exception(error)


def _ran(environ: Environ, arguments: Sequence[str]) -> Ran:
    written = [io.BytesIO(), io.BytesIO()]
    # As strict as a terminal's: what can not be encoded is a fault.
    streams = [io.TextIOWrapper(each, encoding="utf-8", write_through=True) for each in written]
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_OURS)]:
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        patch.chdir(environ["HOME"])
        # A command that becomes another process would take the tests with it.
        patch.delattr(os, "execv")
        patch.setattr(sys, "argv", ["rayhaul", *arguments])
        patch.setattr(sys, "stdin", io.StringIO())
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = _code()
    stdout, stderr = (each.getvalue().decode() for each in written)
    return Ran(code, stdout, stderr)


def _code() -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
