"""What the sweep saw: a power that is not as on record, and a controller that cannot be reached."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("nodes") as nodes:
        nodes.add_column(sa.Column("drift", sa.JSON(), nullable=True))
        nodes.add_column(sa.Column("bmc_error", sa.JSON(), nullable=True))
