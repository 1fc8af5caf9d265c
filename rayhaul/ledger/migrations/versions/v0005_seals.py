"""Which keys the secrets in the ledger are sealed with."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    seals = op.create_table(
        "seals", sa.Column("key_id", sa.Text(), nullable=False), sa.PrimaryKeyConstraint("key_id", name="seals_pkey")
    )
    # What was written before is not sealed.
    has_jobs = op.get_bind().execute(sa.text("SELECT 1 FROM jobs LIMIT 1")).first() is not None
    if has_jobs:
        op.bulk_insert(seals, [{"key_id": "none"}])
