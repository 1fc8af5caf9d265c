"""Sends spans to an OpenTelemetry collector, by OTLP over HTTP; the `otlp` extra brings the library.

Laws of this file:
1. Whoever records a span waits for nothing: spans are sent by a thread, from a queue that is bounded.
2. What does not fit, and what can not be sent, is counted and gone; the log tells of it once, not a line a batch.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from rayhaul.metrics import TRACE_SPANS, Meter
from rayhaul.settings import OtlpSettings
from rayhaul.tracing import Kind, SpanRecord, TraceContext

log = logging.getLogger(__name__)

_PATH = "/v1/traces"
#: A span is under way to the collector after at most this.
_SEND_EVERY_S = 1.0
_BATCH_SPANS = 512
#: Longest time for one batch, retries included; then it is lost.
_SEND_TIMEOUT_S = 10.0
#: Longest wait at the end of a process.
_CLOSE_S = 3.0

_KINDS: Mapping[Kind, SpanKind] = {kind: SpanKind[kind.name] for kind in Kind}
_SCOPE = InstrumentationScope("rayhaul", version("rayhaul"))


class OtlpQueue:
    """Takes spans that have ended, and sends them. `record` is called from one event loop, which `meter` belongs to."""

    def __init__(self, settings: OtlpSettings, service: str, instance: str, meter: Meter) -> None:
        assert settings.endpoint is not None
        self._meter = meter
        self._is_closed = False
        self._resource = Resource(
            {
                "service.name": f"rayhaul-{service}",
                "service.namespace": "rayhaul",
                "service.version": version("rayhaul"),
                "service.instance.id": instance,
                "host.name": socket.gethostname(),
            }
        )
        self._spans_max = settings.queue_spans_max
        self._exporter = _Counting(
            OTLPSpanExporter(endpoint=traces_url(settings.endpoint), headers=settings.sent, timeout=_SEND_TIMEOUT_S),
            urlsplit(settings.endpoint).netloc.rpartition("@")[2],
        )
        self._processor = BatchSpanProcessor(
            self._exporter,
            # Ours is the bound: where the library's queue is full it drops the oldest and does not say how many.
            max_queue_size=self._spans_max + _BATCH_SPANS,
            schedule_delay_millis=_SEND_EVERY_S * 1000,
            max_export_batch_size=min(_BATCH_SPANS, self._spans_max),
        )
        # We tell of failures ourselves; a library that logs each of them fills disks while a collector is away.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def record(self, span: SpanRecord) -> None:
        """Queue a span; where the queue is full it is counted and gone."""
        if self._exporter.take(self._spans_max):
            self._processor.on_end(_readable(span, self._resource))
        self.count()

    def count(self) -> None:
        """Have the meter know what became of spans since it was told last."""
        for result, spans in self._exporter.news().items():
            self._meter.inc(TRACE_SPANS, result, by=spans)

    def close(self) -> None:
        """Send what waits, and give up after a few seconds. Once is enough."""
        if self._is_closed:
            return
        self._is_closed = True
        # The library would wait for half a minute.
        closing = threading.Thread(target=self._processor.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        self.count()


class _Counting(SpanExporter):
    """Sends batches, and knows how many spans wait and what became of the others. Used from two threads."""

    def __init__(self, exporter: SpanExporter, to: str) -> None:
        self._exporter = exporter
        self._to = to
        self._lock = threading.Lock()
        self._waiting = 0
        self._news: Counter[str] = Counter()
        self._works = True

    def take(self, spans_max: int) -> bool:
        """Count a span in; False where as many wait already."""
        with self._lock:
            has_room = self._waiting < spans_max
            if has_room:
                self._waiting += 1
            else:
                self._news["dropped"] += 1
            return has_room

    def news(self) -> Mapping[str, int]:
        with self._lock:
            news, self._news = self._news, Counter()
            return news

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                self._waiting -= len(spans)
                self._news["sent" if result is SpanExportResult.SUCCESS else "failed"] += len(spans)
            self._tell(works=result is SpanExportResult.SUCCESS)
        return result

    def _tell(self, *, works: bool) -> None:
        if works and not self._works:
            log.info("traces reach %s again", self._to)
        elif not works and self._works:
            log.warning("traces do not reach %s: spans are lost until they do", self._to)
        self._works = works

    def shutdown(self) -> None:
        self._exporter.shutdown()


def traces_url(endpoint: str) -> str:
    """Return where traces go: `endpoint` is the collector, or the very URL (OTLP specification, "OTLP/HTTP Request").

    >>> traces_url("http://tempo:4318"), traces_url("https://collector.example/otlp/v1/traces")
    ('http://tempo:4318/v1/traces', 'https://collector.example/otlp/v1/traces')
    """
    parts = urlsplit(endpoint)
    path = parts.path.rstrip("/")
    return urlunsplit(parts._replace(path=path if path.endswith(_PATH) else path + _PATH))


def _readable(span: SpanRecord, resource: Resource) -> ReadableSpan:
    return ReadableSpan(
        span.name,
        context=_context(span.context, is_remote=False),
        parent=None if span.parent is None else _context(span.parent, is_remote=span.kind is Kind.SERVER),
        resource=resource,
        attributes=span.attributes,
        links=() if span.link is None else (Link(_context(span.link, is_remote=True)),),
        kind=_KINDS[span.kind],
        status=Status(StatusCode.UNSET if span.error is None else StatusCode.ERROR, span.error),
        start_time=span.began_ns,
        end_time=span.ended_ns,
        instrumentation_scope=_SCOPE,
    )


def _context(context: TraceContext, *, is_remote: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote, flags)
