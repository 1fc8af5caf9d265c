"""Rayhaul: from a URL to your bucket, over many machines. What a user of the client needs can be imported from here.

Names are looked up when they are asked for: the rooms inside import `rayhaul.job` and the like all the time, and pay
for no HTTP client; nothing here ever imports Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient
    from rayhaul.client.errors import (
        ApiError,
        ClientError,
        ConnectionFailed,
        DownloadMismatch,
        JobCancelled,
        JobFailed,
        WaitTimeout,
    )
    from rayhaul.client.sync import Client
    from rayhaul.client.torrent_files import each_file
    from rayhaul.job import JobStatus, Priority
    from rayhaul.notebook_bar import Bar

    __version__: str

__all__ = [
    "ApiError",
    "AsyncClient",
    "Bar",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "DownloadMismatch",
    "JobCancelled",
    "JobFailed",
    "JobStatus",
    "Priority",
    "WaitTimeout",
    "__version__",
    "each_file",
]

_ROOMS = {
    "AsyncClient": "rayhaul.client.aio",
    "Bar": "rayhaul.notebook_bar",
    "Client": "rayhaul.client.sync",
    "JobStatus": "rayhaul.job",
    "Priority": "rayhaul.job",
    "each_file": "rayhaul.client.torrent_files",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("rayhaul")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOMS.get(name, "rayhaul.client.errors")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
