"""Sending spans: what a collector that is slow, broken or away does to those who record them, which is nothing."""

import logging
import socket
import time
from collections.abc import Iterator

import pytest
from collector import Collector
from pydantic import ValidationError

from rayhaul import otlp, trace_export
from rayhaul.errors import ServiceError
from rayhaul.metrics import TRACE_SPANS, Meter
from rayhaul.otlp import OtlpQueue
from rayhaul.settings import OtlpSettings
from rayhaul.trace_export import check_exporter, open_tracer
from rayhaul.tracing import OFF, Kind, Recorder, Tracer


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector().listening() as listening:
        yield listening


@pytest.fixture
def silent() -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def spans(tracer: Tracer, count: int) -> None:
    for number in range(count):
        with tracer.span("work", Kind.INTERNAL, attributes={"number": number}):
            pass


def counted(meter: Meter) -> dict[str, float]:
    return {labels[0]: value for (name, labels), value in meter.snapshot().counters.items() if name == TRACE_SPANS.name}


def test_all_arrive(collector: Collector) -> None:
    """What was recorded is there when the tracer is closed, however many batches it makes; and is counted."""
    meter = Meter()
    tracer = open_tracer(OtlpSettings(endpoint=collector.endpoint), "agent", meter, instance="a/1")
    spans(tracer, 1500)
    tracer.close()
    assert sorted(span.attributes["number"] for span in collector.spans) == list(range(1500))
    assert counted(meter) == {"sent": 1500}


def test_sent_while_it_runs(collector: Collector) -> None:
    """A span does not wait for the end, or for a full batch."""
    tracer = open_tracer(OtlpSettings(endpoint=collector.endpoint), "agent", Meter(), instance="a/1")
    spans(tracer, 1)
    collector.wait_for(lambda: collector.spans)
    tracer.close()


@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_refused(collector: Collector, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """A collector that refuses costs the spans and nothing else; the log says so once, and when it works again."""
    caplog.set_level(logging.INFO)
    collector.status = status
    meter = Meter()
    queue = OtlpQueue(OtlpSettings(endpoint=collector.endpoint), "agent", "a/1", meter)
    tracer = Recorder(queue.record, close=queue.close)
    for _ in range(3):
        spans(tracer, 1)
        queue._processor.force_flush()
    collector.status = 200
    spans(tracer, 1)
    queue._processor.force_flush()
    tracer.close()
    assert counted(meter) == {"failed": 3, "sent": 1}
    host = collector.endpoint.removeprefix("http://")
    assert caplog.messages == [
        f"traces do not reach {host}: spans are lost until they do",
        f"traces reach {host} again",
    ]


def test_nobody_waits(silent: str) -> None:
    """A collector that hangs: recording goes on at its speed, what is beyond the bound is counted, the end is near."""
    meter = Meter()
    tracer = open_tracer(OtlpSettings(endpoint=silent, queue_spans_max=100), "agent", meter, instance="a/1")
    began_s = time.monotonic()
    spans(tracer, 1000)
    recorded_s = time.monotonic() - began_s
    assert counted(meter) == {"dropped": 900}
    tracer.close()
    tracer.close()
    # Ten seconds is what the library gives one batch, thirty the end.
    assert recorded_s < 5
    assert time.monotonic() - began_s - recorded_s < otlp._CLOSE_S + 4


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint without the extra: a start is refused with the command that helps; a process works on, untraced."""
    monkeypatch.setattr(trace_export, "_EXPORTER", "opentelemetry_that_is_not_there.exporter")
    settings = OtlpSettings(endpoint="http://127.0.0.1:4318")
    with pytest.raises(ServiceError, match=r"pip install 'rayhaul\[otlp\]'"):
        check_exporter(settings)
    assert open_tracer(settings, "agent", Meter(), instance="a/1") is OFF
    assert "no traces" in caplog.text
    check_exporter(OtlpSettings())


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "tempo:4318"},
        {"endpoint": "grpc://tempo:4317"},
        {"headers": "x-key"},
        {"headers": "=hush"},
        {"sample_ratio": 1.5},
    ],
)
def test_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as refused:
        OtlpSettings.model_validate(wrong)
    assert "hush" not in str(refused.value.errors()[0]["msg"])
