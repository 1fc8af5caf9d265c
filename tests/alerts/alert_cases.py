"""For each alert what makes it fire, what comes close, and what does not: numbers of their own, not the rules'.

A case is series as /metrics shows them, in promtool's notation ("0+5x60": 0, then 5 more each minute, 60 times).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Series = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    alert: str
    #: firing, boundary, silent; more words where there is more than one.
    kind: str
    series: Series
    #: Minutes after the first sample.
    at_min: float
    #: How many alerts of that name fire then.
    firing: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An alert over one number: it fires at `above`, not at `at`, and not at `low`."""

    alert: str
    #: With `{}` where the number goes; the rest is the same in all cases.
    series: Series
    above: float
    at: float
    low: float
    #: When it fires at last, and a time when it does not yet.
    fires_min: float
    waits_min: float
    others: Series = field(default_factory=dict)

    def cases(self) -> Sequence[Case]:
        return (
            Case(alert=self.alert, kind="firing", series=self._with(self.above), at_min=self.fires_min, firing=1),
            Case(alert=self.alert, kind="boundary", series=self._with(self.at), at_min=self.fires_min),
            Case(alert=self.alert, kind="boundary of the window", series=self._with(self.above), at_min=self.waits_min),
            Case(alert=self.alert, kind="silent", series=self._with(self.low), at_min=self.fires_min),
        )

    def _with(self, number: float) -> Series:
        return {name: values.format(f"{number:g}") for name, values in self.series.items()} | dict(self.others)


def _series(metric: str, **labels: str) -> str:
    chosen = ",".join(f'{name}="{value}"' for name, value in {"job": "rayhaul", **labels}.items())
    return f"{metric}{{{chosen}}}"


def _gauge(alert: str, metric: str, numbers: tuple[float, float, float], window_min: float, **labels: str) -> Limit:
    above, at, low = numbers
    return Limit(
        alert=alert,
        series={_series(metric, **labels): "{}x60"},
        above=above,
        at=at,
        low=low,
        fires_min=window_min,
        waits_min=window_min - 1,
    )


_CREATED = _series("rayhaul_jobs_created_total")
_FINISHED = "rayhaul_jobs_finished_total"
_FAILED_BY_SOURCE = _series(_FINISHED, outcome="failed", fault="source", code="source_not_found")
_FAILED_BY_US = _series(_FINISHED, outcome="failed", fault="us", code="internal")
_COMPLETED = _series(_FINISHED, outcome="completed", fault="none", code="none")
_SINK = "rayhaul_sink_requests_total"
_SINK_OK = _series(_SINK, operation="upload_part", result="ok")
_SINK_BUSY = _series(_SINK, operation="upload_part", result="sink_busy")
_HTTP = "rayhaul_http_requests_total"


def _latency(slow_s: str) -> Series:
    """All requests take between half of it and this long; `{}` of 1,000 a minute take up to ten times as long."""
    name = "rayhaul_http_request_duration_seconds_bucket"
    labels = {"method": "GET", "route": "/jobs"}
    return {
        _series(name, **labels, le=slow_s): "0+{}x60",
        _series(name, **labels, le="10.0"): "0+1000x60",
        _series(name, **labels, le="+Inf"): "0+1000x60",
    }


def _duration(metric: str, bound: str, above: str, last: str) -> Series:
    name = f"{metric}_bucket"
    return {
        _series(name, le=bound): "0+{}x90",
        _series(name, le=above): "0+1000x90",
        _series(name, le=last): "0+1000x90",
        _series(name, le="+Inf"): "0+1000x90",
    }


# A rate is there after the first minute, and whole after five; a share of two rates is whole at once.
LIMITS = (
    Limit(
        alert="HighJobFailureRate",
        series={_FAILED_BY_SOURCE: "0+{}x60"},
        others={_CREATED: "0+100x60"},
        above=6,
        at=5,
        low=0,
        fires_min=6,
        waits_min=5,
    ),
    _gauge("QueueBacklog", "rayhaul_queue_depth", (2001, 2000, 3), 2, priority="normal"),
    _gauge("WorkerOffline", "rayhaul_worker_offline_count", (1, 0, 0), 1),
    _gauge("DLQNonEmpty", "rayhaul_queue_dlq_depth", (1, 0, 0), 1),
    Limit(
        alert="R2UploadErrors",
        series={_SINK_BUSY: "0+{}x60"},
        others={_SINK_OK: "0+98x60", _series(_SINK, operation="head_object", result="absent"): "0+1x60"},
        above=1.1,
        at=1,
        low=0,
        fires_min=6,
        waits_min=5,
    ),
    # Of 1,000 a minute the slowest 50 are beyond the 95th percentile.
    Limit(
        alert="APIHighLatency",
        series=_latency("1.0"),
        above=949,
        at=950,
        low=999,
        fires_min=6,
        waits_min=5,
    ),
    _gauge("WorkerCapacityHigh", "rayhaul_worker_capacity_pct_avg", (90.5, 90, 40), 3),
    Limit(
        alert="JobFailuresAboveTarget",
        series={_FAILED_BY_SOURCE: "0+{}x60"},
        others={_CREATED: "0+100x60"},
        above=1.1,
        at=1,
        low=0,
        fires_min=16,
        waits_min=15,
    ),
    _gauge("QueueGrowing", "rayhaul_queue_depth", (501, 500, 3), 5, priority="normal"),
    _gauge("WorkerCapacityWarning", "rayhaul_worker_capacity_pct_avg", (85.5, 85, 40), 5),
    Limit(
        alert="R2UploadErrorsWarning",
        series={_SINK_BUSY: "0+{}x60"},
        others={_SINK_OK: "0+999x60"},
        above=1.1,
        at=1,
        low=0,
        fires_min=11,
        waits_min=10,
    ),
    Limit(
        alert="APIErrors",
        series={_series(_HTTP, method="GET", route="/jobs", status="500"): "0+{}x60"},
        others={
            _series(_HTTP, method="GET", route="/jobs", status="200"): "0+995x60",
            _series(_HTTP, method="POST", route="/jobs/batch", status="201"): "0+5000x60",
            # Health checks say 503 on purpose.
            _series(_HTTP, method="GET", route="/readyz", status="503"): "0+100x60",
        },
        above=5.1,
        at=5,
        low=0,
        fires_min=6,
        waits_min=5,
    ),
    Limit(
        alert="APILatencyWarning",
        series=_latency("0.5"),
        above=949,
        at=950,
        low=999,
        fires_min=6,
        waits_min=5,
    ),
    Limit(
        alert="JobDurationHigh",
        series=_duration("rayhaul_job_duration_seconds", "1800.0", "3600.0", "43200.0"),
        above=949,
        at=950,
        low=999,
        fires_min=16,
        waits_min=15,
    ),
    Limit(
        alert="MetadataSlow",
        series=_duration("rayhaul_metadata_fetch_duration_seconds", "10.0", "15.0", "300.0"),
        above=949,
        at=950,
        low=999,
        fires_min=6,
        waits_min=5,
    ),
    Limit(
        alert="RateLimitSpike",
        series={_series("rayhaul_rate_limit_hits_total"): "0+{}x60"},
        above=61,
        at=60,
        low=1,
        fires_min=16,
        waits_min=10,
    ),
    Limit(
        alert="JobsFailedByService",
        series={_FAILED_BY_US: "0+{}x60"},
        # What a source is to blame for is among the jobs that ended, not among those we failed.
        others={_COMPLETED: "0+88x60", _FAILED_BY_SOURCE: "0+10x60"},
        above=2.1,
        at=2,
        low=0,
        fires_min=6,
        waits_min=5,
    ),
    _gauge("QueueWaitHigh", "rayhaul_queue_oldest_age_seconds", (601, 600, 4), 2),
    Limit(
        alert="WorkersMostlyOffline",
        series={
            _series("rayhaul_worker_offline_count"): "{0}x60",
            _series("rayhaul_workers", state="offline"): "{0}x60",
        },
        others={_series("rayhaul_workers", state="online"): "10x60"},
        # At half it fires: the comparison is "at least".
        above=10,
        at=9,
        low=0,
        fires_min=1,
        waits_min=0,
    ),
    Limit(
        alert="R2RetriesExhausted",
        series={_series("rayhaul_sink_retries_exhausted_total"): "0+{}x60"},
        above=0.1,
        at=0,
        low=0,
        fires_min=6,
        waits_min=5,
    ),
    _gauge("SinkParked", "rayhaul_sink_parked", (1, 0, 0), 1),
    Limit(
        alert="SchedulerTurnsFail",
        series={_series("rayhaul_scheduler_tick_errors_total"): "0+{}x60"},
        above=1.1,
        at=1,
        low=0,
        fires_min=8,
        waits_min=2,
    ),
)


def _spike(kind: str, per_minute: float, at_min: float, firing: int = 0) -> Case:
    # A steady rate for an hour, then another one: five minutes against the hour.
    grown = f"0+10x60 600+{per_minute:g}x30"
    return Case(alert="JobsCreatedSpike", kind=kind, series={_CREATED: grown}, at_min=at_min, firing=firing)


MORE = (
    _spike("firing", 100, 76, 1),
    _spike("boundary", 29, 76),
    _spike("boundary of the window", 100, 66),
    _spike("silent", 10, 76),
    Case(
        alert="JobsCreatedSpike",
        kind="silent after one batch",
        series={_CREATED: "0+1x60 1060+1x30"},
        at_min=71,
    ),
    Case(
        alert="HighJobFailureRate",
        kind="firing where nothing new comes",
        series={_FAILED_BY_SOURCE: "0+1x60", _CREATED: "100x60"},
        at_min=6,
        firing=1,
    ),
    Case(
        alert="APIErrors",
        kind="firing for each endpoint",
        series={
            _series(_HTTP, method="GET", route=route, status=status): f"0+{count}x60"
            for route in ("/jobs", "/queue")
            for status, count in (("200", 90), ("503", 10))
        },
        at_min=6,
        firing=2,
    ),
)

#: About a job of that name, or about none.
META = (
    Case(alert="Watchdog", kind="firing", series={}, at_min=0, firing=1),
    Case(alert="RayhaulDown", kind="firing", series={_series("up"): "1x5 0x9"}, at_min=7, firing=1),
    Case(alert="RayhaulDown", kind="boundary", series={_series("up"): "1x5 0x9"}, at_min=6),
    Case(alert="RayhaulDown", kind="silent", series={'up{job="ray"}': "0x9"}, at_min=5),
)

CASES: Sequence[Case] = (*(case for limit in LIMITS for case in limit.cases()), *MORE)

#: What must be there, or an alert says that it is blind.
WATCHED = (
    "rayhaul_jobs_created_total",
    "rayhaul_jobs_finished_total",
    "rayhaul_job_duration_seconds_count",
    "rayhaul_metadata_fetch_duration_seconds_count",
    "rayhaul_metadata_ready_seconds_count",
    "rayhaul_queue_depth",
    "rayhaul_queue_dlq_depth",
    "rayhaul_queue_oldest_age_seconds",
    "rayhaul_worker_capacity_pct_avg",
    "rayhaul_worker_offline_count",
    "rayhaul_workers",
    "rayhaul_sink_requests_total",
    "rayhaul_sink_retries_exhausted_total",
    "rayhaul_sink_parked",
    "rayhaul_sse_connections",
    "rayhaul_sse_delivery_lag_seconds_count",
    "rayhaul_http_requests_total",
    "rayhaul_http_request_duration_seconds_count",
    "rayhaul_rate_limit_hits_total",
    "rayhaul_scheduler_tick_errors_total",
    "rayhaul_delivery_probes_total",
)


def absence_cases() -> Sequence[Case]:
    """Return for each metric: there, just gone, and gone for as long as it takes."""
    found = []
    for metric in WATCHED:
        alert, series = f"IndicatorAbsent_{metric}", {_series(metric): "1x3 stale"}
        found += [
            Case(alert=alert, kind="silent", series=series, at_min=3),
            Case(alert=alert, kind="boundary", series=series, at_min=8),
            Case(alert=alert, kind="firing", series=series, at_min=9, firing=1),
        ]
    return found
