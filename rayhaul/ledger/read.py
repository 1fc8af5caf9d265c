"""Queries: each takes a connection of a reader thread and, where rows belong to somebody, who reads."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rayhaul.contents import sha256_asked, source_text
from rayhaul.errors import NotFound
from rayhaul.job import EventRecord, Job, JobStatus, Priority
from rayhaul.lease import PartDone, SessionState, UploadSession
from rayhaul.ledger import rows, tables
from rayhaul.ledger.base import ApiKey, IdempotencyRecord, JobFilter, LedgerState, ScalingRecord, UsageRecord, Viewer
from rayhaul.ledger.connect import of_one_snapshot
from rayhaul.ledger.deliveries import DeliveryRecord, DisabledReceiver, OutboxRecord
from rayhaul.ledger.sealing import PLAIN, Sealer
from rayhaul.parts import JobParts, PartsRun

#: Rows fetched at once where a result may be long: no second copy of it in memory.
_PAGE_ROWS = 1000
#: Most events of one job that are shown; a job that is retried for ever gets there, nothing else does.
_HISTORY_MAX = 10_000
#: Pairs looked up by one statement; SQLite takes 32,766 parameters.
_PAIRS_MAX = 5000
#: Earlier jobs with the same file that are looked at.
_TWINS_MAX = 5

_jobs, _events = tables.jobs.c, tables.job_events.c

#: Asked for most of all: made anew each time, a statement costs as much as the row.
ONE_JOB = sa.select(tables.jobs).where(_jobs.id == sa.bindparam("wanted"))
NEWEST = sa.select(sa.func.max(_events.seq).label("seq"))

LEADER = sa.select(tables.leadership.c.epoch).where(tables.leadership.c.name == sa.bindparam("name"))


def _visible(viewer: Viewer, owner: sa.Column[str]) -> sa.ColumnElement[bool]:
    return sa.true() if viewer.sees_all else owner == viewer.user_id


def job(connection: sa.Connection, viewer: Viewer, job_id: str, sealer: Sealer = PLAIN) -> Job:
    """Raises: NotFound."""
    return shown(connection.execute(ONE_JOB, {"wanted": job_id}).one_or_none(), viewer, sealer)


def shown(row: Any | None, viewer: Viewer, sealer: Sealer) -> Job:
    """Return the job of a row. Raises: NotFound where there is none, or none for this viewer."""
    if row is None or not (viewer.sees_all or row.user_id == viewer.user_id):
        raise NotFound
    return rows.job(row, sealer)


def jobs(connection: sa.Connection, viewer: Viewer, wanted: JobFilter, sealer: Sealer = PLAIN) -> Sequence[Job]:
    query = sa.select(tables.jobs)
    if wanted.tag is None:
        owner, job_id = _jobs.user_id, _jobs.id
    else:
        # From the tags to their jobs, not the other way: owner and order are said of the tags.
        tags = tables.job_tags.c
        owner, job_id = tags.user_id, tags.job_id
        query = query.join(tables.job_tags, tags.job_id == _jobs.id)
        query = query.where(tags.key == wanted.tag[0], tags.value == wanted.tag[1])
        if wanted.before_id is not None:
            # PostgreSQL may walk along the jobs beside the tags: not from the newest one of all.
            query = query.where(_jobs.id < wanted.before_id)
    query = query.where(_visible(viewer, owner))
    if wanted.status is not None:
        query = query.where(_jobs.status == wanted.status)
    if wanted.dead_lettered:
        query = query.where(sa.text(tables.DEAD_LETTERS))
    if wanted.before_id is not None:
        query = query.where(job_id < wanted.before_id)
    query = query.order_by(job_id.desc()).limit(wanted.limit)
    return [rows.job(row, sealer) for row in connection.execute(query)]


def history(connection: sa.Connection, viewer: Viewer, job_id: str) -> Sequence[EventRecord]:
    """Raises: NotFound."""
    _check_visible(connection, viewer, job_id)
    query = sa.select(tables.job_events).where(_events.job_id == job_id).order_by(_events.seq).limit(_HISTORY_MAX)
    return [rows.event(row) for row in connection.execute(query)]


def _check_visible(connection: sa.Connection, viewer: Viewer, job_id: str) -> None:
    known = sa.select(_jobs.id).where(_jobs.id == job_id, _visible(viewer, _jobs.user_id))
    if connection.execute(known).one_or_none() is None:
        raise NotFound


def events_after(
    connection: sa.Connection, viewer: Viewer, seq: int, job_id: str | None, limit: int
) -> Sequence[EventRecord]:
    query = sa.select(tables.job_events).where(_events.seq > seq, _visible(viewer, _events.user_id))
    if job_id is not None:
        query = query.where(_events.job_id == job_id)
    return [rows.event(row) for row in connection.execute(query.order_by(_events.seq).limit(limit))]


def last_seq(connection: sa.Connection) -> int:
    return connection.execute(NEWEST).scalar_one() or 0


def leader_epoch(connection: sa.Connection) -> int | None:
    """Return the newest leadership's epoch, None before the first one."""
    return connection.execute(LEADER, {"name": tables.SCHEDULER}).scalar_one_or_none()


def state(connection: sa.Connection, sealer: Sealer = PLAIN) -> LedgerState:
    """Return all that a scheduler starts from, as of one moment."""
    connection = of_one_snapshot(connection)
    open_jobs = sa.select(tables.jobs).where(sa.text(tables.OPEN_JOBS)).order_by(_jobs.id)
    live = sa.select(tables.upload_sessions).where(sa.text(tables.LIVE_SESSIONS))
    live = live.order_by(tables.upload_sessions.c.session_id)
    leases = sa.select(tables.leases).order_by(tables.leases.c.lease_id)
    parts, sessions = tables.parts.c, tables.upload_sessions.c
    # From the open uploads, which are few, to their parts: there may be millions of those that are over.
    still_open = sa.select(sessions.session_id)
    still_open = still_open.where(sa.text(tables.LIVE_SESSIONS), sessions.state == SessionState.OPEN)
    recorded = sa.select(parts.session_id, parts.number).where(parts.session_id.in_(still_open))
    recorded = recorded.order_by(parts.session_id, parts.number)
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for session_id, number in _paged(connection, recorded):
        numbers[session_id].append(number)
    dead = sa.select(sa.func.count()).select_from(tables.jobs).where(sa.text(tables.DEAD_LETTERS))
    usage = sa.select(tables.usage).order_by(tables.usage.c.user_id)
    counted = sa.select(_jobs.status, sa.func.count()).group_by(_jobs.status)
    swept = sa.select(tables.leadership.c.taken_at).where(tables.leadership.c.name == tables.SWEEP)
    return LedgerState(
        open_jobs=[rows.job(row, sealer) for row in _paged(connection, open_jobs)],
        leases=[rows.lease(row) for row in _paged(connection, leases)],
        sessions=[rows.session(row) for row in _paged(connection, live)],
        parts=dict(numbers),
        dead_letters_count=connection.execute(dead).scalar_one(),
        paused=frozenset(map(Priority, connection.execute(sa.select(tables.paused_priorities.c.priority)).scalars())),
        usage=tuple(UsageRecord(**row) for row in connection.execute(usage).mappings()),
        totals={JobStatus(status): count for status, count in connection.execute(counted)},
        counts=dict(map(rows.count, connection.execute(sa.select(tables.counters)))),
        swept_at=connection.execute(swept).scalar_one_or_none(),
    )


def with_file_of(connection: sa.Connection, job: Job, sealer: Sealer = PLAIN) -> Sequence[Job]:
    """Return the newest completed jobs of the same user that may have a job's file, a few."""
    sha256, source = sha256_asked(job), source_text(job)
    if sha256 is not None:
        conditions = [(tables.KNOWN_SHA256S, _jobs.sha256 == sha256)]
    else:
        # As long as keys change, there is more than one way to write it.
        ids = [] if source is None else sealer.fingerprints(source)
        conditions = [(tables.KNOWN_SOURCES, _jobs.source_id == source_id) for source_id in ids]
    found: list[Job] = []
    for known, condition in conditions:
        query = sa.select(tables.jobs).where(_jobs.user_id == job.user_id, sa.text(known), condition)
        query = query.order_by(_jobs.id.desc()).limit(_TWINS_MAX)
        found += [rows.job(row, sealer) for row in connection.execute(query)]
    return found


def session(connection: sa.Connection, session_id: str) -> UploadSession | None:
    query = sa.select(tables.upload_sessions).where(tables.upload_sessions.c.session_id == session_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else rows.session(row)


def parts(connection: sa.Connection, session_id: str) -> Sequence[PartDone]:
    query = sa.select(tables.parts).where(tables.parts.c.session_id == session_id).order_by(tables.parts.c.number)
    return [rows.part(row) for row in connection.execute(query)]


def parts_of_job(connection: sa.Connection, viewer: Viewer, job_id: str, sealer: Sealer = PLAIN) -> JobParts:
    """Raises: NotFound."""
    connection = of_one_snapshot(connection)
    result = job(connection, viewer, job_id, sealer).result
    sessions, leases = tables.upload_sessions.c, tables.leases.c
    newest = sa.select(tables.upload_sessions).where(
        sessions.job_id == job_id, sessions.state.in_((SessionState.OPEN, SessionState.COMPLETED))
    )
    row = connection.execute(newest.order_by(sessions.created_at.desc()).limit(1)).one_or_none()
    held = sa.select(tables.leases).where(leases.job_id == job_id).order_by(leases.first_part, leases.epoch)
    return JobParts(
        session=None if row is None else rows.session(row),
        runs=[] if row is None else _runs(connection, row.session_id, None if result is None else result.parts_count),
        leases=[rows.lease(found) for found in connection.execute(held)],
    )


def _runs(connection: sa.Connection, session_id: str, parts_count: int | None) -> Sequence[PartsRun]:
    """Return a session's parts as runs: within one, a part's number and its place among its agent's grow alike.

    `parts_count`: of the object, once it is there. A stream that was begun again may have ended before parts that came
    the first time.
    """
    parts = tables.parts.c
    place = sa.func.row_number().over(partition_by=parts.agent, order_by=parts.number)
    placed = sa.select(parts.agent, parts.number, parts.size_bytes, (parts.number - place).label("run"))
    placed = placed.where(parts.session_id == session_id)
    if parts_count is not None:
        placed = placed.where(parts.number <= parts_count)
    one = placed.subquery().c
    first, last = sa.func.min(one.number), sa.func.max(one.number)
    query = sa.select(one.agent, first, last, sa.func.sum(one.size_bytes)).group_by(one.agent, one.run).order_by(first)
    return [
        PartsRun(agent=agent, first_part=first_part, end_part=last_part + 1, bytes_count=int(bytes_count))
        for agent, first_part, last_part, bytes_count in connection.execute(query)
    ]


def spent(connection: sa.Connection, keys: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], IdempotencyRecord]:
    records = tables.idempotency_keys
    found: dict[tuple[str, str], IdempotencyRecord] = {}
    for first in range(0, len(keys), _PAIRS_MAX):
        pairs = keys[first : first + _PAIRS_MAX]
        query = sa.select(records).where(sa.tuple_(records.c.user_id, records.c.key).in_(pairs))
        for record in map(rows.idempotency, connection.execute(query)):
            found[record.user_id, record.key] = record
    return found


def outbox(connection: sa.Connection, due: datetime, limit: int, sealer: Sealer = PLAIN) -> Sequence[OutboxRecord]:
    """Return those that wait longest first: since they were made, or since their postponed delivery is due.

    Which webhooks are disabled is read along with them: nobody needs to ask for each message.
    """
    connection = of_one_snapshot(connection)
    columns = tables.outbox.c
    query = sa.select(tables.outbox).order_by(columns.next_attempt_at, columns.outbox_id).limit(limit)
    # Two walks along one index. In one query, `OR` would cost the order.
    found = [
        rows.outbox(row, sealer)
        for condition in (columns.next_attempt_at.is_(None), columns.next_attempt_at <= due)
        for row in connection.execute(query.where(condition))
    ]
    found.sort(key=lambda record: (record.next_attempt_at or record.created_at, record.outbox_id))
    del found[limit:]
    disabled = _disabled(connection, {(record.user_id, record.url) for record in found}, sealer)
    for index, record in enumerate(found if disabled else ()):
        found[index] = replace(record, disabled_at=disabled.get((record.user_id, record.url)))
    return found


def disabled_since(connection: sa.Connection, viewer: Viewer, url: str, sealer: Sealer = PLAIN) -> datetime | None:
    webhook = (viewer.user_id, url)
    return _disabled(connection, {webhook}, sealer).get(webhook)


def _disabled(
    connection: sa.Connection, webhooks: Iterable[tuple[str, str]], sealer: Sealer
) -> Mapping[tuple[str, str], datetime]:
    """Return since when those of these (user id, URL) that are disabled are so."""
    asked = {(user_id, url_id): (user_id, url) for user_id, url in webhooks for url_id in sealer.fingerprints(url)}
    url_ids = list({url_id for _, url_id in asked})
    columns = tables.webhooks_disabled.c
    query = sa.select(columns.user_id, columns.url_id, columns.disabled_at)
    found: dict[tuple[str, str], datetime] = {}
    for first in range(0, len(url_ids), _PAIRS_MAX):
        page = query.where(columns.url_id.in_(url_ids[first : first + _PAIRS_MAX]))
        for user_id, url_id, disabled_at in connection.execute(page):
            if (user_id, url_id) in asked:
                found[asked[user_id, url_id]] = disabled_at
    return found


def disabled_webhooks(connection: sa.Connection, viewer: Viewer, limit: int) -> Sequence[DisabledReceiver]:
    disabled = tables.webhooks_disabled
    names = [field.name for field in fields(DisabledReceiver)]
    query = sa.select(*(disabled.c[name] for name in names)).where(_visible(viewer, disabled.c.user_id))
    found = connection.execute(query.order_by(disabled.c.last_at.desc()).limit(limit))
    return [DisabledReceiver(**row) for row in found.mappings()]


def deliveries(
    connection: sa.Connection, viewer: Viewer, job_id: str | None, before_seq: int | None, limit: int
) -> Sequence[DeliveryRecord]:
    columns = tables.webhook_deliveries.c
    query = sa.select(tables.webhook_deliveries).where(_visible(viewer, columns.user_id))
    if job_id is not None:
        query = query.where(columns.job_id == job_id)
    if before_seq is not None:
        query = query.where(columns.seq < before_seq)
    found = connection.execute(query.order_by(columns.seq.desc()).limit(limit))
    return [DeliveryRecord(**row) for row in found.mappings()]


def slo_totals(connection: sa.Connection, since: datetime) -> Mapping[str, tuple[int, int]]:
    counts = tables.slo_counts.c
    query = sa.select(counts.slo, sa.func.sum(counts.total), sa.func.sum(counts.bad))
    found = connection.execute(query.where(counts.starts_at >= since).group_by(counts.slo))
    return {slo: (int(total), int(bad)) for slo, total, bad in found}


def metadata_overdue(connection: sa.Connection, created_before: datetime) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(tables.jobs)
        .where(
            sa.text(tables.OPEN_JOBS),
            _jobs.status == JobStatus.QUEUED,
            _jobs.metadata.is_(None),
            _jobs.created_at < created_before,
        )
    )
    return int(connection.execute(query).scalar_one())


def scaling(connection: sa.Connection, limit: int) -> Sequence[ScalingRecord]:
    decisions = tables.scaling_decisions
    names = [field.name for field in fields(ScalingRecord)]
    query = sa.select(*(decisions.c[name] for name in names)).order_by(decisions.c.seq.desc()).limit(limit)
    return [ScalingRecord(**row) for row in connection.execute(query).mappings()]


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
