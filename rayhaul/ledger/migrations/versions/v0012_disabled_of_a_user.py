"""A user's disabled webhooks, found at once."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("webhooks_disabled_by_user", "webhooks_disabled", ["user_id", "last_at"])
