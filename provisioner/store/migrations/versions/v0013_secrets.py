"""A secret may be stored before its cloud is on record."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    old = sa.Table(
        "secrets",
        sa.MetaData(),
        sa.Column("cloud", sa.String(63), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("value_sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("cloud", "name", name=op.f("pk_secrets")),
    )
    if op.get_bind().dialect.name == "sqlite":  # it cannot drop a constraint: the table is made anew without it
        with op.batch_alter_table("secrets", copy_from=old, recreate="always"):
            pass
    else:
        op.drop_constraint(op.f("fk_secrets_cloud"), "secrets", type_="foreignkey")
