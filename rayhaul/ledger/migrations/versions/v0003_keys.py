"""What a key may do, and when it was last used."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # With its default the column is there at once; a key made before could do all that its role may.
    op.add_column("api_keys", sa.Column("scopes", sa.Text(), server_default=sa.text("'read write'"), nullable=False))
    op.add_column("api_keys", sa.Column("last_used_at", sa.BigInteger()))
