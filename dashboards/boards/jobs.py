"""What becomes of jobs: how many, how long, and why they fail."""

from dashboards.board import (
    Board,
    Look,
    Panel,
    Query,
    Row,
    peak,
    per_minute,
    quantiles,
    rate,
    share,
    share_within,
    total,
)
from rayhaul.metrics import (
    CHECKSUM_MISMATCHES,
    JOB_DURATION,
    JOBS_CREATED,
    JOBS_FINISHED,
    METADATA_FETCH,
    METADATA_READY,
    POISONED_CALLS,
    QUEUE_DEPTH,
    QUEUE_DLQ_DEPTH,
    QUEUE_OLDEST_AGE,
    REQUEUES,
    WEBHOOK_DELIVERIES,
    WEBHOOKS_GIVEN_UP,
    WEBHOOKS_HELD,
)

_FAILED = 'outcome="failed"'

_FLOW = Row(
    title="Flow",
    panels=(
        Panel(
            title="Accepted and ended",
            description="Jobs a minute (jobs.created.rate, jobs.completed.rate, jobs.failed.rate).",
            unit="cpm",
            queries=(
                Query(expr=per_minute(JOBS_CREATED), legend="accepted"),
                Query(expr=per_minute(JOBS_FINISHED, by="outcome"), legend="{{outcome}}"),
            ),
        ),
        Panel(
            title="Waiting",
            description="Jobs waiting for an agent, by priority (queue.depth).",
            unit="short",
            queries=(Query(expr=total(QUEUE_DEPTH, by="priority"), legend="{{priority}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Longest wait",
            description="Age of the job at the head of the queue. More than ten minutes: see the queue-backlog "
            "runbook.",
            unit="s",
            queries=(Query(expr=peak(QUEUE_OLDEST_AGE), legend="longest wait"),),
            thresholds=((600, "red"),),
        ),
    ),
)

_FAILURES = Row(
    title="Failures",
    panels=(
        Panel(
            title="Share that failed",
            description="Of the jobs that completed or failed. A URL that does not work is its user's or its source's "
            "fault.",
            unit="percentunit",
            queries=(
                Query(
                    expr=share(rate(JOBS_FINISHED, _FAILED), rate(JOBS_FINISHED, 'outcome=~"completed|failed"')),
                    legend="failed",
                ),
                Query(
                    expr=share(
                        rate(JOBS_FINISHED, _FAILED, 'fault=~"sink|us"'),
                        rate(JOBS_FINISHED, 'outcome=~"completed|failed"'),
                    ),
                    legend="by the bucket's fault or ours",
                ),
            ),
            thresholds=((0.01, "orange"), (0.05, "red")),
        ),
        Panel(
            title="Failures by cause",
            description="Failed jobs a minute by error code; docs/operations.md says what each one means.",
            unit="cpm",
            queries=(Query(expr=per_minute(JOBS_FINISHED, _FAILED, by="code"), legend="{{code}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Failures by fault",
            description="Whose: the caller's, the source's, the bucket's (sink), or ours (us).",
            unit="cpm",
            queries=(Query(expr=per_minute(JOBS_FINISHED, _FAILED, by="fault"), legend="{{fault}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Handed back",
            description="Jobs handed back to the queue a minute, by cause: agents lost or stuck, uploads lost.",
            unit="cpm",
            queries=(Query(expr=per_minute(REQUEUES, by="code"), legend="{{code}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Dead letters",
            description="Jobs that ran out of attempts or requeues (queue.dlq.depth). Look at them, then replay or "
            "discard.",
            unit="short",
            queries=(Query(expr=total(QUEUE_DLQ_DEPTH), legend="dead letters"),),
            thresholds=((1, "red"),),
        ),
        Panel(
            title="Refused for their content",
            description="Objects not published because their checksum was wrong, and calls that the ledger could not "
            "take.",
            unit="cpm",
            queries=(
                Query(expr=per_minute(CHECKSUM_MISMATCHES), legend="checksum wrong"),
                Query(expr=per_minute(POISONED_CALLS), legend="poisoned calls"),
            ),
        ),
    ),
)

_TIMES = Row(
    title="Times",
    panels=(
        Panel(
            title="Job duration",
            description="From creation to completion (jobs.duration). p95 is to stay below 30 minutes.",
            unit="s",
            queries=quantiles(JOB_DURATION),
            thresholds=((1800, "red"),),
        ),
        Panel(
            title="Metadata fetched",
            description="Time a probe of a source took (metadata.fetch_duration). p95 is to stay below 10 s.",
            unit="s",
            queries=quantiles(METADATA_FETCH),
            thresholds=((10, "red"),),
        ),
        Panel(
            title="Metadata within 15 s",
            description="Share of jobs whose metadata stood within 15 s of their creation. The objective is 95 %.",
            unit="percentunit",
            queries=(Query(expr=share_within(METADATA_READY, 15.0), legend="within 15 s"),),
        ),
    ),
)

_WEBHOOKS = Row(
    title="Webhooks",
    panels=(
        Panel(
            title="Deliveries",
            description="Webhook deliveries tried a minute, by result.",
            unit="cpm",
            queries=(Query(expr=per_minute(WEBHOOK_DELIVERIES, by="result"), legend="{{result}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Given up",
            description="Messages a minute that were never delivered, by reason: their receivers miss something.",
            unit="cpm",
            queries=(Query(expr=per_minute(WEBHOOKS_GIVEN_UP, by="reason"), legend="{{reason}}"),),
        ),
        Panel(
            title="In hand",
            description="Messages the courier is delivering now.",
            unit="short",
            queries=(Query(expr=total(WEBHOOKS_HELD), legend="in hand"),),
        ),
    ),
)

BOARD = Board(
    uid="rayhaul-jobs",
    title="Rayhaul · Jobs",
    description="What becomes of jobs: how many, how long, and why they fail.",
    rows=(_FLOW, _FAILURES, _TIMES, _WEBHOOKS),
)
