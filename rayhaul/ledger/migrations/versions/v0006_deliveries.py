"""What became of webhook deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("result", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("seq", name="webhook_deliveries_pkey"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="webhook_deliveries_job_id_fkey"),
        sqlite_autoincrement=True,
    )
    op.create_index("webhook_deliveries_by_user", "webhook_deliveries", ["user_id", "seq"])
    op.create_index("webhook_deliveries_by_job", "webhook_deliveries", ["job_id", "seq"])
    op.create_index("webhook_deliveries_by_age", "webhook_deliveries", ["ts"])
