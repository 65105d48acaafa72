"""Where the records of a test are: a SQLite file, or a database of its own on the server that TEST_DATABASE names."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sqlalchemy import create_engine, make_url, text

SERVER = os.environ.get("TEST_DATABASE", "")
"""SQLAlchemy URL of a PostgreSQL on which databases may be made; empty for SQLite."""


def records_url(folder: Path, name: str = "records") -> str:
    """The same for the same folder and name; made the first time."""
    if not SERVER:
        return f"sqlite:///{folder / name}.db"
    database = "t" + hashlib.sha256(f"{folder}/{name}".encode()).hexdigest()[:20]
    engine = create_engine(SERVER, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        known = connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": database}).scalar()
        if not known:
            connection.exec_driver_sql(f"CREATE DATABASE {database}")
    engine.dispose()
    return make_url(SERVER).set(database=database).render_as_string(hide_password=False)
