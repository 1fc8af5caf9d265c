"""Server-sent events: one job's, or all that the caller may see (WHATWG HTML 9.2).

Laws of this file:
1. `id:` is the ledger's sequence number; a client that comes back with it in `Last-Event-ID` misses nothing and gets
   nothing twice. Progress has no id.
2. The stream of a final job ends after its last event, and a client that has that one already gets 204: stop asking.
3. A stream ends after a while, so that streams spread over the replicas there are; the client resumes by id.
4. A client that does not read, hangs up, or whose key is revoked loses its stream and nothing else.
5. No timer is made for an event: a thousand streams that are told at once would make two thousand.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from random import uniform

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from rayhaul.errors import RayhaulError
from rayhaul.job import FINAL, JobStatus
from rayhaul.ledger.base import Viewer
from rayhaul.metrics import SSE_EVENT_LAG
from serve_app.auth import Caller, authorization_of
from serve_app.deadline import Deadline
from serve_app.feed import PAGE_EVENTS, Listener, Message
from serve_app.openapi import event_stream, problems_of
from serve_app.replica import PathId, Replica, replica_of

routes = APIRouter(tags=["events"])

#: What a client waits before it comes back.
#: No blank lines: some clients take one for an event of nothing.
_PREAMBLE = b"retry: 3000\n"
_HEARTBEAT = b": still here\n"
#: A client that takes nothing for so long is cut off; it resumes by id.
_SEND_TIMEOUT_S = 10.0
#: Events written at once: whoever does not read has no more than that waiting for it in the server's memory.
_WRITE_EVENTS_MAX = 100
#: An open stream asks this often whether its key still holds.
_RECHECK_S = 60.0
#: Streams that began together end apart.
_AGE_SPREAD = (0.8, 1.2)
#: More digits than the ledger's 64-bit sequence can have are no id of ours.
_SEQ_DIGITS_MAX = 18


@routes.get("/jobs/{job_id}/events", responses=event_stream() | problems_of(401, 404, 429, 503))
async def job_events(request: Request, caller: Caller, job_id: PathId) -> Response:
    """Follow one job: its history after `Last-Event-ID`, or from the beginning, then what happens."""
    replica = replica_of(request)
    job = await replica.ledger.job(caller, job_id)
    after = await _resume_at(request, replica) or 0
    if job.is_final and after and not await replica.ledger.events_after(caller, after, job_id=job_id, limit=1):
        return Response(status_code=204)
    return EventStream(request, caller, job_id=job_id, after=after)


@routes.get("/events", responses=event_stream() | problems_of(401, 429, 503))
async def all_events(request: Request, caller: Caller) -> Response:
    """Follow all jobs that the caller may see: what comes after `Last-Event-ID`, or after now."""
    replica = replica_of(request)
    after = await _resume_at(request, replica)
    if after is None:
        after = await replica.ledger.last_seq()
    return EventStream(request, caller, job_id=None, after=after)


async def _resume_at(request: Request, replica: Replica) -> int | None:
    """Return the id of the last event the client has; None where it has none that this ledger gave."""
    text = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or ""
    if not (text.isascii() and text.isdigit() and len(text) <= _SEQ_DIGITS_MAX):
        return None
    seq = int(text)
    # Beyond the end: an id of a ledger that was replaced. Waiting for it would be waiting for ever.
    return seq if seq <= await replica.ledger.last_seq() else None


class EventStream(StreamingResponse):
    """The response: sends by itself, so that whatever ends it also ends what it holds in the feed."""

    media_type = "text/event-stream"

    def __init__(self, request: Request, viewer: Viewer, *, job_id: str | None, after: int) -> None:
        super().__init__((), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._replica = replica_of(request)
        self._authorization = authorization_of(request)
        self._viewer = viewer
        self._job_id = job_id
        self._last_seq = after
        self._last_status: JobStatus | None = None
        self._checked_s = self._replica.clock()
        self._ends_s = self._checked_s + self._replica.settings.api.sse_age_s_max * uniform(*_AGE_SPREAD)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        async with self._replica.feed.listen(self._viewer, self._job_id) as listener:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with asyncio.TaskGroup() as group:
                hanging_up = group.create_task(_hang_up(receive))
                talking = group.create_task(self._talk(listener, send))
                with Deadline(talking.cancel) as patience, Deadline(listener.wake.set) as silence:
                    self._patience, self._silence = patience, silence
                    await asyncio.wait({talking, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
                if not hanging_up.done():
                    await _end(send)
                talking.cancel()
                hanging_up.cancel()

    async def _talk(self, listener: Listener, send: Send) -> None:
        # A vanished client, a ledger out of reach, a revoked key: the stream ends, the client resumes.
        with suppress(OSError, RayhaulError):
            await self._write(send, _PREAMBLE)
            while not listener.closed and not self._is_told and self._replica.clock() < self._ends_s:
                if listener.behind:
                    await self._catch_up(listener, send)
                else:
                    await self._relay(listener, send)

    @property
    def _is_told(self) -> bool:
        """Whether there is nothing more to tell: the last event of a final job was sent."""
        return self._job_id is not None and self._last_status in FINAL

    async def _catch_up(self, listener: Listener, send: Send) -> None:
        """Send what stands in the ledger. Events committed from here on wait in the listener's queue."""
        listener.begin_reading()
        while True:
            page = await self._replica.feed.page(self._viewer, self._last_seq, self._job_id)
            await self._send(send, page)
            if len(page) < PAGE_EVENTS:
                return

    async def _relay(self, listener: Listener, send: Send) -> None:
        """Wait for something new and send it."""
        left_s = max(0.0, self._ends_s - self._replica.clock())
        self._silence.after(min(self._replica.settings.api.sse_heartbeat_s, left_s))
        await listener.wake.wait()
        await self._recheck()
        events, progress = listener.take()
        if not events and not progress:
            await self._write(send, _HEARTBEAT)
        fresh = [event for event in events if event.seq > self._last_seq]
        await self._send(send, fresh, live=True)
        if self._is_told:
            # A later event of the same commit may still be on its way here (failed, then deadlettered).
            await self._catch_up(listener, send)
        elif progress:
            await self._write(send, b"".join(progress))

    async def _recheck(self) -> None:
        """Raises: Unauthorized where the key was revoked or has expired since."""
        if self._replica.clock() - self._checked_s >= _RECHECK_S:
            await self._replica.keyring.key(self._authorization)
            self._checked_s = self._replica.clock()

    async def _send(self, send: Send, events: Sequence[Message], *, live: bool = False) -> None:
        for begin in range(0, len(events), _WRITE_EVENTS_MAX):
            some = events[begin : begin + _WRITE_EVENTS_MAX]
            await self._write(send, b"".join(event.frame for event in some))
            self._last_seq, self._last_status = some[-1].seq, some[-1].status
            if live:
                # All count as late as the oldest: each by itself, for each stream, would be most of what sending costs.
                lag_s = max(0.0, self._replica.clock() - some[0].ts_s)
                self._replica.meter.observe(SSE_EVENT_LAG, lag_s, times=len(some))

    async def _write(self, send: Send, body: bytes) -> None:
        """Raises: OSError where the client is gone. One that takes nothing loses its stream meanwhile."""
        self._patience.after(_SEND_TIMEOUT_S)
        await send({"type": "http.response.body", "body": body, "more_body": True})
        self._patience.lift()


async def _end(send: Send) -> None:
    with suppress(TimeoutError, OSError):
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _hang_up(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
