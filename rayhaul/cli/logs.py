"""`rayhaul logs`: the log lines of all nodes, of a job or of all, as they were or as they come. Operators only."""

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from rayhaul.cli.connect import UsageError, with_client
from rayhaul.cli.output import Json, console, plain, say
from rayhaul.wire import LogsPage

if TYPE_CHECKING:
    from rayhaul.client.aio import AsyncClient

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
#: What is looked at where nothing says what to look for.
_SINCE_S = 900
_POLL_S = 1.0
#: Nodes' clocks differ, and lines are read while others are written: a look begins so much before the newest line.
_OVERLAP = timedelta(seconds=5)

_STYLES = {"debug": "dim", "info": "", "warn": "yellow", "error": "bold red"}
#: Told after the message; the columns, and what is told by them, are left out.
_AFTER = ("code", "attempt", "statusCode", "durationMs", "jobId", "userId", "correlationId")


class Level(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


def logs(
    *,
    job_id: Annotated[str | None, typer.Option("--job", help="Of this job, and of the request that made it.")] = None,
    correlation_id: Annotated[str | None, typer.Option("--correlation", help="With this correlation id.")] = None,
    agent_id: Annotated[str | None, typer.Option("--agent", help="Of this agent.")] = None,
    level: Annotated[Level, typer.Option(help="From this level up.")] = Level.INFO,
    ray: Annotated[Level, typer.Option(help="Lines of Ray's own, from this level up.")] = Level.WARN,
    since: Annotated[str | None, typer.Option(help="90s, 15m, 2h, 1d, or a time (RFC 3339).")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest.")] = 1000,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a line, and nothing else.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Gather the log lines of all nodes, also those of processes that are gone. Operators only.

    Without a job, a correlation id or a time: of the last quarter of an hour.
    """
    if schema:
        typer.echo((files("rayhaul") / "log_schema.json").read_text(), nl=False)
        return
    asked: dict[str, Any] = {
        "job_id": job_id,
        "correlation_id": correlation_id,
        "agent_id": agent_id,
        "level": level,
        "ray": ray,
        "limit": limit,
    }
    begin = since_of(since, datetime.now(UTC))
    if begin is None and job_id is None and correlation_id is None:
        begin = datetime.now(UTC) - timedelta(seconds=_SINCE_S)
    shown = Shown(console(), as_json=as_json)

    async def work(client: "AsyncClient") -> None:
        page = await client.logs(**asked, since=begin)
        shown.show(page.lines)
        _tell(page, limit)
        while follow:
            await asyncio.sleep(_POLL_S)
            page = await client.logs(**asked, since=shown.newest - _OVERLAP if shown.newest else begin)
            shown.show(page.lines)

    with_client(work)


def since_of(text: str | None, now: datetime) -> datetime | None:
    """Return the time that is meant. Raises: UsageError.

    >>> since_of("15m", datetime(2026, 1, 2, 12, tzinfo=UTC)).isoformat()
    '2026-01-02T11:45:00+00:00'
    """
    if text is None:
        return None
    if span := re.fullmatch(r"([0-9]{1,6})([smhd])", text):
        return now - timedelta(seconds=int(span[1]) * _UNITS_S[span[2]])
    try:
        found = datetime.fromisoformat(text)
    except ValueError as err:
        raise UsageError(f"--since takes 90s, 15m, 2h, 1d or a time like 2026-01-02T03:04:05Z, not {text!r}") from err
    return found if found.tzinfo else found.astimezone()


class Shown:
    """Prints lines, each once."""

    def __init__(self, screen: Console, *, as_json: bool) -> None:
        self._screen = screen
        self._as_json = as_json
        #: Lines of the last look, as text: the next one brings some of them again.
        self._last: frozenset[str] = frozenset()
        #: Time of the newest line so far.
        self.newest: datetime | None = None

    def show(self, lines: Iterable[Mapping[str, Any]]) -> None:
        texts: set[str] = set()
        for line in lines:
            text = json.dumps(line, ensure_ascii=False)
            texts.add(text)
            if text in self._last:
                continue
            if self._as_json:
                typer.echo(text)
            else:
                self._screen.print(line_text(line), soft_wrap=True)
            when = datetime.fromisoformat(str(line["ts"]))
            self.newest = when if self.newest is None else max(self.newest, when)
        if texts:
            self._last = frozenset(texts)


def line_text(line: Mapping[str, Any]) -> Text:
    """Return the line for people: when, how bad, who, what, and after it what else it says."""
    who = str(line.get("agentId") or line["service"])
    if str(line.get("handler", "")).startswith("ray/"):
        who = str(line["handler"])
    level = str(line["level"])
    when = datetime.fromisoformat(str(line["ts"])).astimezone()
    text = Text(f"{when:%H:%M:%S}.{when.microsecond // 1000:03} ", style="dim")
    text.append(f"{plain(level):5} ", style=_STYLES.get(level, ""))
    text.append(f"{plain(who):<10} ", style="cyan")
    first, *rest = str(line["msg"]).split("\n")
    text.append(plain(first), style=_STYLES.get(level, "") if level in ("debug", "error") else "")
    more = " ".join(f"{name}={line[name]}" for name in _AFTER if name in line)
    text.append(f"  {plain(more)}" if more else "", style="dim")
    for continued in rest:
        text.append(f"\n    {plain(continued)}", style="dim")
    return text


def _tell(page: LogsPage, limit: int) -> None:
    if page.is_cut:
        say(f"There are older lines; these are the newest {min(limit, len(page.lines))}. --since and --limit choose.")
    if page.nodes_silent:
        say(f"{page.nodes_silent} of {page.nodes_count} nodes did not answer: their lines are missing.")
