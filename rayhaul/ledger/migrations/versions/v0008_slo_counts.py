"""The events of the service-level objectives, counted by stretches of time."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "slo_counts",
        sa.Column("slo", sa.Text(), nullable=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("bad", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slo", "starts_at", name="slo_counts_pkey"),
    )
    op.create_index("slo_counts_by_age", "slo_counts", ["starts_at"])
