"""Where an order's bytes come from at the moment: the job's URL, or one that its owner gave when that one expired.

Laws of this file:
1. Only a refusal that an expired link gets (401, 403, 404, 410) makes us ask; a few times an order, not more.
2. The answer is a URL like any other: guarded, and what it serves is checked against the pin, so that it goes on with
   the same file or not at all. The job's headers go along only to the origin they were meant for.
3. The question is a webhook of the Standard Webhooks kind, signed as they are, and has nothing secret in it.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from yarl import URL

from rayhaul.errors import RayhaulError, SourceError
from rayhaul.ids import NewId
from rayhaul.job import Metadata, utc
from rayhaul.lease import JobContext
from rayhaul.policy import webhook
from rayhaul.redaction import redacted
from rayhaul.settings import WebhookSettings
from rayhaul.wire import timestamp
from tasks.answer import Answer
from tasks.egress import GuardedClient
from tasks.pace import Line
from tasks.source import EXPIRED

_log = logging.getLogger(__name__)

#: Fresh links asked for within one order.
_ASKED_MAX = 3
_ANSWER_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Link:
    url: str
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    #: The job whose file, where it is small, may come along with a look, and wait for its lease; None: none may.
    peek_for: str | None = None
    #: Where its bytes wait for their pace once they are here; None: nowhere.
    line: Line | None = field(default=None, compare=False)


class Refresh:
    """Asks a job's `refreshWebhook` for a fresh URL. One per agent; it decides nothing."""

    def __init__(
        self, client: GuardedClient, settings: WebhookSettings, *, new_id: NewId, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._settings = settings
        self._new_id = new_id
        self._clock = clock

    async def ask(self, receiver: str, context: JobContext, url: str, pin: Metadata | None, status: int) -> str | None:
        """Return the URL that the job's owner gives; None where there is none to be had."""
        now_s = self._clock()
        body = question(context, url=url, pin=pin, status=status, now=utc(now_s))
        signed = webhook.headers(message_id=self._new_id("msg"), now_s=now_s, body=body, keys=self._settings.keys)
        headers = {"Content-Type": "application/json", "X-Correlation-ID": context.correlation_id, **signed}
        try:
            async with (
                asyncio.timeout(self._settings.timeout_s),
                self._client.open_now(receiver, extra=headers, post=body) as answer,
            ):
                return _fresh_url(answer.status, await _bounded(answer))
        except (RayhaulError, TimeoutError, ValueError) as error:
            _log.warning("no fresh link for an expired one: %s", str(error) or "no answer in time")
            return None


def question(context: JobContext, *, url: str, pin: Metadata | None, status: int, now: datetime) -> bytes:
    """Return the body of the request for a fresh URL: which job and file, and what the old link was answered."""
    told = {
        "type": "source.refresh",
        "timestamp": timestamp(now),
        "data": {
            "jobId": context.job_id,
            "correlationId": context.correlation_id,
            "url": redacted(url),
            "statusCode": status,
            "sizeBytes": None if pin is None else pin.size_bytes,
            "etag": None if pin is None else pin.etag,
            "lastModified": None if pin is None else pin.last_modified,
        },
    }
    return json.dumps(told, separators=(",", ":")).encode("ascii")


async def _bounded(answer: Answer) -> bytes:
    body = b""
    while piece := await answer.read():
        body += piece
        if len(body) > _ANSWER_BYTES_MAX:
            raise ValueError("its answer is too long")
    return body


def _fresh_url(status: int, body: bytes) -> str:
    """Raises: ValueError."""
    if not 200 <= status < 300:
        raise ValueError(f"it was answered with HTTP {status}")
    told = json.loads(body)
    url = told.get("url") if isinstance(told, dict) else None
    if not isinstance(url, str) or not url:
        raise ValueError('its answer has no {"url": …}')
    return url


class Links:
    """The link of one order, shared by its connections."""

    def __init__(
        self,
        link: Link,
        *,
        context: JobContext,
        pin: Metadata | None = None,
        receiver: str | None = None,
        refresh: Refresh | None = None,
    ) -> None:
        self.current = link
        self._first = link
        self._context = context
        self._pin = pin
        self._receiver = receiver
        self._refresh = refresh
        self._asked_count = 0
        self._asking = asyncio.Lock()

    async def are_fresh_after(self, used: Link, error: SourceError) -> bool:
        """Return whether another try, with `current`, makes sense after `used` was answered like that."""
        if error.status not in EXPIRED or self._receiver is None or self._refresh is None:
            return False
        async with self._asking:
            if self.current is not used:
                # Another connection of ours has asked meanwhile.
                return True
            if self._asked_count >= _ASKED_MAX:
                return False
            self._asked_count += 1
            url = await self._refresh.ask(self._receiver, self._context, used.url, self._pin, error.status)
            if url is None:
                return False
            _log.info("the link had expired: going on with a fresh one")
            self.current = Link(url, self._first.headers if is_same_origin(url, self._first.url) else {})
            return True


def is_same_origin(first: str, second: str) -> bool:
    return _origin(first) == _origin(second)


def _origin(text: str) -> object:
    """Return the origin (RFC 6454 4) of a URL; None of what is none: the guard will refuse it."""
    try:
        return URL(text).origin()
    except ValueError:
        return None
