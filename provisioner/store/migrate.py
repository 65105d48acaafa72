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
from provisioner.store.restore import copy_records, copy_rows, copy_tables, drop_tables

MIGRATIONS = Path(__file__).with_name("migrations")
COPY = ".schema-"
"""In the name of records that were kept from before an upgrade."""


@dataclass(frozen=True)
class Migration:
    """A change of the schema, and what it is for."""

    version: str
    about: str


def run_migrations(database: Database, until: str = "head", records: Path | None = None) -> str:
    """Bring the schema to the newest version this program knows, in one transaction; that version.

    Records of an older one are copied before, so that there is a way back.

    :param until: an older version, as it was once the newest. :param records: beside which file the copy is put; no
        copy is made without it.
    :raises HostError: the records were written by a newer version of the program, or cannot be copied.
    """
    config, scripts = _scripts()
    head = scripts.get_current_head()
    assert head is not None
    with database.read() as connection:
        current = _current(connection, scripts, database.url)
    if current == head:
        return head
    if current is not None and records is not None:
        copy = copy_of(records, current)
        copy.unlink(missing_ok=True)
        copy_out(database, copy)
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


def newest_schema() -> str:
    """The version that this program writes."""
    head = _scripts()[1].get_current_head()
    assert head is not None
    return head


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


def copy_out(database: Database, target: Path) -> None:
    """The records as they are, in their own schema, as a file of SQLite; whoever writes to them meanwhile.

    :raises HostError: they cannot be read, or the copy cannot be written.
    """
    file = make_url(database.url).database
    if not database.shared and file:
        copy_records(Path(file), target)
        return
    copy = Database(f"sqlite:///{target}")
    try:
        copy_tables(database, copy)
    finally:
        copy.close()
    copy_records(target, whole := target.with_name(f"{target.name}.whole"))
    whole.replace(target)
    for path in target.parent.glob(f"{target.name}-*"):
        path.unlink()  # the journal of the one before


def put_back(database: Database, copy: Path) -> None:
    """The records of a file in place of what a shared database holds, in one transaction."""
    source = Database(f"sqlite:///{copy}")
    try:
        with database.write():
            drop_tables(database)
            run_migrations(database, read_schema(source.url))
            copy_rows(source, database)
    finally:
        source.close()


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
