"""How a command reaches the cluster, and how it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TypeVar

from rayhaul.client.aio import AsyncClient
from rayhaul.client.errors import AccessDenied, ApiError, ClientError, ConnectionFailed, JobCancelled

T = TypeVar("T")


class Exit(IntEnum):
    """Exit codes; scripts rely on them."""

    OK = 0
    #: A job failed, or the cluster refused what was asked.
    FAILED = 1
    #: The command line is wrong, or asks for what can not be.
    USAGE = 2
    UNREACHABLE = 3
    #: The API key is missing, wrong, or may not do that.
    DENIED = 4
    CANCELLED = 5
    #: 128 and SIGINT, as shells have it.
    INTERRUPTED = 130


class UsageError(Exception):
    """The command line asks for what can not be. Its text is for people."""


def exit_of(error: ClientError) -> Exit:
    match error:
        case ConnectionFailed():
            return Exit.UNREACHABLE
        case AccessDenied():
            return Exit.DENIED
        case JobCancelled():
            return Exit.CANCELLED
        case ApiError(code="invalid_request"):
            return Exit.USAGE
    return Exit.FAILED


def with_client(work: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """Return what `work` returns. Raises: ClientError, which `main` turns into a sentence and an exit code."""

    async def run() -> T:
        async with AsyncClient() as client:
            return await work(client)

    return asyncio.run(run())
