"""What completed jobs brought, so that the same file need not be fetched again."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column, index in (("source_id", "jobs_by_source"), ("sha256", "jobs_by_sha256")):
        op.add_column("jobs", sa.Column(column, sa.Text()))
        known = sa.text(f"{column} IS NOT NULL")
        op.create_index(index, "jobs", ["user_id", column, "id"], sqlite_where=known, postgresql_where=known)
