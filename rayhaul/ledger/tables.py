"""The ledger's tables, alike on SQLite and PostgreSQL.

Laws of this file:
1. A column for each field that is filtered, sorted or updated often; the rest of a value is one JSON document.
2. A time is an integer, milliseconds since 1970 in UTC: both databases agree on it and indexes stay small.
3. An index stands here for a query in read.py, and says which. The migrations repeat all of this by hand.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_UNSIGNED_64 = 1 << 64
_SIGNED_MAX = (1 << 63) - 1


class Moment(sa.types.TypeDecorator[datetime]):
    """An aware datetime, kept as milliseconds since 1970 (finer parts are cut off)."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else (value - _EPOCH) // _MILLISECOND

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else datetime.fromtimestamp(value / 1000, UTC)


class Day(sa.types.TypeDecorator[date]):
    """A day, kept as its number since 1970."""

    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: date | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else (value - _EPOCH.date()).days

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> date | None:  # noqa: ARG002
        return None if value is None else _EPOCH.date() + timedelta(days=value)


class Unsigned64(sa.types.TypeDecorator[int]):
    """An unsigned 64-bit number in a BIGINT, which is signed in both databases: the upper half is kept negative."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        return value - _UNSIGNED_64 if value is not None and value > _SIGNED_MAX else value

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> int | None:  # noqa: ARG002
        return None if value is None else value % _UNSIGNED_64


#: None is SQL NULL, not the JSON word null.
_JSON = sa.JSON(none_as_null=True)

#: Jobs a scheduler still has to do with. The planner takes a partial index only where the query repeats its condition
#: word for word, so both use this text.
OPEN_JOBS = "status NOT IN ('completed', 'failed', 'cancelled')"
DEAD_LETTERS = "dead_lettered_at IS NOT NULL"
KNOWN_SOURCES = "source_id IS NOT NULL"
KNOWN_SHA256S = "sha256 IS NOT NULL"
LIVE_SESSIONS = "state IN ('open', 'aborting')"

metadata = sa.MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("created_at", Moment, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.user_id"), nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("secret_sha256", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("expires_at", Moment),
    sa.Column("revoked_at", Moment),
    #: Words with spaces between them.
    sa.Column("scopes", sa.Text, server_default=sa.text("'read write'"), nullable=False),
    sa.Column("last_used_at", Moment),
)

jobs = sa.Table(
    "jobs",
    metadata,
    # Ids are time-ordered: newest first is by id.
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.user_id"), nullable=False),
    sa.Column("correlation_id", sa.Text, nullable=False),
    sa.Column("traceparent", sa.Text),
    sa.Column("priority", sa.Text, nullable=False),
    sa.Column("tags", _JSON, nullable=False),
    #: The rest of what was asked for. With the columns above it never changes.
    sa.Column("spec", _JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("metadata", _JSON),
    sa.Column("result", _JSON),
    sa.Column("error", _JSON),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("requeues", sa.Integer, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("agents", _JSON, nullable=False),
    sa.Column("started_at", Moment),
    sa.Column("completed_at", Moment),
    sa.Column("next_attempt_at", Moment),
    sa.Column("dead_lettered_at", Moment),
    #: Of a completed job: what stands for the version that its source showed, and the SHA-256 of its bytes, as hex.
    sa.Column("source_id", sa.Text),
    sa.Column("sha256", sa.Text),
    # A user's page of jobs.
    sa.Index("jobs_by_user", "user_id", "id"),
    # A user's page of jobs by status: a few failed ones among very many.
    sa.Index("jobs_by_user_status", "user_id", "status", "id"),
    # A page of jobs by status, and the counts of all jobs by status.
    sa.Index("jobs_by_status", "status", "id"),
    # The scheduler's start reads the few jobs that are not final among all there ever were.
    sa.Index("jobs_open", "id", sqlite_where=sa.text(OPEN_JOBS), postgresql_where=sa.text(OPEN_JOBS)),
    # Completed jobs of a user that have the file of another one.
    sa.Index(
        "jobs_by_source",
        "user_id",
        "source_id",
        "id",
        sqlite_where=sa.text(KNOWN_SOURCES),
        postgresql_where=sa.text(KNOWN_SOURCES),
    ),
    sa.Index(
        "jobs_by_sha256",
        "user_id",
        "sha256",
        "id",
        sqlite_where=sa.text(KNOWN_SHA256S),
        postgresql_where=sa.text(KNOWN_SHA256S),
    ),
    # The dead-letter queue and its depth: few of all jobs, asked for every few seconds.
    sa.Index("jobs_dead", "id", sqlite_where=sa.text(DEAD_LETTERS), postgresql_where=sa.text(DEAD_LETTERS)),
    # A user's dead letters.
    sa.Index(
        "jobs_dead_by_user",
        "user_id",
        "id",
        sqlite_where=sa.text(DEAD_LETTERS),
        postgresql_where=sa.text(DEAD_LETTERS),
    ),
)

job_tags = sa.Table(
    "job_tags",
    metadata,
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    #: The job's.
    sa.Column("user_id", sa.Text, nullable=False),
    # Jobs by tag, newest first; of all and of a user.
    sa.Index("job_tags_by_value", "key", "value", "job_id"),
    sa.Index("job_tags_by_user", "user_id", "key", "value", "job_id"),
    sqlite_with_rowid=False,
)

job_events = sa.Table(
    "job_events",
    metadata,
    # AUTOINCREMENT on SQLite: a number once given is never given again, so that a listener can resume after it.
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("ts", Moment, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("correlation_id", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("payload", _JSON, nullable=False),
    # A job's history and its event stream.
    sa.Index("job_events_by_job", "job_id", "seq"),
    # The event stream of all that a user may see.
    sa.Index("job_events_by_user", "user_id", "seq"),
    sqlite_autoincrement=True,
)

upload_sessions = sa.Table(
    "upload_sessions",
    metadata,
    sa.Column("session_id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("bucket", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("upload_id", sa.Text, nullable=False),
    sa.Column("part_bytes", sa.BigInteger, nullable=False),
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    # The scheduler's start reads the uploads somebody must still finish or abort.
    sa.Index(
        "upload_sessions_live",
        "session_id",
        sqlite_where=sa.text(LIVE_SESSIONS),
        postgresql_where=sa.text(LIVE_SESSIONS),
    ),
    # Who brought the parts of a job, a completed one's too.
    sa.Index("upload_sessions_by_job", "job_id", "created_at"),
)

parts = sa.Table(
    "parts",
    metadata,
    sa.Column("session_id", sa.Text, sa.ForeignKey("upload_sessions.session_id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("etag", sa.Text, nullable=False),
    sa.Column("crc64nvme", Unsigned64),
    sa.Column("source", sa.Integer, nullable=False, server_default="0"),
    sa.Column("crc32c", sa.BigInteger),
    sa.Column("agent", sa.Text),
    sqlite_with_rowid=False,
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("lease_id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("agent", sa.Text, nullable=False),
    sa.Column("incarnation", sa.Text, nullable=False),
    sa.Column("first_part", sa.Integer, nullable=False),
    sa.Column("end_part", sa.Integer, nullable=False),
    sa.Column("granted_at", Moment, nullable=False),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("job_ids", _JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    # Forgetting the old ones.
    sa.Index("idempotency_keys_by_age", "created_at"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("outbox_id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("payload", _JSON, nullable=False),
    sa.Column("created_at", Moment, nullable=False),
    sa.Column("attempts", sa.Integer, server_default=sa.text("0"), nullable=False),
    #: NULL until the first delivery failed.
    sa.Column("next_attempt_at", Moment),
    # What is due: the new ones in their order, the postponed ones by time.
    sa.Index("outbox_by_due", "next_attempt_at", "outbox_id"),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("user_id", sa.Text, sa.ForeignKey("users.user_id"), primary_key=True),
    sa.Column("day", Day, nullable=False),
    sa.Column("bytes_used", sa.BigInteger, nullable=False),
)

#: The ids of the keys that something in this ledger may be sealed with; `none` where something may be unsealed.
seals = sa.Table(
    "seals",
    metadata,
    sa.Column("key_id", sa.Text, primary_key=True),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("ts", Moment, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, sa.ForeignKey("jobs.id"), nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("receiver", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("duration_ms", sa.Integer, nullable=False),
    sa.Column("next_attempt_at", Moment),
    sa.Column("why", sa.Text),
    # A user's deliveries, a job's, and those of long ago.
    sa.Index("webhook_deliveries_by_user", "user_id", "seq"),
    sa.Index("webhook_deliveries_by_job", "job_id", "seq"),
    sa.Index("webhook_deliveries_by_age", "ts"),
    sqlite_autoincrement=True,
)

webhooks_disabled = sa.Table(
    "webhooks_disabled",
    metadata,
    # A fingerprint (sealing.py): URLs may be secrets. One that was made with a key which is not there any more is found
    # by nobody; that URL is asked once more.
    sa.Column("url_id", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("receiver", sa.Text, nullable=False),
    sa.Column("disabled_at", Moment, nullable=False),
    sa.Column("last_at", Moment, nullable=False),
    # A user's, and those of long ago.
    sa.Index("webhooks_disabled_by_user", "user_id", "last_at"),
    sa.Index("webhooks_disabled_by_age", "last_at"),
)

#: The rows of `leadership`: who leads, and under which of the leaderships the bucket was last swept, and when.
SCHEDULER = "scheduler"
SWEEP = "sweep"

leadership = sa.Table(
    "leadership",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("taken_at", Moment, nullable=False),
)

scaling_decisions = sa.Table(
    "scaling_decisions",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("ts", Moment, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("wanted", sa.Integer, nullable=False),
    sa.Column("online", sa.Integer, nullable=False),
    sa.Column("pending", sa.Integer, nullable=False),
    sa.Column("draining", sa.Integer, nullable=False),
    sa.Column("load_pct", sa.Float),
    sa.Column("jobs_waiting", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    #: A JSON list of the values of the metric's labels, in their order.
    sa.Column("labels", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

slo_counts = sa.Table(
    "slo_counts",
    metadata,
    sa.Column("slo", sa.Text, primary_key=True),
    sa.Column("starts_at", Moment, primary_key=True),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("bad", sa.BigInteger, nullable=False),
    # Forgetting the old ones.
    sa.Index("slo_counts_by_age", "starts_at"),
)

paused_priorities = sa.Table(
    "paused_priorities",
    metadata,
    sa.Column("priority", sa.Text, primary_key=True),
)
