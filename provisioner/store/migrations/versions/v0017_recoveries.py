"""Roles that were down as a whole: how far each member had come, and who begins again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recoveries",
        sa.Column("cloud", sa.String(63), primary_key=True),
        sa.Column("role", sa.String(63), primary_key=True),
        sa.Column("outage", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("leader", sa.String(36), nullable=False),
        sa.Column("begun", sa.Float(), nullable=False),
    )
    op.create_table(
        "positions",
        sa.Column("deployment", sa.String(36), primary_key=True),
        sa.Column("cloud", sa.String(63), nullable=False),
        sa.Column("role", sa.String(63), nullable=False),
        sa.Column("outage", sa.Integer(), nullable=False),
        sa.Column("said", sa.Boolean(), nullable=False),
        sa.Column("history", sa.String(100), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.Boolean(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
    )
