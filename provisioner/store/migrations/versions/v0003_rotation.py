"""A password that is about to replace a BMC's, and when the one in use was made by us."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("nodes") as nodes:
        nodes.add_column(sa.Column("next_sealed", sa.Text(), nullable=True))
        nodes.add_column(sa.Column("rotated", sa.Float(), nullable=True))
