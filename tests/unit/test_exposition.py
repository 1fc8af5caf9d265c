"""Metrics as Prometheus reads them, checked with its own parser."""

from collections.abc import Iterator

import pytest
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from rayhaul import metrics
from rayhaul.metrics import CATALOGUE, Exemplar, Kind, Meter, Snapshot, merge
from serve_app.exposition import MEDIA_TYPE, OPENMETRICS, exposition, media_type

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(snapshot: Snapshot) -> Samples:
    families = text_string_to_metric_families(exposition(snapshot).decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def read_openmetrics(snapshot: Snapshot) -> Iterator[Family]:
    """Read what OpenMetrics shows with its own parser, which takes nothing that breaks the rules."""
    found: Iterator[Family] = openmetrics_families(exposition(snapshot, OPENMETRICS).decode())  # type: ignore[no-untyped-call]
    return found


def test_every_metric_is_there_from_the_start() -> None:
    """Each one of the catalogue with help and type; those without labels with 0, so that rates have a first point."""
    text = exposition(Snapshot()).decode()
    found = samples(Snapshot())
    for metric in CATALOGUE.values():
        assert f"# HELP {metric.name} {metric.help}\n" in text
        assert f"# TYPE {metric.name} {metric.kind}\n" in text
        if metric.first:
            told = {tuple(sorted(zip(metric.labels, values, strict=True))) for values in metric.first}
            assert {labels: value for (name, labels), value in found.items() if name == metric.name} == dict.fromkeys(
                told, 0
            )
        elif metric.labels:
            assert not any(name.startswith(metric.name) and not name.endswith("_avg") for name, _ in found)
        elif metric.kind is Kind.HISTOGRAM:
            assert found[f"{metric.name}_count", ()] == 0
            assert found[f"{metric.name}_bucket", (("le", "+Inf"),)] == 0
        else:
            assert found[metric.name, ()] == 0


def test_failures_of_every_code_stand_from_the_start() -> None:
    """The first one of a kind is seen as an increase, whatever it is."""
    labels = {
        dict(labels)["code"]: dict(labels)["fault"] for (name, labels) in samples(Snapshot()) if "finished" in name
    }
    assert (
        labels.items()
        >= {"source_not_found": "source", "sink_refused": "sink", "internal": "us", "none": "none"}.items()
    )


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


def exemplars(snapshot: Snapshot) -> dict[tuple[str, str], tuple[str, float, float | None]]:
    """Read OpenMetrics, strictly: trace id, value and time of each exemplar, by metric and bound."""
    families = read_openmetrics(snapshot)
    return {
        (sample.name, sample.labels["le"]): (
            sample.exemplar.labels["trace_id"],
            sample.exemplar.value,
            float(sample.exemplar.timestamp) if sample.exemplar.timestamp else None,
        )
        for family in families
        for sample in family.samples
        if sample.exemplar
    }


def test_exemplars() -> None:
    """The newest value of each bucket whose trace is recorded stands beside its count, in OpenMetrics alone."""
    now_s = iter((1.0, 2.5, 3.0))
    meter = Meter(lambda: next(now_s))
    for value, trace_id in ((0.3, "a" * 32), (0.4, "b" * 32), (0.45, None), (99.0, "c" * 32)):
        meter.observe(metrics.JOB_DURATION, value, trace_id=trace_id)
    snapshot = meter.snapshot()
    name = "rayhaul_job_duration_seconds_bucket"
    assert exemplars(snapshot) == {(name, "0.5"): ("b" * 32, 0.4, 2.5), (name, "300.0"): ("c" * 32, 99.0, 3.0)}
    assert b"trace_id" not in exposition(snapshot)
    assert samples(snapshot)[name, (("le", "0.5"),)] == 3


def test_exemplars_are_bounded() -> None:
    """One for each bucket of each series, however much is observed; what was shipped before stays as it was."""
    meter = Meter()
    for number in range(1000):
        meter.observe(metrics.JOB_DURATION, number * 50.0, trace_id=f"{number:032x}")
    before = meter.snapshot()
    value = before.histograms[metrics.JOB_DURATION.name, ()]
    assert len(value.exemplars) <= len(metrics.JOB_DURATION.buckets) + 1
    meter.observe(metrics.JOB_DURATION, 0.1, trace_id="f" * 32)
    assert value.exemplars[0].trace_id == f"{0:032x}"


def test_the_newest_exemplar_of_several_processes() -> None:
    """Sums keep one for each bucket: the newest, whoever saw it, and whatever the order."""
    early, late = Meter(lambda: 10.0), Meter(lambda: 20.0)
    for meter, name, values in ((early, "a", (0.1, 2.0)), (late, "b", (0.2,))):
        for value in values:
            meter.observe(metrics.JOB_DURATION, value, trace_id=name * 32)
    snapshots = [early.snapshot(), late.snapshot()]
    for order in (snapshots, snapshots[::-1]):
        found = merge(order).histograms[metrics.JOB_DURATION.name, ()].exemplars
        assert found == {0: Exemplar("b" * 32, 0.2, 20.0), 2: Exemplar("a" * 32, 2.0, 10.0)}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", MEDIA_TYPE),
        ("*/*", MEDIA_TYPE),
        ("text/plain", MEDIA_TYPE),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; version=1.0.0", OPENMETRICS),
        # Prometheus 2 and 3.
        (
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
            ),
            OPENMETRICS,
        ),
        (
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;"
                "version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.1"
            ),
            OPENMETRICS,
        ),
        ("text/plain;q=1, application/openmetrics-text;q=0.9", MEDIA_TYPE),
        ("application/openmetrics-text;q=0", MEDIA_TYPE),
        ("application/openmetrics-text;q=nonsense", MEDIA_TYPE),
        (";;,=,q", MEDIA_TYPE),
    ],
)
def test_which_format(accept: str, expected: str) -> None:
    """OpenMetrics where it is asked for and liked as well as the other (RFC 9110 12.5.1)."""
    assert media_type(accept) == expected


def test_openmetrics_has_all_that_the_text_has() -> None:
    """Its strict parser takes it, and finds the same samples."""
    meter = Meter()
    meter.inc(metrics.JOBS_FINISHED, "failed", "source", 'a "quoted\\name"\n')
    meter.observe(metrics.HTTP_DURATION, 0.3, "GET", "/jobs", trace_id="a" * 32)
    families = read_openmetrics(meter.snapshot())
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }
    assert found == samples(meter.snapshot())


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
