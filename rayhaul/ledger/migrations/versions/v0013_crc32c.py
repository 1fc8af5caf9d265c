"""CRC-32C of a part, where the object is compared with one."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("parts", sa.Column("crc32c", sa.BigInteger))
