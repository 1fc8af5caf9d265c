"""One replica of the API: what its routes share."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Path, Request
from pydantic import AfterValidator

from actors.ports import ControlPlane, LogReader
from rayhaul.errors import NotFound
from rayhaul.job import utc
from rayhaul.ledger.base import Ledger
from rayhaul.metrics import Meter
from rayhaul.policy.objectives import Objective
from rayhaul.settings import Settings
from rayhaul.tracing import Tracer
from serve_app.auth import Keyring
from serve_app.feed import Feed
from serve_app.live import Live
from tasks.guard import AddressGuard
from tasks.schemes import SourceRules

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Links(Protocol):
    """The bucket, as far as the API needs it."""

    @property
    def bucket(self) -> str: ...

    def presign_get(self, key: str, *, filename: str, expires_s: int) -> str:
        """Return a link that downloads the object under that file name for `expires_s`. Opens no connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    name: str
    #: Takes every write.
    plane: ControlPlane
    #: Read only.
    ledger: Ledger
    links: Links
    settings: Settings
    clock: Callable[[], float]
    meter: Meter
    guard: AddressGuard
    sources: SourceRules
    keyring: Keyring
    live: Live
    logs: LogReader
    feed: Feed
    tracer: Tracer
    objectives: Sequence[Objective]
    #: Writes under way; kept here so that they are not collected before they end.
    writing: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def now(self) -> datetime:
        return utc(self.clock())

    async def finish(self, write: Coroutine[Any, Any, T]) -> T:
        """Await a write that goes on when the client hangs up: it is carried out in full, or was never begun."""
        task = asyncio.create_task(write)
        self.writing.add(task)
        task.add_done_callback(self.writing.discard)
        return await asyncio.shield(task)


def replica_of(request: Request) -> Replica:
    replica: Replica = request.app.state.replica
    return replica


def _shaped(id: str) -> str:
    """Return the id. Raises: NotFound where none of ours looks like it, before a database is asked."""
    if not _ID.fullmatch(id):
        raise NotFound
    return id


#: An id in a path.
PathId = Annotated[str, AfterValidator(_shaped), Path(description="As other answers give it.")]
