"""Writing a batch: every kind of row in one statement, compiled once, run for all its rows."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from rayhaul.job import Job
from rayhaul.ledger import read, rows, tables
from rayhaul.ledger.base import ApiKey, Batch, Deposed, LedgerConflict
from rayhaul.ledger.connect import NEWS_CHANNEL
from rayhaul.ledger.deliveries import DeliveryRecord, DisabledWebhook, OutboxRecord
from rayhaul.ledger.prepared import Query, Row, Statement
from rayhaul.ledger.sealing import Sealer

#: What became of a delivery is shown for so long, and a disabled webhook known after its last message.
DELIVERIES_KEPT = timedelta(days=30)
#: A little more than the longest window of an objective.
_SLO_KEPT = timedelta(days=31)


class Writes:
    """All the statements of a commit, for one kind of database."""

    def __init__(self, dialect: sa.Dialect, sealer: Sealer) -> None:
        self._sealer = sealer

        def insert(table: sa.Table, *generated: str) -> Statement:
            names = [column.name for column in table.columns if column.name not in generated]
            # inline: no RETURNING of generated columns.
            statement = sa.insert(table).values({name: sa.bindparam(name) for name in names}).inline()
            return Statement(statement, dialect)

        def upsert(table: sa.Table) -> Statement:
            return Statement(_upsert(table, dialect), dialect)

        state = [name for name in tables.jobs.columns.keys() if name not in _JOB_ASKED]  # noqa: SIM118 - no mapping
        change = (
            sa.update(tables.jobs)
            .where(tables.jobs.c.id == sa.bindparam("job_id"), tables.jobs.c.version == sa.bindparam("version_before"))
            .values({name: sa.bindparam(name) for name in state})
        )
        postpone = (
            sa.update(tables.outbox)
            .where(tables.outbox.c.outbox_id == sa.bindparam("postponed_id"))
            .values({name: sa.bindparam(name) for name in ("attempts", "next_attempt_at")})
        )
        trim = (
            sa.update(tables.leases)
            .where(tables.leases.c.lease_id == sa.bindparam("trimmed_id"))
            .values(end_part=sa.bindparam("end_before"))
        )
        end = sa.delete(tables.leases).where(tables.leases.c.lease_id == sa.bindparam("ended_id"))
        self.users = Statement(_insert(tables.users, dialect).on_conflict_do_nothing().inline(), dialect)
        self.jobs_new = insert(tables.jobs)
        self.tags = insert(tables.job_tags)
        self.jobs_changed = Statement(change, dialect)
        self.sessions = upsert(tables.upload_sessions)
        self.parts = upsert(tables.parts)
        self.leases_granted = insert(tables.leases)
        self.leases_trimmed = Statement(trim, dialect)
        self.leases_ended = Statement(end, dialect)
        self.events = insert(tables.job_events, "seq")
        self.idempotency = insert(tables.idempotency_keys)
        self.outbox = insert(tables.outbox)
        self.outbox_postponed = Statement(postpone, dialect)
        self.keys = Statement(_put_key(dialect), dialect)
        self.keys_used = Statement(_note_use(), dialect)
        self.deliveries = insert(tables.webhook_deliveries, "seq")
        disabled = tables.webhooks_disabled
        known = (disabled.c.url_id == sa.bindparam("known_id"), disabled.c.user_id == sa.bindparam("known_user"))
        spare = sa.update(disabled).where(*known).values(last_at=sa.bindparam("last_at"))
        self.webhooks_disabled = upsert(disabled)
        self.webhooks_spared = Statement(spare, dialect)
        self.webhooks_enabled = Statement(sa.delete(disabled).where(*known), dialect)
        self.scaling = insert(tables.scaling_decisions, "seq")
        self.counts = Statement(_add(tables.counters, dialect), dialect)
        self.slo_counts = Statement(_add(tables.slo_counts, dialect), dialect)
        kept_from = sa.bindparam("kept_from", type_=tables.Moment)
        forget = sa.delete(tables.slo_counts).where(tables.slo_counts.c.starts_at < kept_from)
        self.slo_forgotten = Statement(forget, dialect)
        self.paused = insert(tables.paused_priorities)
        self.usage = upsert(tables.usage)
        self.swept = upsert(tables.leadership)
        self.leader = Query(read.LEADER, dialect)
        self._tell = dialect.name == "postgresql"

    def write(self, connection: sa.Connection, batch: Batch) -> None:
        """Write the batch into the transaction that `connection` is in.

        Raises: LedgerConflict where a changed job's version is not the expected one; Deposed.
        """
        if batch.leader_epoch is not None:
            leader = self.leader.first(connection.connection, name=tables.SCHEDULER)
            _check(None if leader is None else leader.epoch, batch.leader_epoch)
        sealer = self._sealer
        # Owners first: other rows refer to them.
        self.users.run(connection, _users(batch))
        self.jobs_new.run(
            connection, [{**rows.job_asked(job, sealer), **rows.job_state(job, sealer)} for job in batch.jobs_new]
        )
        self.tags.run(connection, [row for job in batch.jobs_new for row in _tags(job)])
        changes = [
            {**rows.job_state(job, sealer), "job_id": job.id, "version_before": job.version - 1}
            for job in batch.jobs_changed
        ]
        if self.jobs_changed.run(connection, changes) != len(changes):
            raise LedgerConflict
        self.sessions.run(connection, [rows.session_values(session) for session in batch.sessions])
        self.parts.run(connection, [rows.part_values(part) for part in batch.parts])
        self.leases_granted.run(connection, [rows.lease_values(lease) for lease in batch.leases_granted])
        self.leases_trimmed.run(
            connection,
            [{"trimmed_id": lease.lease_id, "end_before": lease.end_part} for lease in batch.leases_trimmed],
        )
        self.leases_ended.run(connection, [{"ended_id": lease_id} for lease_id in batch.leases_ended])
        self.events.run(connection, [rows.event_values(event) for event in batch.events])
        self.idempotency.run(connection, [rows.idempotency_values(record) for record in batch.idempotency])
        self.outbox.run(connection, [rows.outbox_values(record, sealer) for record in batch.outbox])
        self.webhooks_enabled.run(connection, [row for each in batch.webhooks_enabled for row in self._known(*each)])
        self.keys.run(connection, [rows.key_values(key) for key in batch.keys])
        used = [{"used_id": key_id, "used_at": used_at} for key_id, used_at in batch.keys_used.items()]
        self.keys_used.run(connection, used)
        self.scaling.run(connection, [asdict(record) for record in batch.scaling])
        self.usage.run(connection, [asdict(record) for record in batch.usage])
        self.counts.run(connection, [rows.count_values(*count) for count in batch.counts.items()])
        self.slo_counts.run(connection, [asdict(record) for record in batch.slo_counts])
        if batch.slo_counts:
            newest = max(record.starts_at for record in batch.slo_counts)
            self.slo_forgotten.run(connection, [{"kept_from": newest - _SLO_KEPT}])
        if batch.paused is not None:
            connection.execute(sa.delete(tables.paused_priorities))
            self.paused.run(connection, [{"priority": priority} for priority in sorted(batch.paused)])
        if batch.swept_at is not None:
            swept = {"epoch": batch.leader_epoch or 0, "holder": "", "taken_at": batch.swept_at}
            self.swept.run(connection, [{"name": tables.SWEEP, **swept}])
        if batch.events and self._tell:
            connection.exec_driver_sql(_TELL)

    def postpone_outbox(self, connection: sa.Connection, records: Sequence[OutboxRecord]) -> None:
        due = [{**rows.outbox_values(record, self._sealer), "postponed_id": record.outbox_id} for record in records]
        self.outbox_postponed.run(connection, due)

    def note_deliveries(self, connection: sa.Connection, records: Sequence[DeliveryRecord]) -> None:
        self.deliveries.run(connection, [asdict(record) for record in records])
        if records:
            old = tables.webhook_deliveries.c.ts < max(record.ts for record in records) - DELIVERIES_KEPT
            connection.execute(sa.delete(tables.webhook_deliveries).where(old))

    def note_disabled(
        self, connection: sa.Connection, answered: Sequence[DisabledWebhook], spared: Sequence[DisabledWebhook]
    ) -> None:
        self.webhooks_disabled.run(connection, [rows.disabled_values(webhook, self._sealer) for webhook in answered])
        uses = [
            {**known, "last_at": webhook.last_at}
            for webhook in spared
            for known in self._known(webhook.user_id, webhook.url)
        ]
        self.webhooks_spared.run(connection, uses)
        newest = max(webhook.last_at for webhook in (*answered, *spared))
        old = tables.webhooks_disabled.c.last_at < newest - DELIVERIES_KEPT
        connection.execute(sa.delete(tables.webhooks_disabled).where(old))

    def _known(self, user_id: str, url: str) -> list[Row]:
        """Return what finds a webhook, under whichever key it was written."""
        return [{"known_id": url_id, "known_user": user_id} for url_id in self._sealer.fingerprints(url)]


#: Columns of a job that are written once.
_JOB_ASKED = ("id", "user_id", "correlation_id", "traceparent", "priority", "tags", "spec", "created_at")


#: Tells whoever listens (news.py) the newest event's number. It arrives when the commit is visible, and not without it.
_TELL = f"""
    SELECT pg_catalog.pg_notify('{NEWS_CHANNEL}' || 'job_events'::regclass::oid::text, max(seq)::text) FROM job_events
"""  # noqa: S608 - of constants


def lead(connection: sa.Connection, holder: str, now: datetime) -> int:
    """Take the lead; return its epoch. Writers come one after another, so nobody else takes the same one."""
    epoch = (read.leader_epoch(connection) or 0) + 1
    row = {"name": tables.SCHEDULER, "epoch": epoch, "holder": holder, "taken_at": now}
    connection.execute(_upsert(tables.leadership, connection.dialect), row)
    return epoch


def confirm(connection: sa.Connection, leader_epoch: int) -> None:
    """Raises: Deposed. Within a writing transaction the answer holds until its end."""
    _check(read.leader_epoch(connection), leader_epoch)


def _check(newest: int | None, leader_epoch: int) -> None:
    if newest != leader_epoch:
        raise Deposed(f"leadership {leader_epoch} is over: the ledger is led under {newest}")


def forget_spent(connection: sa.Connection, before: datetime) -> int:
    records = tables.idempotency_keys
    return connection.execute(sa.delete(records).where(records.c.created_at < before)).rowcount


def forget_outbox(connection: sa.Connection, outbox_ids: Sequence[str]) -> int:
    return connection.execute(sa.delete(tables.outbox).where(tables.outbox.c.outbox_id.in_(outbox_ids))).rowcount


def _insert(table: sa.Table, dialect: sa.Dialect) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if dialect.name == "sqlite" else postgresql.insert(table)


def _upsert(table: sa.Table, dialect: sa.Dialect) -> sa.Insert:
    key = [column.name for column in table.primary_key]
    rest = [column.name for column in table.columns if column.name not in key]
    statement = _insert(table, dialect)
    return statement.on_conflict_do_update(
        index_elements=key, set_={name: statement.excluded[name] for name in rest}
    ).inline()


def _put_key(dialect: sa.Dialect) -> sa.Insert:
    """Return the upsert of a key. It does not undo what others wrote after the key was read."""
    keys = tables.api_keys
    statement = _insert(keys, dialect)
    new = statement.excluded
    kept = {"key_id", "revoked_at", "last_used_at"}
    changes: dict[str, Any] = {column.name: new[column.name] for column in keys.columns if column.name not in kept}
    changes["revoked_at"] = sa.func.coalesce(keys.c.revoked_at, new.revoked_at)
    return statement.on_conflict_do_update(index_elements=["key_id"], set_=changes).inline()


def _note_use() -> sa.Update:
    keys, used_at = tables.api_keys, sa.bindparam("used_at", type_=tables.Moment)
    is_news = sa.or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < used_at)
    return sa.update(keys).where(keys.c.key_id == sa.bindparam("used_id"), is_news).values(last_used_at=used_at)


def _add(table: sa.Table, dialect: sa.Dialect) -> sa.Insert:
    """Return an insert that adds its numbers to those of the row that is there."""
    key = [column.name for column in table.primary_key]
    statement = _insert(table, dialect)
    sums = {c.name: c + statement.excluded[c.name] for c in table.columns if c.name not in key}
    return statement.on_conflict_do_update(index_elements=key, set_=sums).inline()


def _users(batch: Batch) -> list[Row]:
    """Return the batch's users, each once, as old as the first thing of theirs in it."""
    found: dict[str, Row] = {}
    owned_rows: list[Job | ApiKey] = [*batch.jobs_new, *batch.keys]
    for owned in owned_rows:
        found.setdefault(owned.user_id, {"user_id": owned.user_id, "created_at": owned.created_at})
    return list(found.values())


def _tags(job: Job) -> list[Row]:
    return [
        {"job_id": job.id, "key": key, "value": value, "user_id": job.user_id} for key, value in job.spec.tags.items()
    ]
