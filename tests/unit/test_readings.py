"""Indicators from counts: rates, shares, quantiles, and what is not known."""

from collections.abc import Callable

import pytest

from rayhaul import metrics
from rayhaul.metrics import Meter
from rayhaul.policy.indicators import INDICATORS
from rayhaul.policy.readings import History, readings, sampled

T0 = 1_800_000_000.0
STEP_S = 5.0


def after(minutes: float, each: Callable[[Meter, int], None], meter: Meter | None = None) -> History:
    """Return the history of a meter that counts before each sample."""
    meter, history = meter or Meter(), ()
    for number in range(int(minutes * 60 / STEP_S) + 1):
        each(meter, number)
        history = sampled(history, meter.snapshot(), T0 + number * STEP_S)  # type: ignore[assignment]
    return history


def read(history: History, name: str) -> float | None:
    assert name in INDICATORS
    return readings(history).get(name)


def test_rates_are_per_minute() -> None:
    """Two jobs every five seconds are 24 a minute, over whatever time there is."""
    for minutes in (1, 4, 10):
        history = after(minutes, lambda meter, _: meter.inc(metrics.JOBS_CREATED, by=2))
        assert read(history, "jobs.created.rate") == pytest.approx(24)


def test_a_rate_forgets_what_is_older_than_its_window() -> None:
    """Ten minutes after the last job the five-minute rate is 0, and the hour's still knows of it."""
    history = after(15, lambda meter, n: meter.inc(metrics.JOBS_CREATED, by=12 if 0 < n <= 10 else 0))
    assert read(history, "jobs.created.rate") == 0
    assert read(history, "jobs.created.rate_1h") == pytest.approx(120 / 15)


def test_the_history_is_bounded() -> None:
    """An hour of samples, however long it goes on."""
    history = after(70, lambda meter, _: meter.inc(metrics.JOBS_CREATED))
    assert len(history) <= 3600 / STEP_S + 2


def test_one_sample_has_no_rate() -> None:
    """What is not known is absent: no rule fires on it."""
    history = after(0, lambda meter, _: meter.inc(metrics.JOBS_CREATED, by=99))
    assert read(history, "jobs.created.rate") is None
    assert readings(()) == {}


def test_a_clock_set_back_begins_anew() -> None:
    """A rate over negative time is none."""
    meter = Meter()
    history = sampled(sampled((), meter.snapshot(), T0), meter.snapshot(), T0 - 60)
    assert [sample.at_s for sample in history] == [T0 - 60]


def test_only_what_matches_is_counted() -> None:
    """Failures by fault; cancelled jobs have not ended; health checks are no requests."""

    def each(meter: Meter, _: int) -> None:
        meter.inc(metrics.JOBS_FINISHED, "completed", "none", "none", by=6)
        meter.inc(metrics.JOBS_FINISHED, "failed", "source", "source_not_found", by=3)
        meter.inc(metrics.JOBS_FINISHED, "failed", "us", "internal", by=1)
        meter.inc(metrics.JOBS_FINISHED, "cancelled", "caller", "cancelled", by=50)
        meter.inc(metrics.HTTP_REQUESTS, "GET", "/readyz", "503", by=9)
        meter.inc(metrics.HTTP_REQUESTS, "GET", "/jobs", "200", by=9)
        meter.inc(metrics.HTTP_REQUESTS, "POST", "/jobs", "500", by=1)
        meter.inc(metrics.HTTP_REQUESTS, "GET", "/queue", "200", by=99)
        meter.inc(metrics.HTTP_REQUESTS, "GET", "/queue", "404", by=1)

    history = after(5, each)
    assert read(history, "jobs.failed.rate") == pytest.approx(48)
    assert read(history, "jobs.failed_by_service.rate") == pytest.approx(12)
    assert read(history, "jobs.ended.rate") == pytest.approx(120)
    # Told apart by route: the highest counts.
    assert read(history, "api.error_rate_5xx") == pytest.approx(0.1)


def test_an_answer_that_says_no_is_no_error_of_the_bucket() -> None:
    """Absence, a body cut short by its source and a cancelled lease are nothing that the bucket did."""

    def each(meter: Meter, _: int) -> None:
        for result, count in (("ok", 95), ("absent", 2), ("body", 1), ("cancelled", 1), ("sink_busy", 1)):
            meter.inc(metrics.SINK_REQUESTS, "upload_part", result, by=count)

    assert read(after(5, each), "r2.upload.error_rate") == pytest.approx(0.01)


def test_quantiles_are_of_the_window() -> None:
    """The slow requests of ten minutes ago do not count any more; milliseconds where the name says so."""

    def each(meter: Meter, number: int) -> None:
        seconds = 4.0 if number < 20 else 0.02
        meter.observe(metrics.HTTP_DURATION, seconds, "GET", "/jobs")

    history = after(15, each)
    # All within (0.01, 0.025]: the 95th percentile lies 95 % of the way.
    assert read(history, "api.p95_latency_ms") == pytest.approx(24.25)
    assert read(history, "api.p50_latency_ms") == pytest.approx(17.5)


def test_gauges_stand_as_they_are() -> None:
    """Summed over their labels; a share of nothing is not known."""
    meter = Meter()
    meter.set(metrics.QUEUE_DEPTH, 3, "high")
    meter.set(metrics.QUEUE_DEPTH, 4, "low")
    history = after(0, lambda *_: None, meter)
    assert read(history, "queue.depth") == 7
    assert read(history, "worker.offline_pct") is None
    meter.set(metrics.WORKERS, 3, "online")
    meter.set(metrics.WORKERS, 1, "offline")
    meter.set(metrics.WORKER_OFFLINE, 1)
    assert read(after(0, lambda *_: None, meter), "worker.offline_pct") == 25
