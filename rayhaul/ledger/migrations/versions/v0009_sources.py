"""Which of a job's sources a part came from."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("parts", sa.Column("source", sa.Integer(), nullable=False, server_default="0"))
