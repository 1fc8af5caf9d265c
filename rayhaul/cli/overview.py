"""What `rayhaul top` shows: the cluster at one moment as a value, what it means, and how it looks. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rayhaul.cli.output import name_of, percent, plain, status_text, table
from rayhaul.units import duration, size
from rayhaul.wire import CapacityView, JobView, QueueReport, ScalingView

#: Rows of jobs and of agents that are shown at most; there may be thousands.
JOBS_SHOWN = 10
AGENTS_SHOWN = 16
DECISIONS_SHOWN = 3
#: And at least, however small the terminal is.
_ROWS_MIN = 3
_BAR_COLUMNS = 20
#: Load at which the cluster is made larger, and the one that it is brought back to (dashboards/alerts.yaml).
_PCT_HIGH = 90.0
_PCT_WANTED = 85.0
_STATE_STYLES = {"online": "green", "offline": "bold red", "unfit": "red", "draining": "yellow", "pending": "cyan"}
_ALERT_STYLES = {"firing": "bold red", "pending": "yellow"}
_NAME_COLUMNS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """An alert that is not inactive."""

    name: str
    severity: str
    state: str
    condition: str
    #: The page that says what to do; empty where there is none.
    runbook: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    url: str
    at: datetime
    queue: QueueReport
    #: Jobs that are being downloaded or uploaded, the newest first.
    running: Sequence[JobView]
    #: Whether more of them run than were looked at.
    is_cut: bool = False
    #: None: only operators may see them.
    agents: Sequence[CapacityView] | None = None
    #: The newest ones, newest first; None: only operators may see them, or this cluster does not tell.
    decisions: Sequence[ScalingView] | None = None
    #: Those that are not quiet; None: this cluster does not tell.
    alerts: Sequence[Firing] | None = None

    @property
    def waiting(self) -> int:
        return sum(self.queue.depth.values())

    @property
    def bytes_per_s(self) -> float:
        """What moves now: by the agents' word, or by that of the jobs that may be seen."""
        if self.agents is not None:
            return sum(agent.bytes_per_second for agent in self.agents if agent.state != "offline")
        return sum(job.progress.bytes_per_second for job in self.running)

    def slowest(self) -> Sequence[JobView]:
        """Return the jobs to look at first: the fewest bytes a second, then the longest way to go."""
        return sorted(
            self.running, key=lambda job: (job.progress.bytes_per_second, -(job.progress.eta_seconds or 0.0))
        )[:JOBS_SHOWN]


def advice(seen: Overview) -> Sequence[str]:
    """Return what a person might do next, the most urgent first; nothing where all is as it should be."""
    agents = seen.agents
    is_without_agents = agents is not None and not any(agent.state == "online" for agent in agents)
    is_idle = not seen.running and not seen.waiting
    told = (
        (is_without_agents, "No agent is online: nothing moves. Try: rayhaul logs --level warn"),
        (seen.queue.parked is not None, f"No job is started: {seen.queue.parked}. Try: rayhaul storage-check"),
        (bool(seen.queue.paused), f"Held back: {', '.join(seen.queue.paused)}. Let go on: rayhaul queue resume …"),
        (seen.queue.dlq_depth > 0, f"{seen.queue.dlq_depth} dead letters wait for a person. Try: rayhaul dlq"),
        (is_idle and not is_without_agents, "Nothing to do. Try: rayhaul get URL"),
    )
    return [text for applies, text in told if applies]


def jsonable(seen: Overview) -> Mapping[str, Any]:
    """Return the overview as `--json` prints it."""
    alerts = None if seen.alerts is None else [_alert_fields(alert) for alert in seen.alerts]
    return {
        "url": seen.url,
        "bytesPerSecond": seen.bytes_per_s,
        "agents": seen.agents,
        "scaling": seen.decisions,
        "queue": seen.queue,
        "running": len(seen.running),
        "runningIsCut": seen.is_cut,
        "slowest": seen.slowest(),
        "alerts": alerts,
        "advice": advice(seen),
    }


def _alert_fields(alert: Firing) -> Mapping[str, str]:
    return {
        "name": alert.name,
        "severity": alert.severity,
        "state": alert.state,
        "condition": alert.condition,
        "runbook": alert.runbook,
    }


# --- how it looks ---


def bar(pct: float, columns: int = _BAR_COLUMNS) -> str:
    """Return a bar of that many columns, in eighths of one.

    >>> bar(50, 4), bar(9.4, 4), bar(250, 4)
    ('██··', '▍···', '████')
    """
    eighths = round(max(0.0, min(100.0, pct)) / 100 * columns * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(columns, "·")


def render(seen: Overview, lines_max: int | None = None) -> RenderableType:
    """Return all of it, with fewer agents and jobs where there is room for so many lines only."""
    fixed: list[RenderableType] = [_headline(seen), *(Text(plain(line), style="yellow") for line in advice(seen))]
    if seen.alerts:
        fixed += [Text(), _alerts(seen.alerts)]
    queue = _queue(seen.queue)
    # Headers and empty lines: two for each table below.
    taken = len(fixed) + len(seen.alerts or ()) + queue.row_count + 7
    taken += len(seen.decisions) + 2 if seen.decisions else 0
    rows = AGENTS_SHOWN if lines_max is None else max(_ROWS_MIN, (lines_max - taken) // 2)
    parts = [*fixed, Text(), queue]
    if seen.agents is not None:
        parts += [Text(), _agents(seen.agents, min(AGENTS_SHOWN, rows))]
    if seen.decisions:
        parts += [Text(), _decisions(seen.decisions, seen.at)]
    if seen.running:
        parts += [Text(), _slowest(seen.slowest()[:rows])]
    return Group(*parts)


def _headline(seen: Overview) -> Text:
    running = f"{len(seen.running)}{'+' if seen.is_cut else ''} running"
    line = Text(f"{plain(seen.url)}  {seen.at.astimezone():%H:%M:%S}  ", style="bold")
    return line.append(f"{size(seen.bytes_per_s)}/s", style="bold cyan").append(f"  {running}, {seen.waiting} waiting")


def _alerts(alerts: Sequence[Firing]) -> Table:
    rows = table("ALERT", "", "STATE", "WHEN", "RUNBOOK")
    for alert in alerts:
        rows.add_row(
            Text(plain(alert.name), style="bold"),
            plain(alert.severity),
            Text(plain(alert.state), style=_ALERT_STYLES.get(alert.state, "")),
            Text(plain(alert.condition)),
            Text(plain(alert.runbook)),
        )
    return rows


def _agents(agents: Sequence[CapacityView], rows_max: int) -> Table:
    """The busiest first, those in trouble before them."""
    numbers = ("BUSY", "SLOTS", "SPEED", "LAST HEARD")
    rows = table("AGENT", "STATE", "", *numbers, "", right=numbers)
    ordered = sorted(agents, key=lambda agent: (agent.state == "online", -agent.capacity_pct, agent.agent))
    for agent in ordered[:rows_max]:
        rows.add_row(
            Text(plain(agent.agent)),
            Text(plain(agent.state), style=_STATE_STYLES.get(agent.state, "")),
            Text(bar(agent.capacity_pct), style=_load_style(agent.capacity_pct)),
            f"{agent.capacity_pct:.0f}%",
            f"{agent.slots_used}/{agent.slots}",
            f"{size(agent.bytes_per_second)}/s",
            f"{duration(agent.heartbeat_age_seconds)} ago",
            Text(plain(agent.unfit or "")),
        )
    if len(ordered) > rows_max:
        rows.add_row(Text(f"and {len(ordered) - rows_max} more", style="dim"))
    return rows


def _decisions(decisions: Sequence[ScalingView], now: datetime) -> Table:
    """What was decided about the number of agents, and from what."""
    numbers = ("WANTED", "ONLINE", "LOAD", "WAITING")
    rows = table("SCALING", *numbers, "WHEN", right=numbers)
    for made in decisions:
        rows.add_row(
            plain(made.reason),
            str(made.wanted),
            f"{made.online}{f' and {made.pending} coming' if made.pending else ''}",
            "" if made.load_pct is None else f"{made.load_pct:.0f}%",
            str(made.jobs_waiting),
            f"{duration(max(0.0, (now - made.ts).total_seconds()))} ago",
        )
    return rows


def _load_style(pct: float) -> str:
    return "red" if pct > _PCT_HIGH else "yellow" if pct > _PCT_WANTED else "green"


def _queue(queue: QueueReport) -> Table:
    rows = table("QUEUE", "WAITING", "", right=("WAITING",))
    for priority, depth in queue.depth.items():
        rows.add_row(plain(priority), str(depth), Text("paused" if priority in queue.paused else "", style="yellow"))
    if any(queue.depth.values()):
        rows.add_row("oldest", duration(queue.oldest_age_seconds))
    if queue.dlq_depth:
        rows.add_row("dead letters", Text(str(queue.dlq_depth), style="bold red"))
    return rows


def _slowest(jobs: Sequence[JobView]) -> Table:
    numbers = ("SPEED", "LEFT", "DONE")
    rows = table("SLOWEST JOBS", "STATUS", *numbers, "AGENTS", "NAME", right=numbers)
    for job in jobs:
        rows.add_row(
            job.id,
            status_text(job.status),
            f"{size(job.progress.bytes_per_second)}/s",
            duration(job.progress.eta_seconds),
            percent(job.progress),
            Text(plain(" ".join(job.agents))),
            Text(name_of(job)[:_NAME_COLUMNS]),
        )
    return rows
