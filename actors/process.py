"""The life of an actor's process, whatever it runs.

Laws of this file:
1. Every process dies with the raylet that started it: Ray lets workers of a killed raylet run on, as zombies.
2. A process whose work broke ends, and Ray starts another one: better than one that idles.
3. What a process begins with is not looked at again by every full collection of garbage, which stops all else for a
   tenth of a second (modules), or for seconds (a million jobs).
"""

import asyncio
import ctypes
import gc
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from rayhaul import log
from rayhaul.settings import Settings

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
#: Pause before work that broke is begun anew.
_BROKEN_PAUSE_S = 30.0
#: Exit codes of processes that broke, or that another one of the same name has replaced.
_EXIT_BROKEN = 1
EXIT_DEPOSED = 3
EXIT_SUPERSEDED = 4


def begin_process(service: str, settings: Settings) -> None:
    """Set up logging, and have the kernel kill this process when its parent dies (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log.setup(service, settings.log_level, secrets=settings.secrets, file_bytes_max=log.FILE_BYTES_MAX)
    settle()


def settle() -> None:
    """Take what there is for what stays: it goes as soon as nobody refers to it, but is not searched for cycles."""
    gc.collect()
    gc.freeze()


def for_life(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run an actor's work. Where it breaks the process ends at once."""

    async def run() -> None:
        try:
            await work
        except Exception:
            logger.exception("the process broke")
            os._exit(_EXIT_BROKEN)

    return asyncio.get_running_loop().create_task(run())


async def again_and_again(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do what goes on for ever; where it breaks it is begun anew, and nothing beside it is harmed."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("probing broke, and begins anew")
        await asyncio.sleep(_BROKEN_PAUSE_S)
