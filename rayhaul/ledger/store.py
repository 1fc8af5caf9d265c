"""The ledger on SQLite or PostgreSQL: synchronous drivers behind an async face.

Laws of this file:
1. One thread writes, with one connection; it carries out whole batches, so a commit is one hop, one transaction and
   one fsync, however many rows it has.
2. A caller that stops waiting does not undo its commit: the thread finishes what it began.
3. After a failure its connection is closed and the next call opens a fresh one.
4. On SQLite one row by its index is read on the event loop itself, with a connection that waits for nobody.
5. A job's id, owner, correlation and spec are written once; a change to them is not.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from rayhaul.errors import Unavailable
from rayhaul.job import EventRecord, Job
from rayhaul.lease import PartDone, UploadSession
from rayhaul.ledger import connect, migrate, read, resealing, write
from rayhaul.ledger.base import ApiKey, Batch, IdempotencyRecord, JobFilter, Ledger, LedgerState, ScalingRecord, Viewer
from rayhaul.ledger.deliveries import DeliveryRecord, DisabledReceiver, DisabledWebhook, OutboxRecord
from rayhaul.ledger.failures import DATABASE_ERRORS, classified
from rayhaul.ledger.news import News
from rayhaul.ledger.prepared import Query
from rayhaul.ledger.sealing import Sealer
from rayhaul.parts import JobParts
from rayhaul.settings import LedgerSettings

#: Calls that may wait for a thread. Beyond it they are refused: who waits behind so many has given up long before.
_WAITING_MAX = 10_000

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
Begin = Callable[[sa.Connection], AbstractContextManager[object]]


def open_ledger(settings: LedgerSettings, url: str, *, read_only: bool = False) -> "SqlLedger":
    """Return the ledger at `url`, brought up to date first unless it is only to be read.

    Raises: ServiceError where the URL is no good, the ledger was written by a newer Rayhaul, or a key that it is sealed
    with is not configured; Unavailable where the database can not be reached, or is only to be read and not there yet.
    """
    sealer = Sealer(settings.keys)
    if read_only:
        migrate.check(url)
    else:
        migrate.upgrade(url)
    resealing.check(url, sealer, writes=not read_only)
    return SqlLedger(connect.parse_url(url), settings, sealer, read_only=read_only)


class _Lane:
    """An engine and the threads that use it, one connection each."""

    def __init__(self, engine: sa.Engine, begin: Begin, *, threads: int, name: str) -> None:
        self._engine = engine
        self._begin = begin
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._waiting = 0
        self._closed = False

    async def call(self, work: Work[T]) -> T:
        """Return what `work` returns, done in one of the threads.

        Raises: Unavailable, and what `classified` makes of the database's errors.
        """
        if self._closed:
            raise Unavailable("the ledger is closed")
        if self._waiting >= _WAITING_MAX:
            raise Unavailable("too many calls wait for the ledger")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, work)
        finally:
            self._waiting -= 1

    def _run(self, work: Work[T]) -> T:
        try:
            with self._engine.connect() as connection:
                return self._run_on(connection, work)
        except DATABASE_ERRORS as err:
            meaning = classified(err)
            if meaning is None:
                raise
            raise meaning from err

    def _run_on(self, connection: sa.Connection, work: Work[T]) -> T:
        try:
            with self._begin(connection):
                return work(connection)
        except DATABASE_ERRORS as err:
            if isinstance(classified(err), Unavailable):
                connection.invalidate()
            raise

    async def close(self) -> None:
        """Let the calls that were made finish, then close the connections."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        self._engine.dispose()


class _AtHand:
    """What is read on the event loop itself: one row by its index from a file takes less than to ask a thread for it.

    Only where nothing has to be waited for; who gets `Missed` asks a thread.
    """

    class Missed(Exception):
        """Not to be had at once: another process is in the way, say."""

    def __init__(self, url: sa.URL, dialect: sa.Dialect) -> None:
        self._url = url
        self._connection: sqlite3.Connection | None = None
        self._is_possible = connect.sqlite_file(url) is not None
        self._job = Query(read.ONE_JOB, dialect)
        self._newest = Query(read.NEWEST, dialect)

    def job(self, job_id: str) -> Any | None:
        """Return the job's row; None where there is none. Raises: Missed."""
        return self._first(self._job, wanted=job_id)

    def last_seq(self) -> int:
        """Raises: Missed."""
        newest = self._first(self._newest)
        return 0 if newest is None else newest.seq or 0

    def _first(self, query: Query, **values: Any) -> Any | None:
        if not self._is_possible:
            raise self.Missed
        try:
            if self._connection is None:
                self._connection = connect.at_hand(self._url)
            assert self._connection is not None, "SQLite"
            return query.first(self._connection, **values)
        except DATABASE_ERRORS as err:
            self._drop()
            raise self.Missed from err

    def close(self) -> None:
        self._is_possible = False
        self._drop()

    def _drop(self) -> None:
        left, self._connection = self._connection, None
        if left is not None:
            left.close()


class SqlLedger(Ledger):
    """The ledger on a database; made by `open_ledger`."""

    def __init__(self, url: sa.URL, settings: LedgerSettings, sealer: Sealer, *, read_only: bool) -> None:
        self._sealer = sealer
        engine = connect.readers(url, settings)
        # A query begins its transaction itself, and may say first which kind it needs.
        self._readers = _Lane(engine, lambda _: nullcontext(), threads=settings.pool_max, name="ledger-read")
        self._at_hand = _AtHand(url, engine.dialect)
        self._news = News(self.last_seq, connect.listener(url, settings), settings.event_poll_s)
        self._writer: _Lane | None = None
        if not read_only:
            engine = connect.writer(url, settings)
            self._writer = _Lane(engine, sa.Connection.begin, threads=1, name="ledger-write")
            self._writes = write.Writes(engine.dialect, self._sealer)

    async def commit(self, batch: Batch) -> None:
        if not batch.is_empty:
            await self._write(lambda connection: self._writes.write(connection, batch))

    async def lead(self, holder: str) -> int:
        return await self._write(lambda connection: write.lead(connection, holder, datetime.now(UTC)))

    async def confirm(self, leader_epoch: int) -> None:
        await self._readers.call(lambda connection: write.confirm(connection, leader_epoch))

    async def job(self, viewer: Viewer, job_id: str) -> Job:
        try:
            return read.shown(self._at_hand.job(job_id), viewer, self._sealer)
        except _AtHand.Missed:
            return await self._readers.call(lambda connection: read.job(connection, viewer, job_id, self._sealer))

    async def jobs(self, viewer: Viewer, wanted: JobFilter) -> Sequence[Job]:
        return await self._readers.call(lambda connection: read.jobs(connection, viewer, wanted, self._sealer))

    async def history(self, viewer: Viewer, job_id: str) -> Sequence[EventRecord]:
        return await self._readers.call(lambda connection: read.history(connection, viewer, job_id))

    async def events_after(
        self, viewer: Viewer, seq: int, *, job_id: str | None = None, limit: int = 1000
    ) -> Sequence[EventRecord]:
        return await self._readers.call(lambda connection: read.events_after(connection, viewer, seq, job_id, limit))

    async def last_seq(self) -> int:
        try:
            return self._at_hand.last_seq()
        except _AtHand.Missed:
            return await self._readers.call(read.last_seq)

    async def news(self, seq: int, timeout_s: float) -> None:
        await self._news.wait(seq, timeout_s)

    async def state(self) -> LedgerState:
        return await self._readers.call(lambda connection: read.state(connection, self._sealer))

    async def session(self, session_id: str) -> UploadSession | None:
        return await self._readers.call(lambda connection: read.session(connection, session_id))

    async def with_file_of(self, job: Job) -> Sequence[Job]:
        return await self._readers.call(lambda connection: read.with_file_of(connection, job, self._sealer))

    async def parts(self, session_id: str) -> Sequence[PartDone]:
        return await self._readers.call(lambda connection: read.parts(connection, session_id))

    async def parts_of_job(self, viewer: Viewer, job_id: str) -> JobParts:
        return await self._readers.call(lambda connection: read.parts_of_job(connection, viewer, job_id, self._sealer))

    async def spent(self, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], IdempotencyRecord]:
        return await self._readers.call(lambda connection: read.spent(connection, keys))

    async def forget_spent(self, before: datetime) -> int:
        return await self._write(lambda connection: write.forget_spent(connection, before))

    async def outbox(self, due: datetime, limit: int) -> Sequence[OutboxRecord]:
        return await self._readers.call(lambda connection: read.outbox(connection, due, limit, self._sealer))

    async def postpone_outbox(self, records: Sequence[OutboxRecord]) -> None:
        await self._write(lambda connection: self._writes.postpone_outbox(connection, records))

    async def forget_outbox(self, outbox_ids: Sequence[str]) -> int:
        return await self._write(lambda connection: write.forget_outbox(connection, outbox_ids))

    async def note_deliveries(self, records: Sequence[DeliveryRecord]) -> None:
        await self._write(lambda connection: self._writes.note_deliveries(connection, records))

    async def note_disabled(self, answered: Sequence[DisabledWebhook], spared: Sequence[DisabledWebhook]) -> None:
        if answered or spared:
            await self._write(lambda connection: self._writes.note_disabled(connection, answered, spared))

    async def disabled_since(self, viewer: Viewer, url: str) -> datetime | None:
        return await self._readers.call(lambda connection: read.disabled_since(connection, viewer, url, self._sealer))

    async def disabled_webhooks(self, viewer: Viewer, limit: int) -> Sequence[DisabledReceiver]:
        return await self._readers.call(lambda connection: read.disabled_webhooks(connection, viewer, limit))

    async def deliveries(
        self, viewer: Viewer, *, job_id: str | None = None, before_seq: int | None = None, limit: int = 50
    ) -> Sequence[DeliveryRecord]:
        return await self._readers.call(
            lambda connection: read.deliveries(connection, viewer, job_id, before_seq, limit)
        )

    async def scaling(self, limit: int) -> Sequence[ScalingRecord]:
        return await self._readers.call(lambda connection: read.scaling(connection, limit))

    async def slo_totals(self, since: datetime) -> Mapping[str, tuple[int, int]]:
        return await self._readers.call(lambda connection: read.slo_totals(connection, since))

    async def metadata_overdue(self, created_before: datetime) -> int:
        return await self._readers.call(lambda connection: read.metadata_overdue(connection, created_before))

    async def key(self, key_id: str) -> ApiKey | None:
        return await self._readers.call(lambda connection: read.key(connection, key_id))

    async def keys(self, viewer: Viewer) -> Sequence[ApiKey]:
        return await self._readers.call(lambda connection: read.keys(connection, viewer))

    async def close(self) -> None:
        await self._news.close()
        self._at_hand.close()
        if self._writer is not None:
            await self._writer.close()
        await self._readers.close()

    async def _write(self, work: Work[T]) -> T:
        assert self._writer is not None, "the ledger was opened for reading only"
        return await self._writer.call(work)
