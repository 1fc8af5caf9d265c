"""A trace collector on loopback: takes OTLP over HTTP as the specification has it, and keeps the spans it was sent."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A span as it came over the wire; ids in hex."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    #: Empty for the root of a trace.
    parent_id: str
    #: (trace id, span id) of the spans it follows from.
    links: Sequence[tuple[str, str]]
    attributes: Mapping[str, Any]
    #: The status's message where the status is "error".
    error: str | None
    began_ns: int
    ended_ns: int
    #: Of the resource.
    service: str


class Collector:
    def __init__(self) -> None:
        self.spans: list[Seen] = []
        self.requests: list[Mapping[str, str]] = []
        #: What it answers.
        self.status = 200
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def named(self, name: str, **attributes: Any) -> Sequence[Seen]:
        return [
            span
            for span in list(self.spans)
            if span.name == name and all(span.attributes.get(key) == value for key, value in attributes.items())
        ]

    def wait_for(self, holds: Callable[[], Any], *, within_s: float = 20) -> None:
        """Wait until `holds`; for tests that may block."""
        deadline_s = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline_s, [span.name for span in self.spans]
            time.sleep(0.02)

    @contextmanager
    def listening(self) -> Iterator["Collector"]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                collector.answer(self)

            def log_message(self, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield self
        finally:
            server.shutdown()
            serving.join()
            server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        status = self.status
        if handler.path != "/v1/traces" or handler.headers["content-type"] != "application/x-protobuf":
            status = 404
        if status == 200:
            self.requests.append({name.lower(): value for name, value in handler.headers.items()})
            self.spans.extend(_decoded(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/x-protobuf")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)


def _decoded(body: bytes) -> Iterator[Seen]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = _attributes(group.resource.attributes)["service.name"]
        for scope in group.scope_spans:
            assert scope.scope.name == "rayhaul"
            for span in scope.spans:
                yield Seen(
                    name=span.name,
                    kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    attributes=_attributes(span.attributes),
                    error=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                    service=service,
                )


def _attributes(pairs: Sequence[KeyValue]) -> Mapping[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
