"""Webhooks that answered 410, and why a message was given up."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhooks_disabled",
        sa.Column("url_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("url_id", "user_id", name="webhooks_disabled_pkey"),
    )
    op.create_index("webhooks_disabled_by_age", "webhooks_disabled", ["last_at"])
    op.add_column("webhook_deliveries", sa.Column("why", sa.Text()))
