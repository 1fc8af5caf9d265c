"""One JSON object a line on stderr, with the field names of the observability specification (log_schema.json).

The ids of the work at hand (correlation, user, job, agent, attempt) are bound once, where the work begins, and stand on
every line logged under it: context variables follow asyncio tasks by themselves. They do not cross process borders;
orders carry a `JobContext` for that.

Laws of this file:
1. Whatever a process of ours says, it says in this shape: libraries, warnings and what nobody caught included.
2. No secret is in a line, also not in what a library's exception says: redaction has the last word.
3. A line that cannot be written disturbs no work, and a line that was written survives the process at once.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any

from rayhaul.lease import JobContext
from rayhaul.log_file import Stderr
from rayhaul.redaction import without_secrets
from rayhaul.tracing import current, parsed

SERVICES = ("api", "scheduler", "agent", "dashboards", "cli")

#: Rising; the words of the setting, and of the field.
LEVELS = ("debug", "info", "warn", "error")

#: Fields a line may have besides ts, level, service and msg; anything else is dropped, so that no secret slips in.
FIELDS = (
    "correlationId",
    "handler",
    "userId",
    "jobId",
    "durationMs",
    "statusCode",
    "attempt",
    "agentId",
    "traceId",
    "spanId",
    "code",
)

#: Of a process's file in Ray's session directory; there are two of them at most.
FILE_BYTES_MAX = 32 * 1024 * 1024

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)
_bound: ContextVar[Mapping[str, Any]] = ContextVar("rayhaul_log_bound", default=_NOTHING)
_MESSAGE_CHARACTERS_MAX = 4000
#: Read of a message before it is cut: a cut must not go through a secret that is still to be found.
_MESSAGE_CHARACTERS_READ = 64_000
#: Of a message that is cut: a traceback says at its end what happened.
_MESSAGE_CHARACTERS_END = 3000
#: Our packages speak at the level that is set, all others from warn up: they would tell what they send and to whom.
_ROOMS = ("rayhaul", "tasks", "actors", "serve_app", "dashboards")
#: Ray gives these a handler of their own, and writes text.
_RAY_LOGGERS = ("ray", "ray.serve", "ray.data", "ray.rllib", "ray.train", "ray.tune")
#: What some readers take for the end of a line, and what is no UTF-8.
_NOT_IN_A_LINE = re.compile("[\x85\u2028\u2029\ud800-\udfff]")


@contextmanager
def bind(**fields: Any) -> Iterator[None]:
    """Put `fields` (see FIELDS; None is left out) on every line logged inside."""
    kept = {name: value for name, value in fields.items() if value is not None}
    token = _bound.set({**_bound.get(), **kept})
    try:
        yield
    finally:
        _bound.reset(token)


@contextmanager
def bind_job(context: JobContext) -> Iterator[None]:
    """Put a job's ids on every line logged inside; of an order that is of no job, the correlation id alone."""
    with bind(
        correlationId=context.correlation_id,
        userId=context.user_id or None,
        jobId=context.job_id or None,
        attempt=context.attempt or None,
        traceId=trace.trace_id if (trace := parsed(context.traceparent)) else None,
    ):
        yield


def bound() -> Mapping[str, Any]:
    """Return the fields bound here."""
    return _bound.get()


def _span_ids() -> Mapping[str, str]:
    span = current().context
    return {} if span is None else {"traceId": span.trace_id, "spanId": span.span_id}


class JsonFormatter(logging.Formatter):
    def __init__(self, service: str, secrets: Iterable[str] = ()) -> None:
        """Make lines of `service`. `secrets` are never in them, wherever they come from."""
        super().__init__()
        assert service in SERVICES, service
        self._service = service
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level_of(record.levelno),
            "service": self._service,
        }
        # What a line says of itself counts more than the span it is in, and that more than what is bound.
        sources = (record.__dict__, _span_ids(), _bound.get())
        for name in FIELDS:
            for source in sources:
                if name in source:
                    if source[name] is not None:
                        line[name] = source[name]
                    break
        message = record.getMessage()
        if record.exc_info and record.exc_info[0]:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        line["msg"] = _cut(without_secrets(message[:_MESSAGE_CHARACTERS_READ], self._secrets))
        text = _ENCODER.encode(line)
        return text if text.isascii() else _NOT_IN_A_LINE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _cut(text: str) -> str:
    if len(text) <= _MESSAGE_CHARACTERS_MAX:
        return text
    return f"{text[: _MESSAGE_CHARACTERS_MAX - _MESSAGE_CHARACTERS_END - 3]} … {text[-_MESSAGE_CHARACTERS_END:]}"


def level_of(number: int) -> str:
    """Return the word for a level of `logging`; there is none above error.

    >>> [level_of(number) for number in (5, 20, 25, 30, 50)]
    ['debug', 'info', 'info', 'warn', 'error']
    """
    return LEVELS[min(max(number // 10 - 1, 0), 3)]


def setup(service: str, level: str = "info", *, secrets: Iterable[str] = (), file_bytes_max: int | None = None) -> None:
    """Send this process's log lines, those of libraries included, as JSON to stderr.

    `file_bytes_max`: a file behind stderr begins anew beyond it, and the one before is kept.
    """
    handler = Stderr(file_bytes_max=file_bytes_max)
    handler.setFormatter(JsonFormatter(service, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(threshold, logging.WARNING))
    for room in _ROOMS:
        logging.getLogger(room).setLevel(threshold)
    for name in _RAY_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.captureWarnings(capture=True)
    sys.excepthook = _on_uncaught
    threading.excepthook = lambda thrown: _on_uncaught(thrown.exc_type, thrown.exc_value, thrown.exc_traceback)
    sys.unraisablehook = lambda thrown: _on_uncaught(thrown.exc_type, thrown.exc_value, thrown.exc_traceback)


def _on_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger(__name__).critical("uncaught", exc_info=(kind, error or kind(), trace))
