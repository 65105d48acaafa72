"""Each cloud has an authority, and its members certificates that it signed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("cloud", sa.String(63), nullable=False),
        sa.Column("hostname", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("names", sa.JSON(), nullable=False),
        sa.Column("ends", sa.Float(), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("key_sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("cloud", "hostname", "name", name=op.f("pk_certificates")),
    )
