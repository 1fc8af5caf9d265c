"""The events of one job, over as many connections as it takes, without a gap and without a repeat."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import aiohttp
from pydantic import ValidationError

from rayhaul.client.errors import ConnectionFailed
from rayhaul.client.sse import EventTooLarge, ServerSentEvent, SseParser
from rayhaul.client.transport import Transport
from rayhaul.job import FINAL, JobEvent
from rayhaul.wire import EventView

_KNOWN = frozenset(JobEvent)


class EventFeed:
    """Remembers between connections what was heard."""

    def __init__(self, transport: Transport, path: str, last_event_id: str = "") -> None:
        self._transport = transport
        self._path = path
        self._last_event_id = last_event_id
        self._last_seq = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else 0
        self._is_final = False
        #: Set while a connection is open: what happens from then on will be heard.
        self.opened = asyncio.Event()
        #: Whether the server has nothing more to say.
        self.is_over = False
        #: Whether the last connection brought an event.
        self.has_heard = False
        #: The pause before a reconnect that the server asked for; 0 where it did not.
        self.retry_s = 0.0

    async def listen(self) -> AsyncGenerator[EventView, None]:
        """Yield what one more connection brings, until the server ends it.

        Raises: ApiError; ConnectionFailed where the connection breaks.
        """
        self.has_heard = False
        headers = {"Accept": "text/event-stream"}
        if self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        async with self._transport.stream(self._path, headers) as response:
            if response.status == 204:
                self.is_over = True
                return
            if response.content_type != "text/event-stream":
                raise self._is_not_ours()
            self.opened.set()
            try:
                async with aclosing(self._parse(response)) as heard:
                    async for sent in heard:
                        event = self._read(sent)
                        if event is not None:
                            self.has_heard = True
                            yield event
            finally:
                self.opened.clear()
        # Ended by the server, not broken: after a final state that was the job's last event.
        self.is_over = self._is_final

    async def _parse(self, response: aiohttp.ClientResponse) -> AsyncGenerator[ServerSentEvent, None]:
        parser = SseParser(self._last_event_id)
        async for received in response.content.iter_any():
            try:
                events = parser.feed(received)
            except EventTooLarge as err:
                raise ConnectionFailed(f"{self._transport.endpoint.url} sends {err}") from err
            if parser.retry_ms is not None:
                self.retry_s = parser.retry_ms / 1000
            for event in events:
                yield event

    def _read(self, sent: ServerSentEvent) -> EventView | None:
        """Return the event; None where it was heard before, or is of a kind newer than this client."""
        if sent.event not in _KNOWN:
            return None
        try:
            event = EventView.model_validate_json(sent.data)
        except ValidationError as err:
            raise self._is_not_ours() from err
        if event.seq is None:
            return event
        if event.seq <= self._last_seq:
            return None
        self._last_seq = event.seq
        self._last_event_id = str(event.seq)
        self._is_final = event.status in FINAL
        return event

    def _is_not_ours(self) -> ConnectionFailed:
        return ConnectionFailed(f"{self._transport.endpoint.url} does not send events as Rayhaul does")
