"""Spans: what took how long under which W3C ids; handed to an exporter, or not made at all.

Laws of this file:
1. Off costs nothing: no span is made, no id is drawn, no library is imported.
2. A span that was begun is ended once, whatever happens in it. An error in it is its status, by our `code`.
3. Attributes are ids, names and numbers, under the names of the log line where there is one. Of a URL there is the host
   at most: whatever else is in it may be secret.

The current span is a context variable, like the fields bound to the log: it follows asyncio tasks by itself. It does
not cross process borders; submissions and orders carry the job's traceparent for that.
"""

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

from rayhaul.errors import Internal, RayhaulError

Value = str | int | float | bool
Attributes = Mapping[str, Value | None]

NOTHING: Attributes = MappingProxyType({})

# W3C Trace Context 3.2: version, trace-id, parent-id, flags; a version newer than 00 may go on after another dash.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


class Kind(StrEnum):
    """On which side of which border a span is (OpenTelemetry, "SpanKind")."""

    INTERNAL = "internal"
    #: Answers a request.
    SERVER = "server"
    #: Asks somebody else.
    CLIENT = "client"
    #: Leaves something to be done later.
    PRODUCER = "producer"
    #: Does what was left.
    CONSUMER = "consumer"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Names a span: 32 and 16 lower-case hex digits, and whether somebody records the trace."""

    trace_id: str
    span_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.sampled else 0:02x}"


def parsed(traceparent: str | None) -> TraceContext | None:
    """Return what a traceparent names, or None where it breaks the rules (W3C Trace Context 3.2.2).

    >>> parsed("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").sampled
    True
    >>> parsed("00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
    True
    """
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def recorded_id(traceparent: str | None) -> str | None:
    """Return the trace id where somebody records the trace, and so can show it."""
    found = parsed(traceparent)
    return found.trace_id if found is not None and found.sampled else None


def unrecorded(token_bytes: Callable[[int], bytes] = secrets.token_bytes) -> TraceContext:
    """Return ids for what nobody records, so that it has a trace id all the same."""
    return TraceContext(token_bytes(16).hex(), token_bytes(8).hex(), sampled=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """A span that has ended."""

    name: str
    kind: Kind
    context: TraceContext
    parent: TraceContext | None
    #: The span that this one follows from in another trace.
    link: TraceContext | None
    #: Unix time, nanoseconds.
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Value]
    #: The stable code of what went wrong; None: nothing did.
    error: str | None


class Span:
    """A span under way, to be used with `with`. This one is none: it records nothing, and one is enough for all."""

    __slots__ = ()

    @property
    def context(self) -> TraceContext | None:
        """Its ids, for those who go on elsewhere; None where tracing is off."""
        return None

    def name(self, name: str) -> None:
        """Name it anew, where its name is known only now."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes; None is left out."""

    def fail(self, code: str) -> None:
        """Say what went wrong, where no exception leaves the block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


NO_SPAN = Span()


class Tracer(Protocol):
    def span(
        self,
        name: str,
        kind: Kind,
        *,
        parent: TraceContext | None = None,
        link: TraceContext | None = None,
        attributes: Attributes = NOTHING,
    ) -> Span:
        """Return a span to be entered: below `parent`, or of a new trace that follows from `link`.

        It is recorded where that one is; what follows from nothing, by the sampling ratio.
        """
        ...

    def close(self) -> None:
        """Hand on what was recorded, within a few seconds. Blocks."""
        ...


class _Off:
    def span(
        self,
        name: str,  # noqa: ARG002 - the signature is Tracer's
        kind: Kind,  # noqa: ARG002
        *,
        parent: TraceContext | None = None,  # noqa: ARG002
        link: TraceContext | None = None,  # noqa: ARG002
        attributes: Attributes = NOTHING,  # noqa: ARG002
    ) -> Span:
        return NO_SPAN

    def close(self) -> None: ...


OFF: Tracer = _Off()


class Recorder:
    """A tracer that hands each span that has ended to `record`; `clock_ns`: Unix time."""

    def __init__(
        self,
        record: Callable[[SpanRecord], None],
        *,
        sample_ratio: float = 1.0,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
        clock_ns: Callable[[], int] = time.time_ns,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = record
        self.clock_ns = clock_ns
        self.token_bytes = token_bytes
        self.close = close
        self._sample_below = round(sample_ratio * 2**64)

    def span(
        self,
        name: str,
        kind: Kind,
        *,
        parent: TraceContext | None = None,
        link: TraceContext | None = None,
        attributes: Attributes = NOTHING,
    ) -> Span:
        trace_id = self.token_bytes(16).hex() if parent is None else parent.trace_id
        before = parent or link
        # The last eight bytes decide, as in OpenTelemetry's TraceIdRatioBased: who else samples by it agrees with us.
        sampled = int(trace_id[16:], 16) < self._sample_below if before is None else before.sampled
        context = TraceContext(trace_id, self.token_bytes(8).hex(), sampled)
        if not sampled:
            return _Unrecorded(context)
        return _Live(self, name, kind, context, parent=parent, link=link, attributes=attributes)


class _Unrecorded(Span):
    """Has ids to be handed on, and says that nobody records them."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: TraceContext) -> None:
        self._context = context

    @property
    def context(self) -> TraceContext | None:
        return self._context

    def __enter__(self) -> Self:
        self._token = _current.set(NO_SPAN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)


class _Live(Span):
    __slots__ = (
        "_attributes",
        "_began_ns",
        "_context",
        "_error",
        "_kind",
        "_link",
        "_name",
        "_parent",
        "_token",
        "tracer",
    )

    def __init__(
        self,
        tracer: Recorder,
        name: str,
        kind: Kind,
        context: TraceContext,
        *,
        parent: TraceContext | None,
        link: TraceContext | None,
        attributes: Attributes,
    ) -> None:
        self.tracer = tracer
        self._name = name
        self._kind = kind
        self._context = context
        self._parent = parent
        self._link = link
        self._attributes: dict[str, Value] = {}
        self._error: str | None = None
        self._began_ns = 0
        self._token: Token[Span] | None = None
        self.set(attributes)

    @property
    def context(self) -> TraceContext:
        return self._context

    def name(self, name: str) -> None:
        self._name = name

    def set(self, attributes: Attributes) -> None:
        self._attributes.update((name, value) for name, value in attributes.items() if value is not None)

    def fail(self, code: str) -> None:
        self._error = code

    def __enter__(self) -> Self:
        self._began_ns = self.tracer.clock_ns()
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._token is not None, "entered"
        _current.reset(self._token)
        if error is not None:
            self._blame(error)
        self.tracer.record(
            SpanRecord(
                name=self._name,
                kind=self._kind,
                context=self._context,
                parent=self._parent,
                link=self._link,
                began_ns=self._began_ns,
                # The clock may have been set meanwhile.
                ended_ns=max(self._began_ns, self.tracer.clock_ns()),
                attributes=self._attributes,
                error=self._error,
            )
        )

    def _blame(self, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            # Stopped, which is no error.
            self.set({"cancelled": True})
        elif self._error is None:
            self._error = _code(error)


def _code(error: BaseException) -> str:
    """Return the code of an error; of some that came at once, that of the first."""
    if isinstance(error, BaseExceptionGroup):
        return _code(error.exceptions[0])
    return error.code if isinstance(error, RayhaulError) else Internal.code


_current: ContextVar[Span] = ContextVar("rayhaul_span", default=NO_SPAN)


def current() -> Span:
    """Return the span we are in; NO_SPAN where none is recorded."""
    return _current.get()


def child(name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes = NOTHING) -> Span:
    """Return a span to be entered, below the one we are in; where none is recorded, this one is not either."""
    above = _current.get()
    if not isinstance(above, _Live):
        return above
    return above.tracer.span(name, kind, parent=above.context, attributes=attributes)
