"""The sites we read from. Single hosts are no label here, for there is no end of them: `GET /hosts` shows them."""

from dashboards.board import Board, Look, Panel, Query, Row, per_minute, quantiles, rate, share, share_within
from rayhaul.metrics import (
    EGRESS_DENIED,
    HEDGES,
    JOBS_FINISHED,
    METADATA_FETCH,
    METADATA_READY,
    PEEKS,
    REQUEUES,
    SINK_BYTES,
    SOURCE_BYTES,
    SOURCES_LEFT_OUT,
)

_SOURCE = 'fault="source"'

_READING = Row(
    title="Reading",
    panels=(
        Panel(
            title="Read from sources",
            description="Bytes a second over all hosts.",
            unit="Bps",
            queries=(Query(expr=rate(SOURCE_BYTES), legend="read"),),
        ),
        Panel(
            title="Read for nothing",
            description="Share of the bytes read that did not get into the bucket: attempts that failed, pauses, "
            "stopped leases.",
            unit="percentunit",
            queries=(
                Query(
                    expr=f"clamp_min(1 - ({share(rate(SINK_BYTES), rate(SOURCE_BYTES))}), 0) * "
                    f"(({rate(SOURCE_BYTES)}) > bool 0)",
                    legend="for nothing",
                ),
            ),
        ),
        Panel(
            title="Probes",
            description="Time that fetching a file's metadata took; a slow p99 is a slow host.",
            unit="s",
            queries=quantiles(METADATA_FETCH),
            thresholds=((10, "red"),),
        ),
        Panel(
            title="Peeks",
            description="Small files a minute that came along with their probe, by whether their lease used them. What "
            "is not used was read for nothing: its lease came too late, or at another agent.",
            unit="cpm",
            queries=(Query(expr=per_minute(PEEKS, by="result"), legend="{{result}}"),),
        ),
    ),
)

_TROUBLE = Row(
    title="Trouble",
    panels=(
        Panel(
            title="Failed by their source",
            description="Jobs a minute that failed by their source's fault, by cause.",
            unit="cpm",
            queries=(Query(expr=per_minute(JOBS_FINISHED, _SOURCE, by="code"), legend="{{code}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Tried again",
            description="Jobs handed back a minute because their source was busy, stalled, or changed meanwhile.",
            unit="cpm",
            queries=(Query(expr=per_minute(REQUEUES, 'code=~"source_.+"', by="code"), legend="{{code}}"),),
            look=Look.STACK,
        ),
        Panel(
            title="Hedges",
            description="Second requests a minute for parts that crawled, or whose first request broke, by what became "
            "of them: the part was brought by it (won), by the first request after all (lost), or not by it (failed).",
            unit="cpm",
            queries=(Query(expr=per_minute(HEDGES, by="result"), legend="{{result}}"),),
        ),
        Panel(
            title="Connections refused by us",
            description="Outbound connections a minute that the address guard refused, by reason: private addresses, "
            "ports.",
            unit="cpm",
            queries=(Query(expr=per_minute(EGRESS_DENIED, by="reason"), legend="{{reason}}"),),
        ),
        Panel(
            title="Sources left out",
            description="Sources a minute, of jobs with mirrors, that were not read from any more: another file, "
            "nothing that shows it to be the same (doubtful), or what they failed with.",
            unit="cpm",
            queries=(Query(expr=per_minute(SOURCES_LEFT_OUT, by="reason"), legend="{{reason}}"),),
        ),
        Panel(
            title="Metadata within 15 s",
            description="Share of jobs whose metadata stood within 15 s of their creation.",
            unit="percentunit",
            queries=(Query(expr=share_within(METADATA_READY, 15.0), legend="within 15 s"),),
        ),
        Panel(
            title="Metadata ready",
            description="From a job's creation until its metadata stood: the probe, and the wait for it.",
            unit="s",
            queries=quantiles(METADATA_READY),
            thresholds=((15, "red"),),
        ),
    ),
)

BOARD = Board(
    uid="rayhaul-sources",
    title="Rayhaul · Sources and hosts",
    description="The sites we read from.",
    rows=(_READING, _TROUBLE),
)
