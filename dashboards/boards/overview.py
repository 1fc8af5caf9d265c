"""Is it well, and how busy is it: one page for the wall."""

from dashboards.board import (
    Board,
    Look,
    Panel,
    Query,
    Row,
    or_zero,
    peak,
    per_minute,
    quantile,
    quantiles,
    rate,
    share,
    total,
)
from rayhaul.metrics import (
    ALERTS_FIRING,
    HTTP_DURATION,
    HTTP_REQUESTS,
    JOB_DURATION,
    JOBS_CREATED,
    JOBS_FINISHED,
    QUEUE_DEPTH,
    QUEUE_DLQ_DEPTH,
    QUEUE_OLDEST_AGE,
    SINK_BYTES,
    SINK_PARKED,
    SOURCE_BYTES,
    SSE_CONNECTIONS,
    WORKER_CAPACITY_AVG,
    WORKER_OFFLINE,
    WORKERS,
)

_FAILED = rate(JOBS_FINISHED, 'outcome="failed"')
_ENDED = rate(JOBS_FINISHED, 'outcome=~"completed|failed"')

_NOW = Row(
    title="Now",
    panels=(
        Panel(
            title="Jobs accepted",
            description="New jobs a minute.",
            unit="cpm",
            queries=(Query(expr=per_minute(JOBS_CREATED)),),
            look=Look.NUMBER,
            width=4,
        ),
        Panel(
            title="Jobs completed",
            description="Completions a minute. Well below what is accepted for long means that the queue grows.",
            unit="cpm",
            queries=(Query(expr=per_minute(JOBS_FINISHED, 'outcome="completed"')),),
            look=Look.NUMBER,
            width=4,
        ),
        Panel(
            title="Failed",
            description="Share of the jobs that ended which failed. Above 1 % look at the causes; above 5 % it is an "
            "alert.",
            unit="percentunit",
            queries=(Query(expr=share(_FAILED, _ENDED)),),
            look=Look.NUMBER,
            thresholds=((0.01, "orange"), (0.05, "red")),
            width=4,
        ),
        Panel(
            title="Queue",
            description="Jobs waiting for an agent. From 500 on watch it, from 2,000 on it is an alert.",
            unit="short",
            queries=(Query(expr=total(QUEUE_DEPTH)),),
            look=Look.NUMBER,
            thresholds=((500, "orange"), (2000, "red")),
            width=4,
        ),
        Panel(
            title="Agents offline",
            description="Agents that stopped reporting. One is an alert: its leases have gone to others.",
            unit="short",
            queries=(Query(expr=total(WORKER_OFFLINE)),),
            look=Look.NUMBER,
            thresholds=((1, "red"),),
            width=4,
        ),
        Panel(
            title="Bucket refuses",
            description="1 while no job is started because the bucket refuses us: keys, permissions, or it is gone.",
            unit="short",
            queries=(Query(expr=peak(SINK_PARKED)),),
            look=Look.NUMBER,
            thresholds=((1, "red"),),
            width=4,
        ),
    ),
)

_WORK = Row(
    title="Work",
    panels=(
        Panel(
            title="Jobs in and out",
            description="Accepted against ended, a minute. The area between is what the queue gains.",
            unit="cpm",
            queries=(
                Query(expr=per_minute(JOBS_CREATED), legend="accepted"),
                Query(expr=per_minute(JOBS_FINISHED, by="outcome"), legend="{{outcome}}"),
            ),
        ),
        Panel(
            title="Jobs waiting",
            description="By priority. Low ones wait first when agents are short.",
            unit="short",
            queries=(Query(expr=total(QUEUE_DEPTH, by="priority"), legend="{{priority}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Throughput",
            description="Bytes read from sources and written to the bucket. They run apart where jobs are repeated.",
            unit="Bps",
            queries=(
                Query(expr=rate(SOURCE_BYTES), legend="from sources"),
                Query(expr=rate(SINK_BYTES), legend="to the bucket"),
            ),
        ),
    ),
)

_STATE = Row(
    title="State",
    panels=(
        Panel(
            title="Agents",
            description="By state. Draining ones finish what they hold; unfit ones report a full disk or memory.",
            unit="short",
            queries=(Query(expr=total(WORKERS, by="state"), legend="{{state}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Capacity in use",
            description="Average over the online agents. Above 90 % for 3 minutes agents are added.",
            unit="percent",
            queries=(Query(expr=peak(WORKER_CAPACITY_AVG), legend="average"),),
            thresholds=((85, "orange"), (90, "red")),
        ),
        Panel(
            title="Alerts firing",
            description="By the scheduler's own readings, as `rayhaul alerts` shows them; 1 while one fires.",
            unit="short",
            queries=(Query(expr=f"{total(ALERTS_FIRING, by='alert')} > 0 or vector(0)", legend="{{alert}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Longest wait",
            description="How long the job at the head of the queue has waited, and how many dead letters there are.",
            unit="s",
            queries=(Query(expr=peak(QUEUE_OLDEST_AGE), legend="longest wait"),),
            thresholds=((600, "red"),),
        ),
    ),
)

_FEEL = Row(
    title="What users feel",
    panels=(
        Panel(
            title="Job duration",
            description="From creation to completion. p95 is to stay below 30 minutes.",
            unit="s",
            queries=quantiles(JOB_DURATION),
            thresholds=((1800, "red"),),
        ),
        Panel(
            title="API",
            description="Time until a response begins (p95), for all routes. Above 0.5 s watch it, above 1 s it is an "
            "alert.",
            unit="s",
            queries=(Query(expr=quantile(0.95, HTTP_DURATION), legend="p95"),),
            thresholds=((0.5, "orange"), (1, "red")),
        ),
        Panel(
            title="Errors and dead letters",
            description="API answers with a server error a minute, open event streams, and jobs in the dead-letter "
            "queue.",
            unit="short",
            queries=(
                Query(expr=per_minute(HTTP_REQUESTS, 'status=~"5.."'), legend="5xx a minute"),
                Query(expr=total(QUEUE_DLQ_DEPTH), legend="dead letters"),
                Query(expr=or_zero(total(SSE_CONNECTIONS)), legend="event streams"),
            ),
        ),
    ),
)

BOARD = Board(
    uid="rayhaul-overview",
    title="Rayhaul · Overview",
    description="Is it well, and how busy is it.",
    rows=(_NOW, _WORK, _STATE, _FEEL),
)
