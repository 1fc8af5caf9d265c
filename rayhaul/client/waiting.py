"""Waiting for a job's end: by its events where they come through, else by asking now and then."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from rayhaul.client.errors import ApiError, ConnectionFailed, ServiceFailed, Throttled
from rayhaul.client.feed import EventFeed
from rayhaul.client.retries import Patience
from rayhaul.job import FINAL
from rayhaul.wire import EventView, JobView

OnEvent = Callable[[EventView], None]

#: What passes by itself while a cluster restarts or is crowded.
PASSING = (ConnectionFailed, ServiceFailed, Throttled)


async def final(
    look: Callable[[], Awaitable[JobView]], feed: EventFeed, patience: Patience, on_event: OnEvent | None
) -> JobView:
    """Return the job once it is final; `look` asks for it. Raises: ApiError, ConnectionFailed once patience is over."""
    while True:
        try:
            job = await look()
        except PASSING:
            if patience.is_over():
                raise
        else:
            if job.status in FINAL:
                return job
            patience.forgive()
            if await _hear_final(feed, on_event):
                continue
            if feed.has_heard:
                patience.renew()
        await asyncio.sleep(patience.pause_s())


async def _hear_final(feed: EventFeed, on_event: OnEvent | None) -> bool:
    """Listen to one connection; return whether it told of a final state. A broken one is no error: the job is asked."""
    try:
        async with aclosing(feed.listen()) as heard:
            async for event in heard:
                if on_event is not None:
                    on_event(event)
                if event.seq is not None and event.status in FINAL:
                    return True
    except (ApiError, ConnectionFailed):
        return False
    return False
