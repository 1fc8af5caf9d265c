"""Spans: which are made, below what, when they end and what they say; and that off is off."""

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

import pytest

from rayhaul.errors import SourceBusy
from rayhaul.lease import JobContext
from rayhaul.log import JsonFormatter, bind_job
from rayhaul.tracing import OFF, Kind, Recorder, SpanRecord, TraceContext, child, current, parsed

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("offered", "kept"),
    [
        (GOOD, GOOD),
        (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        (f"00-{TRACE}-{PARENT}-ff", GOOD),
        (f"01-{TRACE}-{PARENT}-01", GOOD),
        (f"01-{TRACE}-{PARENT}-01-more", GOOD),
        (f"01-{TRACE}-{PARENT}-01more", None),
        (f"{GOOD}-more", None),
        (f"ff-{TRACE}-{PARENT}-01", None),
        (f"00-{'0' * 32}-{PARENT}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (GOOD.upper(), None),
        (f"{GOOD}\n", None),
        (f" {GOOD}", None),
        (f"00-{TRACE}-{PARENT}", None),
        (f"00-{TRACE}-{PARENT}-1", None),
        (f"00-{TRACE[:-1]}g-{PARENT}-01", None),
        ("", None),
        (None, None),
    ],
)
def test_traceparents(offered: str | None, kept: str | None) -> None:
    """W3C Trace Context 3.2.2: newer versions are read as 00, what breaks the rules is dropped, other flags go."""
    found = parsed(offered)
    assert (found and found.traceparent) == kept


class Recording:
    """A recorder with a clock that ticks once a look, and ids that count."""

    def __init__(self, sample_ratio: float = 1.0, token_bytes: Callable[[int], bytes] | None = None) -> None:
        self.spans: list[SpanRecord] = []
        ids = count(1)
        ticks = count(1000)
        self.tracer = Recorder(
            self.spans.append,
            sample_ratio=sample_ratio,
            token_bytes=token_bytes or (lambda size: next(ids).to_bytes(size, "big")),
            clock_ns=lambda: next(ticks),
        )

    def named(self, name: str) -> SpanRecord:
        return next(span for span in self.spans if span.name == name)


@pytest.fixture
def recording() -> Iterator[Recording]:
    yield Recording()
    assert current().context is None, "a span is left open"


def test_a_tree(recording: Recording) -> None:
    """A span below another is of its trace; one that follows from another begins a trace of its own, with a link."""
    origin = TraceContext(TRACE, PARENT, sampled=True)
    with recording.tracer.span("served", Kind.SERVER, parent=origin, attributes={"jobId": "job_1", "absent": None}):
        with child("inner", Kind.PRODUCER, {"bytes": 7}) as inner:
            assert current() is inner
    with recording.tracer.span("followed", Kind.CONSUMER, link=inner.context):
        pass
    served, inside, followed = map(recording.named, ("served", "inner", "followed"))
    assert (served.parent, served.context.trace_id, served.kind) == (origin, TRACE, Kind.SERVER)
    assert served.attributes == {"jobId": "job_1"}
    assert (inside.parent, inside.context.trace_id, inside.attributes) == (served.context, TRACE, {"bytes": 7})
    assert (followed.parent, followed.link) == (None, inside.context)
    assert followed.context.trace_id != TRACE
    assert served.began_ns < inside.began_ns < inside.ended_ns < served.ended_ns < followed.began_ns
    assert len({span.context.span_id for span in recording.spans}) == 3


async def test_tasks_are_below_what_started_them(recording: Recording) -> None:
    """Tasks that run at once have the span of their own beginning as their parent, and do not see each other's."""

    async def part(number: int) -> None:
        with child("part", attributes={"part": number}):
            await asyncio.sleep(0)
            with child("put", attributes={"part": number}):
                await asyncio.sleep(0)

    with recording.tracer.span("lease", Kind.CONSUMER) as lease:
        async with asyncio.TaskGroup() as group:
            for number in (1, 2, 3):
                group.create_task(part(number))
    parts = {span.attributes["part"]: span for span in recording.spans if span.name == "part"}
    assert {span.parent for span in parts.values()} == {lease.context}
    for put in (span for span in recording.spans if span.name == "put"):
        assert put.parent == parts[put.attributes["part"]].context


@pytest.mark.parametrize(
    ("error", "code", "attributes"),
    [
        (SourceBusy("try later"), "source_busy", {}),
        (ExceptionGroup("at once", [SourceBusy(), ValueError()]), "source_busy", {}),
        (ValueError("a secret"), "internal", {}),
        (asyncio.CancelledError(), None, {"cancelled": True}),
    ],
)
def test_errors(recording: Recording, error: BaseException, code: str | None, attributes: dict[str, bool]) -> None:
    """What leaves the block is the span's status, by our code and without its message; being stopped is no error."""
    with pytest.raises(type(error)), recording.tracer.span("bad", Kind.INTERNAL):
        raise error
    assert (recording.spans[0].error, recording.spans[0].attributes) == (code, attributes)


def test_failed_without_an_exception(recording: Recording) -> None:
    """What is told instead of raised is said by hand, and stands before what is raised later."""
    with recording.tracer.span("told", Kind.CONSUMER) as told:
        told.name("renamed")
        told.fail("source_changed")
    both = recording.tracer.span("both", Kind.CONSUMER)
    both.fail("source_changed")
    with pytest.raises(ValueError, match="later"), both:
        raise ValueError("later")
    assert [(span.name, span.error) for span in recording.spans] == [
        ("renamed", "source_changed"),
        ("both", "source_changed"),
    ]


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_sampling(ratio: float) -> None:
    """The ratio decides about what follows from nothing, by the trace id alone; all else does as its origin did."""
    recording = Recording(ratio)
    ids = iter(range(1000))
    recording.tracer.token_bytes = lambda size: (
        (next(ids) * 2**64 // 1000).to_bytes(size, "big") if size == 16 else b"12345678"
    )
    for _ in range(1000):
        with recording.tracer.span("root", Kind.SERVER) as root, child("below"):
            assert root.context is not None
            assert root.context.sampled == (int(root.context.trace_id, 16) < ratio * 2**64)
    assert len(recording.spans) == 2 * 1000 * ratio


@pytest.mark.parametrize("sampled", [True, False])
def test_what_follows_is_recorded_as_its_origin_was(sampled: bool) -> None:  # noqa: FBT001
    """Whatever the ratio: a trace is whole or not at all. Ids go on either way, and tell so."""
    origin = TraceContext(TRACE, PARENT, sampled)
    recording = Recording(0.0 if sampled else 1.0)
    for parent, link in ((origin, None), (None, origin)):
        with recording.tracer.span("after", Kind.CONSUMER, parent=parent, link=link) as after, child("below"):
            assert after.context is not None
            assert after.context.traceparent.endswith("-01" if sampled else "-00")
    assert len(recording.spans) == (4 if sampled else 0)


def test_log_lines_name_the_span(recording: Recording) -> None:
    """Inside a span that is recorded, a line has its ids; else the trace of the job, where there is one."""

    def line() -> dict[str, str]:
        record = logging.LogRecord("x", logging.INFO, __file__, 1, "said", (), None)
        found: dict[str, str] = json.loads(JsonFormatter("agent").format(record))
        return {name: found[name] for name in ("traceId", "spanId") if name in found}

    context = JobContext(job_id="job_1", user_id="ann", correlation_id="corr-1234", traceparent=GOOD)
    assert line() == {}
    with bind_job(context):
        assert line() == {"traceId": TRACE}
        with recording.tracer.span("lease", Kind.CONSUMER), child("part"):
            inside = line()
    part = recording.named("part").context
    assert inside == {"traceId": part.trace_id, "spanId": part.span_id}
    with bind_job(replace(context, traceparent=None)):
        assert line() == {}


def test_off() -> None:
    """No ids, no spans, nothing for those below; and the same object again and again."""
    with OFF.span("a", Kind.SERVER) as a, child("b") as b:
        a.set({"x": 1})
        a.fail("internal")
        assert a.context is None
        assert a is b is current()


def test_nothing_is_imported_when_off() -> None:
    """Agents, scheduler and courier without an endpoint know no OpenTelemetry; of the API it is the framework's own
    interface, and neither its SDK nor an exporter.
    """
    code = """
import sys
import actors.agent, actors.courier, actors.scheduler
from rayhaul.metrics import Meter
from rayhaul.settings import OtlpSettings
from rayhaul.trace_export import open_tracer
from rayhaul.tracing import OFF
assert open_tracer(OtlpSettings(), "agent", Meter(), instance="a") is OFF
found = [name for name in sys.modules if name.startswith("opentelemetry")]
assert not found, found
import serve_app.app
beyond = ("opentelemetry.sdk", "opentelemetry.exporter", "rayhaul.otlp")
found = [name for name in sys.modules if name.startswith(beyond)]
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
