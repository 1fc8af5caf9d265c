"""How a command reaches the cluster, and how it ends."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

from rayhaul.client.errors import AccessDenied, ApiError, ClientError, ConnectionFailed, JobCancelled

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient

T = TypeVar("T")


class Exit(IntEnum):
    """Exit codes; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    DENIED = 4
    CANCELLED = 5
    #: 128 and SIGINT, as shells have it.
    INTERRUPTED = 130


EXIT_CODES: Mapping[Exit, str] = {
    Exit.OK: "What was asked for is done; of `get`: all jobs are completed.",
    Exit.FAILED: "A job failed, or the cluster refused what was asked.",
    Exit.USAGE: "The command line is wrong, or asks for what can not be.",
    Exit.UNREACHABLE: "No cluster answers, or nobody said where it is.",
    Exit.DENIED: "The API key is missing, wrong, or may not do that.",
    Exit.CANCELLED: "A job that was waited for was cancelled.",
    Exit.INTERRUPTED: "Ctrl-C; jobs that were asked for go on.",
}


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


def with_client(work: Callable[["AsyncClient"], Awaitable[T]]) -> T:
    """Return what `work` returns. Raises: ClientError, which `main` turns into a sentence and an exit code."""
    from rayhaul.client.aio import AsyncClient  # noqa: PLC0415

    async def run() -> T:
        async with AsyncClient() as client:
            return await work(client)

    return asyncio.run(run())
