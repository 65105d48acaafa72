"""What the metadata of many nodes have in common is kept once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "parts",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("body_sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_parts")),
    )
    op.add_column("generations", sa.Column("parts", sa.Text(), nullable=False, server_default=""))
