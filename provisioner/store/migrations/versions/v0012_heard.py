"""Which generation an instance has fetched and proved, whether or not it is in force yet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("heard", sa.Integer(), nullable=False, server_default="0"))
