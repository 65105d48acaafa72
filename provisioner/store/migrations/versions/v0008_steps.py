"""Which runs are at which step is asked for each node that comes to it."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_steps_name_state"), "steps", ["name", "state"])
