"""One JSON object a line on stderr, with the field names of the observability specification.

The ids of the work at hand (correlation, user, job, agent, attempt) are bound once, where the work begins, and stand on
every line logged under it: context variables follow asyncio tasks by themselves. They do not cross process borders;
orders carry a `JobContext` for that.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from rayhaul.lease import JobContext

SERVICES = ("api", "scheduler", "agent", "dashboards", "cli")

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

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("rayhaul_log_bound", default=_NOTHING)
_MESSAGE_CHARACTERS_MAX = 4000


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
    """Put a job's ids on every line logged inside."""
    with bind(
        correlationId=context.correlation_id,
        userId=context.user_id,
        jobId=context.job_id,
        attempt=context.attempt or None,
        traceId=context.traceparent.split("-")[1] if context.traceparent else None,
    ):
        yield


def bound() -> Mapping[str, Any]:
    """Return the fields bound here."""
    return _bound.get()


class JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        assert service in SERVICES, service
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": "warn" if record.levelno == logging.WARNING else record.levelname.lower(),
            "service": self._service,
        }
        extra = {**_bound.get(), **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)}}
        line.update({name: extra[name] for name in FIELDS if name in extra})
        message = record.getMessage()
        if record.exc_info:
            message = f"{message}\n{self.formatException(record.exc_info)}"
        line["msg"] = message[:_MESSAGE_CHARACTERS_MAX]
        return json.dumps(line, ensure_ascii=False, default=str)


def setup(service: str, level: str = "info") -> None:
    """Send this process's log lines, those of libraries included, as JSON to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("botocore", "boto3", "urllib3", "s3transfer", "asyncio", "aiohttp.access", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def redacted(url: str) -> str:
    """Return the URL without what may be secret: user info, query and fragment.

    >>> redacted("https://me:pw@files.example/a/b.iso?token=x#y")
    'https://files.example/a/b.iso'
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "(unreadable URL)"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"
