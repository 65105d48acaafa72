"""Several conductors on the same records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "conductors",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("place", sa.String(300), nullable=False),
        sa.Column("url", sa.String(300), nullable=False),
        sa.Column("version", sa.String(50), nullable=False),
        sa.Column("seen", sa.Float(), nullable=False),
        sa.Column("keys_sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_conductors")),
    )
