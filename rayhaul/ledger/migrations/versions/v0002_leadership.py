"""Who leads, what is paused, why agents come and go, when a message is due; indexes for a user's own pages of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_tables()
    _add_deliveries()
    _add_pages_of_a_user()


def _create_tables() -> None:
    op.create_table(
        "leadership",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("taken_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="leadership_pkey"),
    )
    op.create_table(
        "paused_priorities",
        sa.Column("priority", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("priority", name="paused_priorities_pkey"),
    )
    op.create_table(
        "scaling_decisions",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            sa.Identity(),
            nullable=False,
        ),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("online", sa.Integer(), nullable=False),
        sa.Column("pending", sa.Integer(), nullable=False),
        sa.Column("draining", sa.Integer(), nullable=False),
        sa.Column("load_pct", sa.Float()),
        sa.Column("jobs_waiting", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="scaling_decisions_pkey"),
        sqlite_autoincrement=True,
    )


def _add_deliveries() -> None:
    # With its default the column is there at once, however long the table.
    op.add_column("outbox", sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("outbox", sa.Column("next_attempt_at", sa.BigInteger()))
    op.create_index("outbox_by_due", "outbox", ["next_attempt_at", "outbox_id"])


def _add_pages_of_a_user() -> None:
    op.create_index("jobs_by_user_status", "jobs", ["user_id", "status", "id"])
    dead = sa.text("dead_lettered_at IS NOT NULL")
    op.create_index("jobs_dead_by_user", "jobs", ["user_id", "id"], sqlite_where=dead, postgresql_where=dead)
    op.add_column("job_tags", sa.Column("user_id", sa.Text()))
    op.execute("UPDATE job_tags SET user_id = (SELECT user_id FROM jobs WHERE jobs.id = job_tags.job_id)")
    with op.batch_alter_table("job_tags", table_kwargs={"sqlite_with_rowid": False}) as job_tags:
        job_tags.alter_column("user_id", existing_type=sa.Text(), nullable=False)
    op.create_index("job_tags_by_user", "job_tags", ["user_id", "key", "value", "job_id"])
