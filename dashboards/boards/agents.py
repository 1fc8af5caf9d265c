"""Agents, how many there should be, and the scheduler that decides it."""

from dashboards.board import Board, Look, Panel, Query, Row, peak, per_hour, per_minute, quantiles, total
from rayhaul.metrics import (
    AGENT_ERRORS,
    AGENTS_PENDING,
    AGENTS_WANTED,
    FENCED_WRITES,
    LEADERSHIP,
    LEDGER_COMMIT,
    ORPHAN_UPLOADS,
    QUEUE_DEPTH,
    REQUEUES,
    SCALING_DECISIONS,
    TICK_ERRORS,
    TRACE_SPANS,
    WORKER_CAPACITY,
    WORKER_CAPACITY_AVG,
    WORKER_OFFLINE,
    WORKERS,
)

_AGENTS = Row(
    title="Agents",
    panels=(
        Panel(
            title="Agents by state",
            description="Online ones take leases; draining ones finish; unfit ones report a full disk or memory.",
            unit="short",
            queries=(Query(expr=total(WORKERS, by="state"), legend="{{state}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Capacity by agent",
            description="Share in use of each online agent: the highest of slots, bandwidth and memory "
            "(worker.capacity_pct).",
            unit="percent",
            queries=(Query(expr=peak(WORKER_CAPACITY, by="agent"), legend="{{agent}}"),),
        ),
        Panel(
            title="Offline",
            description="Agents that stopped reporting (worker.offline_count); their leases are taken back.",
            unit="short",
            queries=(Query(expr=total(WORKER_OFFLINE), legend="offline"),),
            thresholds=((1, "red"),),
        ),
    ),
)

_SCALING = Row(
    title="Scaling",
    panels=(
        Panel(
            title="Average capacity",
            description="What the scaling rule looks at: above 90 % for 3 minutes agents are added, then it rests.",
            unit="percent",
            queries=(Query(expr=peak(WORKER_CAPACITY_AVG), legend="average"),),
            thresholds=((85, "orange"), (90, "red")),
        ),
        Panel(
            title="Agents wanted",
            description="Wanted against there. Pending for long: no machine has room, or they do not start.",
            unit="short",
            queries=(
                Query(expr=peak(AGENTS_WANTED), legend="wanted"),
                Query(expr=peak(AGENTS_PENDING), legend="pending"),
                Query(expr=total(WORKERS, 'state="online"'), legend="online"),
            ),
        ),
        Panel(
            title="Decisions",
            description="Changes of the number of agents an hour, by reason. Many up and down: the load swings.",
            unit="short",
            queries=(Query(expr=per_hour(SCALING_DECISIONS, by="reason"), legend="{{reason}}"),),
        ),
        Panel(
            title="What waits for them",
            description="Jobs waiting for an agent, of all priorities.",
            unit="short",
            queries=(Query(expr=total(QUEUE_DEPTH), legend="waiting"),),
            thresholds=((500, "orange"), (2000, "red")),
        ),
        Panel(
            title="Handed back",
            description="Jobs that agents lost or were stuck with, a minute.",
            unit="cpm",
            queries=(Query(expr=per_minute(REQUEUES), legend="requeues"),),
        ),
        Panel(
            title="Errors in agents",
            description="Unexpected errors in agents' slots a minute: a bug of ours, with its trace in the agent's "
            "log.",
            unit="cpm",
            queries=(Query(expr=per_minute(AGENT_ERRORS), legend="errors"),),
            thresholds=((0.01, "red"),),
        ),
    ),
)

_SCHEDULER = Row(
    title="Scheduler and ledger",
    panels=(
        Panel(
            title="Commit",
            description="Time of a group commit, fsync included. All that is accepted waits for one.",
            unit="s",
            queries=quantiles(LEDGER_COMMIT),
        ),
        Panel(
            title="Turns that failed",
            description="Turns of the control loop a minute that failed; nothing of them was done.",
            unit="cpm",
            queries=(Query(expr=per_minute(TICK_ERRORS), legend="failed turns"),),
            thresholds=((0.01, "red"),),
        ),
        Panel(
            title="Leadership",
            description="Epoch of the scheduler's leadership: each step is a scheduler that began anew.",
            unit="short",
            queries=(Query(expr=peak(LEADERSHIP), legend="epoch"),),
        ),
        Panel(
            title="Fenced",
            description="Reports refused a minute because their lease is not the newest, by kind. Some after each lost "
            "agent.",
            unit="cpm",
            queries=(Query(expr=per_minute(FENCED_WRITES, by="kind"), legend="{{kind}}"),),
        ),
        Panel(
            title="Uploads cleared away",
            description="Uploads aborted a minute because no job needs them any more.",
            unit="cpm",
            queries=(Query(expr=per_minute(ORPHAN_UPLOADS), legend="aborted"),),
        ),
        Panel(
            title="Spans",
            description="Spans of traces a minute: sent to the collector, dropped before, or failed. None without one.",
            unit="cpm",
            queries=(Query(expr=per_minute(TRACE_SPANS, by="result"), legend="{{result}}"),),
            look=Look.STACK,
        ),
    ),
)

BOARD = Board(
    uid="rayhaul-agents",
    title="Rayhaul · Agents and scaling",
    description="Agents, how many there should be, and the scheduler that decides it.",
    rows=(_AGENTS, _SCALING, _SCHEDULER),
)
