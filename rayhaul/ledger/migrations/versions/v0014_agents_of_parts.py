"""Which agent brought a part; and the way from a job to its uploads."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("parts", sa.Column("agent", sa.Text()))
    op.create_index("upload_sessions_by_job", "upload_sessions", ["job_id", "created_at"])
