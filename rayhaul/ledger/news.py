"""Waiting for events: PostgreSQL tells of them (LISTEN), elsewhere somebody looks again and again.

Laws of this file:
1. Nothing is missed: who waits first says so, then compares, then sleeps.
2. Where the listening connection is lost, waiters look for themselves at once, until it is there again.
"""

import asyncio
import logging
import selectors
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import psycopg
import sqlalchemy as sa

from rayhaul.errors import Unavailable
from rayhaul.ledger import tables
from rayhaul.ledger.connect import NEWS_CHANNEL
from rayhaul.ledger.failures import DATABASE_ERRORS, classified

log = logging.getLogger(__name__)

#: Pause before a lost connection is opened again.
_RECONNECT_S = 1.0


class News:
    """Where readers of one ledger wait."""

    def __init__(self, look: Callable[[], Awaitable[int]], engine: sa.Engine | None, poll_s: float) -> None:
        self._look = look
        self._poll_s = poll_s
        self._ear = None if engine is None else _Ear(engine)
        self._closed = False

    async def wait(self, seq: int, timeout_s: float) -> None:
        """Return as soon as there may be an event after `seq`, at the latest after `timeout_s`. Raises: Unavailable."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                if self._ear is None:
                    while await self._newest(None) <= seq:  # noqa: ASYNC110 - there is nobody to set an event
                        await asyncio.sleep(self._poll_s)
                else:
                    await self._listen(self._ear, seq)

    async def _listen(self, ear: "_Ear", seq: int) -> None:
        with ear.waiting() as woken:
            while True:
                woken.clear()
                heard = ear.heard
                if await self._newest(heard) > seq:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s if heard is None else None):
                        await woken.wait()

    async def _newest(self, heard: int | None) -> int:
        if self._closed:
            raise Unavailable("the ledger is closed")
        return await self._look() if heard is None else heard

    async def close(self) -> None:
        self._closed = True
        if self._ear is not None:
            await asyncio.to_thread(self._ear.close)


class _Ear:
    """A thread and its connection, begun when somebody first waits, that hear of each commit with events."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        #: Number of the newest event, None while nothing can be heard.
        self.heard: int | None = None
        self._lock = threading.Lock()
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._thread: threading.Thread | None = None
        #: Writing to the first wakes the thread, which selects on the second.
        self._bell, self._door = socket.socketpair()
        self._closed = False

    @contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """Yield what is set whenever `heard` changes."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiters.add(waiter)
            if self._thread is None and not self._closed:
                # A process that forgets to close its ledger must still be able to end.
                self._thread = threading.Thread(target=self._run, name="ledger-listen", daemon=True)
                self._thread.start()
        try:
            yield waiter[1]
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._bell.close()
        if self._thread is not None:
            self._thread.join()
        self._door.close()
        self._engine.dispose()

    def _tell(self, heard: int | None) -> None:
        with self._lock:
            self.heard = heard
            # Under the lock no waiter leaves, so its loop is still there.
            for loop, woken in self._waiters:
                loop.call_soon_threadsafe(woken.set)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            # The bell's end makes its other end readable for good.
            selector.register(self._door, selectors.EVENT_READ)
            told = False
            while not self._closed:
                try:
                    with self._engine.connect() as connection:
                        self._hear(connection, selector)
                except DATABASE_ERRORS as err:
                    # Once for each time it is lost.
                    if self.heard is not None or not told:
                        log.warning("events are looked for, not heard: %s", classified(err) or err)
                        told = True
                self._tell(None)
                if not self._closed:
                    selector.select(_RECONNECT_S)

    def _hear(self, connection: sa.Connection, selector: selectors.BaseSelector) -> None:
        """Listen until this is closed. Raises: what the driver does when the connection is lost."""
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        try:
            oid = connection.exec_driver_sql("SELECT 'job_events'::regclass::oid").scalar_one()
            connection.exec_driver_sql(f"LISTEN {NEWS_CHANNEL}{oid}")
            last = connection.execute(sa.select(sa.func.max(tables.job_events.c.seq))).scalar_one()
            self._tell(last or 0)
            descriptor = driver.fileno()
            selector.register(descriptor, selectors.EVENT_READ)
            try:
                while not self._closed:
                    # First what came while the driver was reading answers: the socket says nothing of it any more.
                    for notify in driver.notifies(timeout=0):
                        self._tell(int(notify.payload))
                    selector.select()
            finally:
                selector.unregister(descriptor)
        finally:
            # Never back to the pool: another user of this connection would hear it all again.
            connection.invalidate()
