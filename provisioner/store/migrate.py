"""The schema is made and brought up to date by migrations; a newer one is left alone."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from provisioner.errors import HostError
from provisioner.store.database import Database

MIGRATIONS = Path(__file__).with_name("migrations")


def run_migrations(database: Database) -> str:
    """Bring the schema to the newest version this program knows, in one transaction; that version.

    :raises HostError: the records were written by a newer version of the program.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    head = scripts.get_current_head()
    assert head is not None
    with database.write() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise HostError(
                "the records were written by a newer version of this program",
                where=database.url,
                cause=f"their schema is {current}; this program knows up to {head}",
                hint="install that version again, or restore the records from before the upgrade",
            )
        if current != head:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return head
