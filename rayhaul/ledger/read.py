"""Queries: each takes a connection of a reader thread and, where rows belong to somebody, who reads."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from rayhaul.errors import NotFound
from rayhaul.job import EventRecord, Job, JobStatus
from rayhaul.lease import PartDone
from rayhaul.ledger import rows, tables
from rayhaul.ledger.base import ApiKey, IdempotencyRecord, JobFilter, LedgerState, OutboxRecord, Viewer
from rayhaul.ledger.connect import of_one_snapshot

#: Rows fetched at once where a result may be long: no second copy of it in memory.
_PAGE_ROWS = 1000
#: Most events of one job that are shown; a job that is retried for ever gets there, nothing else does.
_HISTORY_MAX = 10_000
#: Pairs looked up by one statement; SQLite takes 32,766 parameters.
_PAIRS_MAX = 5000

_jobs, _events = tables.jobs.c, tables.job_events.c


def _visible(viewer: Viewer, owner: sa.Column[str]) -> sa.ColumnElement[bool]:
    return sa.true() if viewer.sees_all else owner == viewer.user_id


def job(connection: sa.Connection, viewer: Viewer, job_id: str) -> Job:
    """Raises: NotFound."""
    query = sa.select(tables.jobs).where(_jobs.id == job_id, _visible(viewer, _jobs.user_id))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound
    return rows.job(row)


def jobs(connection: sa.Connection, viewer: Viewer, wanted: JobFilter) -> Sequence[Job]:
    query = sa.select(tables.jobs).where(_visible(viewer, _jobs.user_id))
    if wanted.status is not None:
        query = query.where(_jobs.status == wanted.status)
    if wanted.dead_lettered:
        query = query.where(sa.text(tables.DEAD_LETTERS))
    if wanted.before_id is not None:
        query = query.where(_jobs.id < wanted.before_id)
    if wanted.tag is not None:
        tags = tables.job_tags.c
        query = query.join(tables.job_tags, tags.job_id == _jobs.id)
        query = query.where(tags.key == wanted.tag[0], tags.value == wanted.tag[1])
        if wanted.before_id is not None:
            # Said of the tags as well, their index goes straight to the page.
            query = query.where(tags.job_id < wanted.before_id)
    return [rows.job(row) for row in connection.execute(query.order_by(_jobs.id.desc()).limit(wanted.limit))]


def history(connection: sa.Connection, viewer: Viewer, job_id: str) -> Sequence[EventRecord]:
    """Raises: NotFound."""
    known = sa.select(_jobs.id).where(_jobs.id == job_id, _visible(viewer, _jobs.user_id))
    if connection.execute(known).one_or_none() is None:
        raise NotFound
    query = sa.select(tables.job_events).where(_events.job_id == job_id).order_by(_events.seq).limit(_HISTORY_MAX)
    return [rows.event(row) for row in connection.execute(query)]


def events_after(
    connection: sa.Connection, viewer: Viewer, seq: int, job_id: str | None, limit: int
) -> Sequence[EventRecord]:
    query = sa.select(tables.job_events).where(_events.seq > seq, _visible(viewer, _events.user_id))
    if job_id is not None:
        query = query.where(_events.job_id == job_id)
    return [rows.event(row) for row in connection.execute(query.order_by(_events.seq).limit(limit))]


def last_seq(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.max(_events.seq))).scalar_one() or 0


def state(connection: sa.Connection) -> LedgerState:
    """Return all that a scheduler starts from, as of one moment."""
    connection = of_one_snapshot(connection)
    open_jobs = sa.select(tables.jobs).where(sa.text(tables.OPEN_JOBS)).order_by(_jobs.id)
    live = sa.select(tables.upload_sessions).where(sa.text(tables.LIVE_SESSIONS))
    live = live.order_by(tables.upload_sessions.c.session_id)
    leases = sa.select(tables.leases).order_by(tables.leases.c.lease_id)
    dead = sa.select(sa.func.count()).select_from(tables.jobs).where(sa.text(tables.DEAD_LETTERS))
    counted = sa.select(_jobs.status, sa.func.count()).group_by(_jobs.status)
    return LedgerState(
        open_jobs=[rows.job(row) for row in _paged(connection, open_jobs)],
        leases=[rows.lease(row) for row in _paged(connection, leases)],
        sessions=[rows.session(row) for row in _paged(connection, live)],
        dead_letters_count=connection.execute(dead).scalar_one(),
        totals={JobStatus(status): count for status, count in connection.execute(counted)},
    )


def parts(connection: sa.Connection, session_id: str) -> Sequence[PartDone]:
    query = sa.select(tables.parts).where(tables.parts.c.session_id == session_id).order_by(tables.parts.c.number)
    return [rows.part(row) for row in connection.execute(query)]


def spent(connection: sa.Connection, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], IdempotencyRecord]:
    records = tables.idempotency_keys
    found: dict[tuple[str, str], IdempotencyRecord] = {}
    for first in range(0, len(keys), _PAIRS_MAX):
        pairs = keys[first : first + _PAIRS_MAX]
        query = sa.select(records).where(sa.tuple_(records.c.user_id, records.c.key).in_(pairs))
        for record in map(rows.idempotency, connection.execute(query)):
            found[record.user_id, record.key] = record
    return found


def outbox(connection: sa.Connection, limit: int) -> Sequence[OutboxRecord]:
    query = sa.select(tables.outbox).order_by(tables.outbox.c.outbox_id).limit(limit)
    return [rows.outbox(row) for row in connection.execute(query)]


def key(connection: sa.Connection, key_id: str) -> ApiKey | None:
    row = connection.execute(sa.select(tables.api_keys).where(tables.api_keys.c.key_id == key_id)).one_or_none()
    return None if row is None else rows.key(row)


def keys(connection: sa.Connection, viewer: Viewer) -> Sequence[ApiKey]:
    """Return the viewer's keys, or all, oldest first."""
    columns = tables.api_keys.c
    query = sa.select(tables.api_keys).where(_visible(viewer, columns.user_id))
    return [rows.key(row) for row in connection.execute(query.order_by(columns.created_at, columns.key_id))]


def _paged(connection: sa.Connection, query: sa.Select[*tuple[Any, ...]]) -> Iterator[sa.Row[*tuple[Any, ...]]]:
    result = connection.execute(query, execution_options={"yield_per": _PAGE_ROWS})
    pages: Iterable[Sequence[sa.Row[*tuple[Any, ...]]]] = result.partitions()
    for page in pages:
        yield from page
