"""The bucket we write to."""

from dashboards.board import Board, Look, Panel, Query, Row, peak, per_minute, rate, share
from rayhaul.metrics import (
    CHECKSUM_MISMATCHES,
    DELIVERY_PROBES,
    JOBS_FINISHED,
    ORPHAN_UPLOADS,
    SINK_BYTES,
    SINK_PARKED,
    SINK_REQUESTS,
    SINK_RETRIES_EXHAUSTED,
)

#: What is not the bucket's failure: it answered, the source broke off a body, or we stopped.
_FINE = "ok|absent|body|cancelled"

_TRAFFIC = Row(
    title="Traffic",
    panels=(
        Panel(
            title="Written",
            description="Bytes a second into the bucket.",
            unit="Bps",
            queries=(Query(expr=rate(SINK_BYTES), legend="written"),),
        ),
        Panel(
            title="Requests by operation",
            description="Requests a second to the bucket.",
            unit="reqps",
            queries=(Query(expr=rate(SINK_REQUESTS, by="operation"), legend="{{operation}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Requests by result",
            description="Requests a second by what became of them; `absent` is an answer, as to a look before writing.",
            unit="reqps",
            queries=(Query(expr=rate(SINK_REQUESTS, by="result"), legend="{{result}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Links followed",
            description="Presigned links of completed jobs that the prober followed a minute, by result.",
            unit="cpm",
            queries=(Query(expr=per_minute(DELIVERY_PROBES, by="result"), legend="{{result}}"),),
            look=Look.STACK,
        ),
    ),
)

_TROUBLE = Row(
    title="Trouble",
    panels=(
        Panel(
            title="Error rate",
            description="Share of requests that the bucket failed (r2.upload.error_rate). Above 0.1 % watch it, above "
            "1 % it is an alert.",
            unit="percentunit",
            queries=(
                Query(
                    expr=share(rate(SINK_REQUESTS, f'result!~"{_FINE}"'), rate(SINK_REQUESTS)),
                    legend="failed",
                ),
            ),
            thresholds=((0.001, "orange"), (0.01, "red")),
        ),
        Panel(
            title="Failures by kind",
            description="Requests a second that failed: sink_busy passes, sink_refused does not pass by itself.",
            unit="reqps",
            queries=(Query(expr=rate(SINK_REQUESTS, f'result!~"{_FINE}"', by="result"), legend="{{result}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Given up",
            description="Operations a minute given up after their last retry, and jobs that failed by the bucket's "
            "fault.",
            unit="cpm",
            queries=(
                Query(expr=per_minute(SINK_RETRIES_EXHAUSTED), legend="operations"),
                Query(expr=per_minute(JOBS_FINISHED, 'outcome="failed"', 'fault="sink"'), legend="jobs"),
            ),
            thresholds=((0.01, "red"),),
        ),
        Panel(
            title="Parked",
            description="1 while no job is started because the bucket refuses us; one job at a time tries again.",
            unit="short",
            queries=(Query(expr=peak(SINK_PARKED), legend="parked"),),
            thresholds=((1, "red"),),
        ),
        Panel(
            title="Uploads cleared away",
            description="Uploads aborted a minute because no job needs them any more.",
            unit="cpm",
            queries=(Query(expr=per_minute(ORPHAN_UPLOADS), legend="aborted"),),
        ),
        Panel(
            title="Checksums that disagree",
            description="Objects a minute not published because what stood in the bucket was not what was asked for.",
            unit="cpm",
            queries=(Query(expr=per_minute(CHECKSUM_MISMATCHES), legend="refused"),),
            thresholds=((0.01, "red"),),
        ),
    ),
)

BOARD = Board(
    uid="rayhaul-sink",
    title="Rayhaul · Sink",
    description="The bucket we write to.",
    rows=(_TRAFFIC, _TROUBLE),
)
