"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "clouds",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("desired", sa.JSON(), nullable=False),
        sa.Column("updated", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_clouds")),
    )
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=63), nullable=False),
        sa.Column("node", sa.String(length=63), nullable=False),
        sa.Column("hostname", sa.String(length=63), nullable=False),
        sa.Column("placement", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("activated", sa.Float(), nullable=True),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("boot_id", sa.String(length=100), nullable=True),
        sa.Column("failure", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
    )
    op.create_index("ix_deployments_state", "deployments", ["state"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(length=60), nullable=False),
        sa.Column("node", sa.String(length=63), nullable=True),
        sa.Column("deployment", sa.String(length=36), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_node", "events", ["node"], unique=False)
    op.create_table(
        "nodes",
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("bmc", sa.String(length=300), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("password_sealed", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("power", sa.String(length=10), nullable=False),
        sa.Column("deployment", sa.String(length=36), nullable=True),
        sa.Column("hardware", sa.JSON(), nullable=True),
        sa.Column("bmc_facts", sa.JSON(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("applied", sa.Integer(), nullable=False),
        sa.Column("healthy", sa.Boolean(), nullable=True),
        sa.Column("failure", sa.JSON(), nullable=True),
        sa.Column("waiting", sa.Text(), nullable=True),
        sa.Column("asked", sa.Float(), nullable=False),
        sa.Column("updated", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("uuid", name=op.f("pk_nodes")),
        sa.UniqueConstraint("bmc", name=op.f("uq_nodes_bmc")),
        sa.UniqueConstraint("name", name=op.f("uq_nodes_name")),
    )
    op.create_table(
        "once",
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("deployment", sa.String(length=36), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.PrimaryKeyConstraint("cloud", "role", "name", name=op.f("pk_once")),
    )
    op.create_table(
        "permits",
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("role", sa.String(length=63), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("node", sa.String(length=63), nullable=False),
        sa.Column("deployment", sa.String(length=36), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("granted", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("cloud", "role", "slot", name=op.f("pk_permits")),
    )
    op.create_table(
        "generations",
        sa.Column("node", sa.String(length=36), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("deployment", sa.String(length=36), nullable=False),
        sa.Column("document_sealed", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name=op.f("fk_generations_node"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node", "generation", name=op.f("pk_generations")),
    )
    op.create_table(
        "leases",
        sa.Column("node", sa.String(length=36), nullable=False),
        sa.Column("holder", sa.String(length=100), nullable=False),
        sa.Column("purpose", sa.String(length=100), nullable=False),
        sa.Column("expiry", sa.Float(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name=op.f("fk_leases_node"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_leases")),
    )
    op.create_table(
        "orders",
        sa.Column("deployment", sa.String(length=36), nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("step", sa.String(length=30), nullable=False),
        sa.Column("body_sealed", sa.Text(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["deployment"], ["deployments.id"], name=op.f("fk_orders_deployment"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("deployment", name=op.f("pk_orders")),
    )
    op.create_table(
        "ports",
        sa.Column("mac", sa.String(length=17), nullable=False),
        sa.Column("node", sa.String(length=36), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=True),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name=op.f("fk_ports_node"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("mac", name=op.f("pk_ports")),
        sa.UniqueConstraint("address", name=op.f("uq_ports_address")),
    )
    op.create_table(
        "reports",
        sa.Column("node", sa.String(length=36), nullable=False),
        sa.Column("deployment", sa.String(length=36), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name=op.f("fk_reports_node"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_reports")),
    )
    op.create_table(
        "secrets",
        sa.Column("cloud", sa.String(length=63), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("value_sealed", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["cloud"], ["clouds.name"], name=op.f("fk_secrets_cloud"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("cloud", "name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "steps",
        sa.Column("deployment", sa.String(length=36), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("started", sa.Float(), nullable=True),
        sa.Column("ended", sa.Float(), nullable=True),
        sa.Column("touched", sa.Float(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["deployment"], ["deployments.id"], name=op.f("fk_steps_deployment"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("deployment", "position", name=op.f("pk_steps")),
        sa.UniqueConstraint("deployment", "name", name=op.f("uq_steps_deployment_name")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("secret_sealed", sa.Text(), nullable=False),
        sa.Column("node", sa.String(length=36), nullable=False),
        sa.Column("deployment", sa.String(length=36), nullable=False),
        sa.Column("expiry", sa.Float(), nullable=True),
        sa.Column("used", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["node"], ["nodes.uuid"], name=op.f("fk_tokens_node"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index("ix_tokens_deployment", "tokens", ["deployment"], unique=False)
