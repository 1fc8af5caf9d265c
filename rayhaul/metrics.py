"""Every metric once: its name, kind, labels, unit and meaning; and the meter that counts them.

A `Meter` is plain numbers, so that agents can count without a metrics library and ship what they counted in their
heartbeats. Shipped values are cumulative per process: receiving a snapshot twice changes nothing. `/metrics` renders
the cluster's sum (actors/counts.py, serve_app/exposition.py).
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from rayhaul.errors import faults


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    #: As exposed, with unit and `_total` (prometheus.io/docs/practices/naming).
    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    #: Upper bounds of a histogram, without +Inf; thresholds of the SLOs are among them, so that ratios are exact.
    buckets: tuple[float, ...] = ()
    #: The name in the observability specification; empty where it has none.
    seed: str = ""
    #: Label values of a counter that stand at 0 from the start: of what appears with its first count Prometheus sees no
    #: increase, and what is absent can not be watched.
    first: tuple[tuple[str, ...], ...] = ()


_SECONDS_SHORT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SECONDS_METADATA = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0)
_SECONDS_LONG = (0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 10800.0, 43200.0)

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

JOBS_CREATED = Metric("rayhaul_jobs_created_total", _C, "Jobs accepted.", seed="jobs.created.rate")
JOBS_FINISHED = Metric(
    "rayhaul_jobs_finished_total",
    _C,
    "Jobs that reached a final state.",
    ("outcome", "fault", "code"),
    seed="jobs.completed.rate, jobs.failed.rate",
    first=(("completed", "none", "none"), *sorted(("failed", str(fault), code) for code, fault in faults().items())),
)
JOB_DURATION = Metric(
    "rayhaul_job_duration_seconds", _H, "From creation to completion.", (), _SECONDS_LONG, "jobs.duration"
)
METADATA_FETCH = Metric(
    "rayhaul_metadata_fetch_duration_seconds",
    _H,
    "Time a metadata probe took.",
    (),
    _SECONDS_METADATA,
    "metadata.fetch_duration",
)
METADATA_READY = Metric(
    "rayhaul_metadata_ready_seconds", _H, "From a job's creation until its metadata stood.", (), _SECONDS_METADATA
)
QUEUE_DEPTH = Metric("rayhaul_queue_depth", _G, "Jobs waiting for an agent.", ("priority",), seed="queue.depth")
QUEUE_DLQ_DEPTH = Metric("rayhaul_queue_dlq_depth", _G, "Jobs in the dead-letter queue.", seed="queue.dlq.depth")
QUEUE_OLDEST_AGE = Metric("rayhaul_queue_oldest_age_seconds", _G, "How long the longest-waiting job has waited.")
WORKER_CAPACITY = Metric(
    "rayhaul_worker_capacity_pct", _G, "Share of an agent in use, 0-100.", ("agent",), seed="worker.capacity_pct"
)
WORKER_CAPACITY_AVG = Metric(
    "rayhaul_worker_capacity_pct_avg",
    _G,
    "Average share of the online agents in use, 0-100.",
    seed="worker.capacity_pct",
)
WORKER_OFFLINE = Metric(
    "rayhaul_worker_offline_count", _G, "Agents that stopped reporting.", seed="worker.offline_count"
)
WORKERS = Metric("rayhaul_workers", _G, "Agents by state.", ("state",))
SINK_REQUESTS = Metric(
    "rayhaul_sink_requests_total",
    _C,
    "Requests to the bucket.",
    ("operation", "result"),
    seed="r2.upload.error_rate",
    first=tuple((operation, result) for operation in ("put_object", "upload_part") for result in ("ok", "sink_busy")),
)
SINK_RETRIES_EXHAUSTED = Metric(
    "rayhaul_sink_retries_exhausted_total", _C, "Bucket operations given up after their last retry."
)
SSE_CONNECTIONS = Metric("rayhaul_sse_connections", _G, "Open event streams.", seed="do.connections")
SSE_EVENT_LAG = Metric(
    "rayhaul_sse_event_lag_seconds", _H, "From an event's commit until it was sent.", (), _SECONDS_SHORT
)
SSE_DELIVERY_LAG = Metric(
    "rayhaul_sse_delivery_lag_seconds",
    _H,
    "From an event's commit until a client behind the ingress had it, as the prober measures.",
    (),
    _SECONDS_SHORT,
)
DELIVERY_PROBES = Metric(
    "rayhaul_delivery_probes_total",
    _C,
    "Presigned links of completed jobs that the prober followed.",
    ("result",),
    first=tuple((result,) for result in ("ok", "absent", "refused", "unreachable", "wrong_size")),
)
HTTP_REQUESTS = Metric(
    "rayhaul_http_requests_total", _C, "API requests.", ("method", "route", "status"), seed="api.error_rate_5xx"
)
HTTP_DURATION = Metric(
    "rayhaul_http_request_duration_seconds",
    _H,
    "Time until an API response began.",
    ("method", "route"),
    _SECONDS_SHORT,
    "api.p95_latency_ms",
)
RATE_LIMIT_HITS = Metric(
    "rayhaul_rate_limit_hits_total", _C, "Requests refused by a rate limit.", seed="api.rate_limit_hits"
)
FENCED_WRITES = Metric("rayhaul_fenced_writes_total", _C, "Stale reports refused by their epoch.", ("kind",))
REQUEUES = Metric("rayhaul_requeues_total", _C, "Jobs handed back to the queue.", ("code",))
EGRESS_DENIED = Metric("rayhaul_egress_denied_total", _C, "Outbound connections refused.", ("reason",))
CHECKSUM_MISMATCHES = Metric("rayhaul_checksum_mismatches_total", _C, "Objects not published for their checksum.")
ORPHAN_UPLOADS = Metric("rayhaul_orphan_uploads_aborted_total", _C, "Uploads aborted because no job needs them.")
SOURCES_LEFT_OUT = Metric(
    "rayhaul_sources_left_out_total", _C, "Sources of jobs with mirrors that were not read from any more.", ("reason",)
)
HEDGES = Metric(
    "rayhaul_hedges_total",
    _C,
    "Second requests for parts that crawled, or whose first one broke. `won`: the part was brought by it.",
    ("result",),
    first=(("failed",), ("lost",), ("won",)),
)
PEEKS = Metric(
    "rayhaul_source_peeks_total",
    _C,
    "Small files that came along with the look at them, by whether the lease used them.",
    ("result",),
    first=(("unused",), ("used",)),
)
SOURCE_BYTES = Metric("rayhaul_source_bytes_total", _C, "Bytes read from sources.")
SINK_BYTES = Metric("rayhaul_sink_bytes_total", _C, "Bytes written to the bucket.")
LEDGER_COMMIT = Metric(
    "rayhaul_ledger_commit_duration_seconds", _H, "Time of one group commit, fsync included.", (), _SECONDS_SHORT
)
SINK_PARKED = Metric(
    "rayhaul_sink_parked", _G, "1 while no job is started because the bucket refuses us.", seed="sink.parked"
)
SCALING_DECISIONS = Metric(
    "rayhaul_scaling_decisions_total", _C, "Changes of the number of agents that were decided.", ("reason",)
)
AGENTS_WANTED = Metric("rayhaul_agents_wanted", _G, "Agents there should be, pending ones included.")
AGENTS_PENDING = Metric("rayhaul_agents_pending", _G, "Agents asked for that do not report yet.")
LEADERSHIP = Metric("rayhaul_scheduler_leadership_epoch", _G, "Epoch of the scheduler's leadership.")
POISONED_CALLS = Metric(
    "rayhaul_poisoned_calls_total", _C, "Calls and notices refused because the ledger can not take their content."
)
WEBHOOK_DELIVERIES = Metric("rayhaul_webhook_deliveries_total", _C, "Webhook deliveries tried.", ("result",))
WEBHOOKS_GIVEN_UP = Metric(
    "rayhaul_webhooks_given_up_total", _C, "Webhook messages that were never delivered.", ("reason",)
)
WEBHOOKS_HELD = Metric("rayhaul_webhooks_held", _G, "Webhook messages in the courier's hands.")
TRACE_SPANS = Metric(
    "rayhaul_trace_spans_total", _C, "Spans sent to the trace collector, dropped before or failed.", ("result",)
)
ALERTS_FIRING = Metric(
    "rayhaul_alerts_firing", _G, "1 while an alert fires, by the scheduler's own readings.", ("alert",)
)
TICK_ERRORS = Metric("rayhaul_scheduler_tick_errors_total", _C, "Turns of the control loop that failed.")
AGENT_ERRORS = Metric("rayhaul_agent_errors_total", _C, "Unexpected errors in an agent's slots.")

CATALOGUE: Mapping[str, Metric] = {value.name: value for value in list(globals().values()) if isinstance(value, Metric)}

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One of the values of a bucket, and the trace that tells how it came about (OpenMetrics 1.0, "Exemplars")."""

    trace_id: str
    value: float
    #: When it was observed, Unix time.
    at_s: float


@dataclass(frozen=True, slots=True)
class HistogramValue:
    #: One count per bucket plus the last for +Inf; not cumulative.
    counts: tuple[int, ...]
    total: float
    #: The newest of each bucket that has one, by its index.
    exemplars: Mapping[int, Exemplar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one process has counted since it started."""

    counters: Mapping[tuple[str, Labels], float] = field(default_factory=dict)
    gauges: Mapping[tuple[str, Labels], float] = field(default_factory=dict)
    histograms: Mapping[tuple[str, Labels], HistogramValue] = field(default_factory=dict)
    #: Counts the snapshots of a process, from 1; 0: a sum, or nothing yet.
    number: int = 0


class Meter:
    """Counts in one process. Not thread-safe: used from one event loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._counters: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], tuple[list[int], list[float]]] = {}
        self._snapshots_count = 0
        self._exemplars: dict[tuple[str, Labels], dict[int, Exemplar]] = {}

    def inc(self, metric: Metric, *labels: str, by: float = 1) -> None:
        key = (metric.name, _checked(metric, labels))
        self._counters[key] = self._counters.get(key, 0) + by

    def set(self, metric: Metric, value: float, *labels: str) -> None:
        self._gauges[metric.name, _checked(metric, labels)] = value

    def clear(self, metric: Metric) -> None:
        """Forget a gauge's values, before its label values are set anew."""
        for key in [key for key in self._gauges if key[0] == metric.name]:
            del self._gauges[key]

    def observe(self, metric: Metric, value: float, *labels: str, trace_id: str | None = None, times: int = 1) -> None:
        """Note a value, which was seen so many times; `trace_id` is that of a recorded trace it belongs to."""
        key = (metric.name, _checked(metric, labels))
        if (histogram := self._histograms.get(key)) is None:
            histogram = self._histograms[key] = [0] * (len(metric.buckets) + 1), [0.0]
        counts, total = histogram
        bucket = bisect_left(metric.buckets, value)
        counts[bucket] += times
        total[0] += value * times
        if trace_id is not None:
            self._exemplars.setdefault(key, {})[bucket] = Exemplar(trace_id, value, self._clock())

    def restore(self, counters: Mapping[tuple[str, Labels], float]) -> None:
        """Let these counters stand where they are known to."""
        self._counters.update(counters)

    def snapshot(self) -> Snapshot:
        self._snapshots_count += 1
        return Snapshot(
            number=self._snapshots_count,
            counters=dict(self._counters),
            gauges=dict(self._gauges),
            histograms={
                key: HistogramValue(tuple(counts), total[0], dict(self._exemplars.get(key, {})))
                for key, (counts, total) in self._histograms.items()
            },
        )


def _checked(metric: Metric, labels: tuple[str, ...]) -> Labels:
    assert len(labels) == len(metric.labels), f"{metric.name} takes the labels {metric.labels}"
    return labels


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of counters and histograms; a gauge set by several processes is summed too."""
    counters: dict[tuple[str, Labels], float] = {}
    gauges: dict[tuple[str, Labels], float] = {}
    histograms: dict[tuple[str, Labels], HistogramValue] = {}
    for snapshot in snapshots:
        for key, value in snapshot.counters.items():
            counters[key] = counters.get(key, 0) + value
        for key, value in snapshot.gauges.items():
            gauges[key] = gauges.get(key, 0) + value
        for key, histogram in snapshot.histograms.items():
            before = histograms.get(key)
            histograms[key] = histogram if before is None else _add(before, histogram)
    return Snapshot(counters=counters, gauges=gauges, histograms=histograms)


def difference(later: Snapshot, earlier: Snapshot) -> Snapshot:
    """Return what a process has counted between two snapshots, and its gauges of the later one."""
    counters = {key: value - earlier.counters.get(key, 0) for key, value in later.counters.items()}
    histograms = {
        key: value if (before := earlier.histograms.get(key)) is None else _subtract(value, before)
        for key, value in later.histograms.items()
    }
    return Snapshot(counters=counters, gauges=later.gauges, histograms=histograms)


def _subtract(left: HistogramValue, right: HistogramValue) -> HistogramValue:
    counts = tuple(a - b for a, b in zip(left.counts, right.counts, strict=True))
    return HistogramValue(counts, left.total - right.total, left.exemplars)


def _add(left: HistogramValue, right: HistogramValue) -> HistogramValue:
    counts = tuple(a + b for a, b in zip(left.counts, right.counts, strict=True))
    exemplars = dict(left.exemplars)
    for bucket, exemplar in right.exemplars.items():
        known = exemplars.get(bucket)
        if known is None or known.at_s < exemplar.at_s:
            exemplars[bucket] = exemplar
    return HistogramValue(counts, left.total + right.total, exemplars)
