"""`rayhaul top`: the cluster at a glance, every second, until `q` or Ctrl-C."""

import asyncio
import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from rayhaul.cli.connect import with_client
from rayhaul.cli.output import Json, console, plain, print_json
from rayhaul.cli.overview import DECISIONS_SHOWN, Firing, Overview, jsonable, render
from rayhaul.client.errors import AccessDenied, ApiError, ConnectionFailed, NotFound
from rayhaul.client.fields import PAGE_JOBS
from rayhaul.job import JobStatus
from rayhaul.wire import CapacityView, JobView, ScalingView

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient

REFRESH_S = 1.0
#: The list of jobs is the dear part: it is asked for every so many refreshes.
_JOBS_EVERY = 3
_JOBS_MAX = 500
#: A second's view that takes longer is no view; the next one is asked for.
_TIMEOUT_S = 10.0
_QUIT = frozenset(b"qQ\x04")
_ESCAPE = b"\x1b"


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="Show it once, as it is without a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Show the cluster live: alerts, queue, agents with their load, scaling, the slowest jobs. `q` ends it."""
    screen = console()
    if once or as_json or not screen.is_terminal:
        seen = with_client(lambda client: Watcher(client).look())
        print_json(jsonable(seen)) if as_json else screen.print(render(seen))
    else:
        asyncio.run(_watch(screen))


class Watcher:
    """Looks at a cluster again and again, with what is dear to ask for kept a while."""

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client
        self._looks = 0
        self._running: list[JobView] = []
        self._is_cut = False

    async def look(self) -> Overview:
        """Return what there is to be seen now. Raises: ClientError."""
        if self._looks % _JOBS_EVERY == 0:
            self._running, self._is_cut = await self._jobs()
        self._looks += 1
        return Overview(
            url=self._client.endpoint.url,
            at=datetime.now(UTC),
            queue=await self._client.queue(),
            running=self._running,
            is_cut=self._is_cut,
            agents=await self._agents(),
            decisions=await self._decisions(),
            alerts=await self._alerts(),
        )

    async def _alerts(self) -> list[Firing]:
        """Return the alerts that are not quiet, those that fire first."""
        found = [alert for alert in (await self._client.alerts()).alerts if alert.state != "inactive"]
        return [
            Firing(
                name=alert.name,
                severity=alert.severity,
                state=alert.state,
                condition=alert.condition,
                runbook=alert.runbook or "",
            )
            for alert in sorted(found, key=lambda alert: (alert.state != "firing", alert.severity))
        ]

    async def _agents(self) -> list[CapacityView] | None:
        try:
            return await self._client.agents()
        except AccessDenied as error:
            # A user sees what is theirs; without any key the queue has said so before.
            if error.code != "forbidden":
                raise
            return None

    async def _decisions(self) -> list[ScalingView] | None:
        try:
            return await self._client.scaling(limit=DECISIONS_SHOWN)
        except (AccessDenied, NotFound) as error:
            # As for agents; and a cluster of before may not tell.
            if error.code not in {"forbidden", "not_found"}:
                raise
            return None

    async def _jobs(self) -> tuple[list[JobView], bool]:
        found: list[JobView] = []
        for status in (JobStatus.UPLOADING, JobStatus.DOWNLOADING):
            async with aclosing(self._client.iter_jobs(status=status, page_size=PAGE_JOBS)) as listed:
                async for job in listed:
                    if len(found) == _JOBS_MAX:
                        return found, True
                    found.append(job)
        return found, False


async def _watch(screen: Console) -> None:
    """Show it until somebody has seen enough. Raises: ClientError where the first look fails."""
    from rayhaul.client.aio import AsyncClient  # noqa: PLC0415

    with _keys() as quit_asked:
        async with AsyncClient(timeout_s=_TIMEOUT_S, retries_max=0) as client:
            watcher = Watcher(client)
            shown = render(await watcher.look(), screen.height)
            with Live(shown, console=screen, screen=True, auto_refresh=False) as live:
                while not quit_asked.is_set():
                    try:
                        async with asyncio.timeout(REFRESH_S):
                            await quit_asked.wait()
                    except TimeoutError:
                        live.update(await _next(watcher, screen.height), refresh=True)


async def _next(watcher: Watcher, lines_max: int) -> RenderableType:
    try:
        return render(await watcher.look(), lines_max)
    except (ConnectionFailed, ApiError) as error:
        # It may be on its way back: that is what one wants to watch.
        return Text(f"{plain(error)}\nTrying again; q ends.", style="red")


@contextmanager
def _keys() -> Iterator[asyncio.Event]:
    """Yield an event that is set once a key is pressed that ends it; the terminal is as before afterwards."""
    pressed = asyncio.Event()
    if not sys.stdin.isatty():
        yield pressed
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        typed = os.read(descriptor, 64)
        # Keys like the arrows send more after an escape.
        if not typed or typed == _ESCAPE or _QUIT & set(typed):
            pressed.set()

    loop = asyncio.get_running_loop()
    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield pressed
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
