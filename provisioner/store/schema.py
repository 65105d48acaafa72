"""The tables. What is written here and what the migrations make must be the same; a test compares them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)
"""``*_sealed`` columns hold what only the site's key opens."""
NULL = "null"
"""How JSON says that there is nothing, in a column of text."""

NODES = Table(
    "nodes",
    METADATA,
    Column("uuid", String(36), primary_key=True),
    Column("name", String(63), nullable=False, unique=True),
    Column("bmc", String(300), nullable=False, unique=True),
    Column("spec", JSON, nullable=False),
    Column("password_sealed", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("power", String(10), nullable=False),
    Column("deployment", String(36)),
    Column("hardware", JSON),
    Column("bmc_facts", JSON, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("applied", Integer, nullable=False),
    Column("healthy", Boolean),
    Column("since", Float, nullable=False, server_default="0"),
    Column("spoke", Float, nullable=False, server_default="0"),
    Column("failure", JSON),
    Column("waiting", Text),
    Column("asked", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("drift", JSON(none_as_null=True)),
    Column("bmc_error", JSON(none_as_null=True)),
    Column("next_sealed", Text),
    Column("rotated", Float),
    Column("tests", JSON(none_as_null=True)),
    Column("maintenance", JSON(none_as_null=True)),
    Column("heard", Integer, nullable=False, server_default="0"),
)
PORTS = Table(
    "ports",
    METADATA,
    Column("mac", String(17), primary_key=True),
    Column("node", String(36), ForeignKey("nodes.uuid", ondelete="CASCADE"), nullable=False),
    Column("address", String(45), unique=True),
)
LEASES = Table(
    "leases",
    METADATA,
    Column("node", String(36), ForeignKey("nodes.uuid", ondelete="CASCADE"), primary_key=True),
    Column("holder", String(100), nullable=False),
    Column("purpose", String(100), nullable=False),
    Column("expiry", Float, nullable=False),
    Column("fence", Integer, nullable=False),
)
CLOUDS = Table(
    "clouds",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("desired", JSON, nullable=False),
    Column("updated", Float, nullable=False),
)
SECRETS = Table(
    "secrets",
    METADATA,
    Column("cloud", String(63), primary_key=True),  # of a cloud that may not be on record yet
    Column("name", String(100), primary_key=True),
    Column("value_sealed", Text, nullable=False),
)
CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("cloud", String(63), primary_key=True),
    Column("hostname", String(63), primary_key=True),  # of a member; empty for the cloud's authority
    Column("name", String(63), primary_key=True),
    Column("names", JSON, nullable=False),
    Column("ends", Float, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("key_sealed", Text, nullable=False),
)
DEPLOYMENTS = Table(
    "deployments",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("cloud", String(63), nullable=False),
    Column("role", String(63), nullable=False),
    Column("node", String(63), nullable=False),
    Column("hostname", String(63), nullable=False),
    Column("placement", JSON, nullable=False),
    Column("state", String(20), nullable=False),
    Column("created", Float, nullable=False),
    Column("activated", Float),
    Column("run", Integer, nullable=False),
    Column("boot_id", String(100)),
    Column("failure", JSON),
    Column("console", Text),
    Index("ix_deployments_state", "state"),
)
STEPS = Table(
    "steps",
    METADATA,
    Column("deployment", String(36), ForeignKey("deployments.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", String(30), nullable=False),
    Column("state", String(20), nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("touched", Float),
    Column("attempts", Integer, nullable=False),
    Column("detail", JSON, nullable=False),
    UniqueConstraint("deployment", "name"),
    Index("ix_steps_name_state", "name", "state"),
)
ORDERS = Table(
    "orders",
    METADATA,
    Column("deployment", String(36), ForeignKey("deployments.id", ondelete="CASCADE"), primary_key=True),
    Column("id", String(36), nullable=False),
    Column("step", String(30), nullable=False),
    Column("body_sealed", Text, nullable=False),
    Column("result", JSON),
)
TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("kind", String(10), nullable=False),
    Column("secret_sealed", Text, nullable=False),
    Column("bound_sealed", Text),
    Column("node", String(36), ForeignKey("nodes.uuid", ondelete="CASCADE"), nullable=False),
    Column("deployment", String(36), nullable=False),
    Column("expiry", Float),
    Column("used", Float),
    Index("ix_tokens_deployment", "deployment"),
)
GENERATIONS = Table(
    "generations",
    METADATA,
    Column("node", String(36), ForeignKey("nodes.uuid", ondelete="CASCADE"), primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("deployment", String(36), nullable=False),
    Column("document_sealed", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("parts", Text, nullable=False, server_default=""),
)
PARTS = Table(
    "parts",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("body_sealed", Text, nullable=False),
)
REPORTS = Table(
    "reports",
    METADATA,
    Column("node", String(36), ForeignKey("nodes.uuid", ondelete="CASCADE"), primary_key=True),
    Column("deployment", String(36), nullable=False),
    Column("at", Float, nullable=False),
    Column("body", JSON, nullable=False),
    Column("detail", JSON(none_as_null=True)),
)
OPERATORS = Table(
    "operators",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("token", String(64), nullable=False, unique=True),
    Column("hash", String(64), nullable=False),
    Column("role", String(10), nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("used", Float),
)
CONDUCTORS = Table(
    "conductors",
    METADATA,
    Column("name", String(63), primary_key=True),
    Column("place", String(300), nullable=False),
    Column("url", String(300), nullable=False),
    Column("version", String(50), nullable=False),
    Column("seen", Float, nullable=False),
    Column("keys_sealed", Text, nullable=False),
)
DUTY = Table(
    "duty",
    METADATA,
    Column("id", Integer, primary_key=True),  # always 1
    Column("epoch", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("node", String(63), nullable=False),
    Column("handover", String(36), nullable=False),
    Column("since", Float, nullable=False),
    Column("detail", JSON, nullable=False),
)
PERMITS = Table(
    "permits",
    METADATA,
    Column("cloud", String(63), primary_key=True),
    Column("role", String(63), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("state", String(10), nullable=False),
    Column("node", String(63), nullable=False),
    Column("deployment", String(36), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("granted", Float, nullable=False),
)
DEPARTURES = Table(
    "departures",
    METADATA,
    Column("cloud", String(63), primary_key=True),
    Column("hostname", String(63), primary_key=True),
    Column("role", String(63), nullable=False),
    Column("node", String(63), nullable=False),
    Column("deployment", String(36), nullable=False),
    Column("state", String(10), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("rolls", Boolean, nullable=False),
    Column("body", JSON, nullable=False),
)
ONCE = Table(
    "once",
    METADATA,
    Column("cloud", String(63), primary_key=True),
    Column("role", String(63), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("deployment", String(36), nullable=False),
    Column("run", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("state", String(10), nullable=False),
)
RECOVERIES = Table(
    "recoveries",
    METADATA,
    Column("cloud", String(63), primary_key=True),
    Column("role", String(63), primary_key=True),
    Column("outage", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("state", String(10), nullable=False),
    Column("leader", String(36), nullable=False),
    Column("begun", Float, nullable=False),
)
POSITIONS = Table(
    "positions",
    METADATA,
    Column("deployment", String(36), primary_key=True),
    Column("cloud", String(63), nullable=False),
    Column("role", String(63), nullable=False),
    Column("outage", Integer, nullable=False),
    Column("said", Boolean, nullable=False),
    Column("history", String(100), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("lost", Boolean, nullable=False),
    Column("at", Float, nullable=False),
)
EVENTS = Table(
    "events",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("kind", String(60), nullable=False),
    Column("node", String(63)),
    Column("deployment", String(36)),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Index("ix_events_node", "node"),
    sqlite_autoincrement=True,  # a number that an event had is never given again, as on every other database
)
