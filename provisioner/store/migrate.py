"""The schema is made and brought up to date by migrations; a newer one is left alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from provisioner.errors import HostError
from provisioner.store.database import Database
from provisioner.store.restore import copy_records

MIGRATIONS = Path(__file__).with_name("migrations")
COPY = ".schema-"
"""In the name of records that were kept from before an upgrade."""


@dataclass(frozen=True)
class Migration:
    """A change of the schema, and what it is for."""

    version: str
    about: str


def run_migrations(database: Database, until: str = "head") -> str:
    """Bring the schema to the newest version this program knows, in one transaction; that version.

    Records of an older one are copied before, so that there is a way back.

    :param until: an older version, as it was once the newest.
    :raises HostError: the records were written by a newer version of the program, or cannot be copied.
    """
    config, scripts = _scripts()
    head = scripts.get_current_head()
    assert head is not None
    with database.read() as connection:
        current = _current(connection, scripts, database.url)
    if current == head:
        return head
    if current is not None:
        _keep(database.url, current)
    with database.write() as connection:
        if _current(connection, scripts, database.url) != head:
            config.attributes["connection"] = connection
            command.upgrade(config, until)
    return head


def read_pending(url: str) -> tuple[str, tuple[Migration, ...]]:
    """(the version of the records' schema, the migrations that they lack).

    :raises HostError: they are of a newer version of this program.
    """
    _, scripts = _scripts()
    database = Database(url)
    try:
        with database.read() as connection:
            current = _current(connection, scripts, url)
    finally:
        database.close()
    pending = [script for script in scripts.walk_revisions() if current is None or script.revision > current]
    found = (Migration(script.revision, script.doc.strip()) for script in reversed(pending))
    return current or "", tuple(found)


def read_schema(url: str) -> str:
    """The version of the records' schema, whether this program knows it or not."""
    database = Database(url)
    try:
        with database.read() as connection:
            return MigrationContext.configure(connection).get_current_revision() or ""
    finally:
        database.close()


def copy_of(records: Path, schema: str) -> Path:
    """Where records of an older schema are kept."""
    return records.with_name(f"{records.name}{COPY}{schema}")


def find_copies(records: Path) -> list[Path]:
    """Records from before upgrades, the oldest schema first."""
    return sorted(path for path in records.parent.glob(f"{records.name}{COPY}*") if not path.name.endswith("-left"))


def _keep(url: str, schema: str) -> None:
    """Other databases than SQLite have their own ways of backing up."""
    file = make_url(url).database
    if make_url(url).get_backend_name() == "sqlite" and file and Path(file).is_file():
        target = copy_of(Path(file), schema)
        target.unlink(missing_ok=True)
        copy_records(Path(file), target)


def _scripts() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config, ScriptDirectory.from_config(config)


def _current(connection: object, scripts: ScriptDirectory, url: str) -> str | None:
    """:raises HostError: it is not among ours."""
    current = MigrationContext.configure(connection).get_current_revision()  # type: ignore[arg-type]
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise HostError(
            "the records were written by a newer version of this program",
            where=url,
            cause=f"their schema is {current}; this program knows up to {scripts.get_current_head()}",
            hint="install that version again, or: provisioner upgrade --back",
        )
    return current
