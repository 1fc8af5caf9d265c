"""Metrics as Prometheus reads them, checked with its own parser."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rayhaul import metrics
from rayhaul.metrics import CATALOGUE, Kind, Meter, Snapshot
from serve_app.exposition import exposition

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(snapshot: Snapshot) -> Samples:
    families = text_string_to_metric_families(exposition(snapshot).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_metric_is_there_from_the_start() -> None:
    """Each one of the catalogue with help and type; those without labels with 0, so that rates have a first point."""
    text = exposition(Snapshot()).decode()
    found = samples(Snapshot())
    for metric in CATALOGUE.values():
        assert f"# HELP {metric.name} {metric.help}\n" in text
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
        if metric.labels:
            assert not any(name.startswith(metric.name) and not name.endswith("_avg") for name, _ in found)
        elif metric.kind is Kind.HISTOGRAM:
            assert found[f"{metric.name}_count", ()] == 0
            assert found[f"{metric.name}_bucket", (("le", "+Inf"),)] == 0
        else:
            assert found[metric.name, ()] == 0


def test_values_have_their_labels() -> None:
    """Counters, gauges and their label values come out as they were counted, whatever characters they have."""
    meter = Meter()
    meter.inc(metrics.JOBS_CREATED, by=3)
    meter.inc(metrics.JOBS_FINISHED, "failed", "source", "source_busy")
    meter.set(metrics.WORKER_CAPACITY, 62.5, 'a "quoted\\name"\n')
    found = samples(meter.snapshot())
    assert found["rayhaul_jobs_created_total", ()] == 3
    labels = (("code", "source_busy"), ("fault", "source"), ("outcome", "failed"))
    assert found["rayhaul_jobs_finished_total", labels] == 1
    assert found["rayhaul_worker_capacity_pct", (("agent", 'a "quoted\\name"\n'),)] == 62.5


@pytest.mark.parametrize(
    ("bound", "count"), [("0.25", 0.0), ("0.5", 2.0), ("1.0", 2.0), ("2.5", 3.0), ("10.0", 3.0), ("+Inf", 4.0)]
)
def test_buckets_are_cumulative(bound: str, count: float) -> None:
    """A bucket counts all values up to its bound, the bound included; the last one counts all."""
    meter = Meter()
    for value in (0.3, 0.5, 2.0, 99.0):
        meter.observe(metrics.HTTP_DURATION, value, "GET", "/jobs")
    found = samples(meter.snapshot())
    labels = (("method", "GET"), ("route", "/jobs"))
    name = "rayhaul_http_request_duration_seconds"
    assert found[f"{name}_bucket", tuple(sorted((*labels, ("le", bound))))] == count
    assert found[f"{name}_count", labels] == 4
    assert found[f"{name}_sum", labels] == pytest.approx(101.8)


def test_the_slo_thresholds_are_bounds() -> None:
    """The alert rules name these buckets as text; they must be written like that."""
    text = exposition(Snapshot()).decode()
    assert 'rayhaul_job_duration_seconds_bucket{le="1800.0"}' in text
    assert 'rayhaul_metadata_ready_seconds_bucket{le="10.0"}' in text
    assert 'rayhaul_metadata_ready_seconds_bucket{le="15.0"}' in text
    assert 'rayhaul_sse_event_lag_seconds_bucket{le="5.0"}' in text


def test_what_the_catalogue_does_not_know_is_left_out() -> None:
    """A newer agent may count what this server cannot describe."""
    snapshot = Snapshot(counters={("rayhaul_from_the_future_total", ()): 1.0})
    assert b"future" not in exposition(snapshot)
