"""When what a node has in force, or its health, last changed; when its instance last asked for a permit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("since", sa.Float(), nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("spoke", sa.Float(), nullable=False, server_default="0"))
