"""Hashing beside the event loop, in threads of its own.

Threads of the loop's own pool may all wait for names that nobody resolves, which nothing can end; hashing goes on.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

#: More than there are processors would only take turns.
_THREADS = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hash")


async def hashed(work: Callable[..., T], *arguments: object) -> T:
    """Return what `work` makes of its arguments."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *arguments)
