"""Records of an older version of this program: tried on a copy, brought up to date, and back again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import NotFound
from provisioner.model.duty import Duty
from provisioner.server.fence import refuse_writing
from provisioner.server.listener import ServiceLock
from provisioner.store.database import Database
from provisioner.store.duty import read_duty
from provisioner.store.migrate import Migration, copy_of, copy_out, find_copies, put_back, read_pending, read_schema
from provisioner.store.restore import jump_generations
from provisioner.store.store import Store
from provisioner.system.settings import Settings
from provisioner.trust.keys import SiteKeys


@dataclass(frozen=True)
class Trial:
    """What an upgrade would do, and what could be read afterwards. ``schema``: of the records as they are."""

    schema: str
    pending: tuple[Migration, ...]
    nodes: int
    deployments: int
    clouds: int


def try_upgrade(settings: Settings) -> Trial:
    """Bring a copy of the records up to date and read all of it; the records stay as they are, and the service may run.

    :raises NotFound: there are no records. :raises HostError: they are of a newer version, or cannot be brought over.
    """
    with _opened(settings) as database, tempfile.TemporaryDirectory(dir=settings.state_dir, prefix=".upgrade-") as name:
        copy = Path(name) / settings.records.name
        copy_out(database, copy)
        schema, pending = read_pending(f"sqlite:///{copy}")
        store = Store(f"sqlite:///{copy}", SiteKeys.ensure(settings.keys))
        try:
            clouds = [store.clouds.get(cloud) for cloud in store.clouds.names()]
            return Trial(schema, pending, len(store.nodes.all()), len(store.deployments.live()), len(clouds))
        finally:
            store.close()


def upgrade(settings: Settings) -> Trial:
    """Do it, after a trial; the records as they were stay beside them. :raises Conflict: the service runs."""
    lock = ServiceLock(settings.run_dir)
    try:
        trial = try_upgrade(settings)
        Store(settings.database, SiteKeys.ensure(settings.keys), settings.records).close()
    finally:
        lock.release()
    return trial


def go_back(settings: Settings) -> tuple[Path, Path]:
    """Put the newest records from before an upgrade in force again, for the version of the program that wrote them.

    Instances may have newer generations than these know; so the next ones are newer than any.

    :returns: the copy that is in force now; where the records that were are kept.
    Conductors on other hosts that share the records are to be stopped before.

    :raises NotFound: there is no such copy. :raises Conflict: the service runs, or the duty was given away since: the
        copy knows nothing of that, and there would be two masters.
    """
    lock = ServiceLock(settings.run_dir)
    try:
        refuse_writing(Duty() if settings.database_url else read_duty(settings.records))
        with _opened(settings) as database:
            copies = find_copies(settings.records)
            if not copies:
                raise NotFound("there are no records from before an upgrade", where=str(settings.state_dir))
            aside = copy_of(settings.records, f"{read_schema(settings.database)}-left")
            aside.unlink(missing_ok=True)
            copy_out(database, aside)
            if database.shared:
                put_back(database, copies[-1])
                jump_generations(database, SiteKeys.ensure(settings.keys))
                copies[-1].unlink()
                return copies[-1], aside
        with closing(Database(f"sqlite:///{copies[-1]}")) as copy:
            jump_generations(copy, SiteKeys.ensure(settings.keys))
        for path in settings.records.parent.glob(f"{settings.records.name}-*"):
            path.unlink()  # its journal, which belongs to what is replaced
        copies[-1].replace(settings.records)
        return copies[-1], aside
    finally:
        lock.release()


@contextmanager
def _opened(settings: Settings) -> Iterator[Database]:
    """:raises NotFound: there are no records."""
    if not settings.database_url and not settings.records.is_file():
        raise NotFound("there are no records", where=str(settings.records), hint="provisioner serve makes them")
    database = Database(settings.database)
    try:
        yield database
    finally:
        database.close()
