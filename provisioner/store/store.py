"""All records of a site behind one name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Event

from provisioner.store.certificates import Certificates
from provisioner.store.clouds import Clouds
from provisioner.store.conductors import Conductors
from provisioner.store.database import Cipher, Database, Listener
from provisioner.store.departures import Departures
from provisioner.store.deployments import Deployments
from provisioner.store.duty import Duties
from provisioner.store.events import Events
from provisioner.store.leases import Leases
from provisioner.store.migrate import run_migrations
from provisioner.store.nodes import Nodes
from provisioner.store.operators import Operators
from provisioner.store.parts import Parts
from provisioner.store.permits import Permits
from provisioner.store.recoveries import Recoveries
from provisioner.store.restore import copy_rows, make_fresh
from provisioner.store.tokens import Tokens


class Store:
    """Each call of a record's method is one transaction; :meth:`transaction` joins several into one.

    :param url: a SQLAlchemy URL, of SQLite or PostgreSQL; a SQLite file is made when missing.
    :param cipher: seals passwords, secrets, tokens and metadata. :param records: beside which file records of an older
        version are kept before they are brought up to date.
    :raises HostError: the records cannot be opened, or were written by a newer version of the program.
    """

    def __init__(self, url: str, cipher: Cipher, records: Path | None = None) -> None:
        self._db = Database(url)
        self._cipher = cipher
        self.schema = run_migrations(self._db, records=records)
        self.nodes = Nodes(self._db, cipher)
        self.deployments = Deployments(self._db, cipher)
        self.parts = Parts(self._db, cipher)
        self.clouds = Clouds(self._db, cipher, self.parts)
        self.certificates = Certificates(self._db, cipher)
        self.tokens = Tokens(self._db, cipher)
        self.permits = Permits(self._db)
        self.recoveries = Recoveries(self._db)
        self.departures = Departures(self._db)
        self.events = Events(self._db)
        self.leases = Leases(self._db)
        self.operators = Operators(self._db)
        self.conductors = Conductors(self._db, cipher)
        self.duty = Duties(self._db)

    def forget(self) -> None:
        """Drop what is kept to be read faster, and can be read again: for a service at rest."""
        self.nodes.forget()
        self.deployments.forget()
        self.parts.forget()

    def transaction(self, *topics: str) -> AbstractContextManager[object]:
        """What this thread writes inside is recorded together, or not at all. ``topics``: who is woken besides."""
        return self._db.write(*topics)

    def attempt(self) -> AbstractContextManager[object]:
        """A part of a transaction that leaves nothing behind when it fails; what was written before it stays."""
        return self._db.attempt()

    def view(self) -> AbstractContextManager[object]:
        """What this thread reads inside is of one moment."""
        return self._db.read()

    def listen(self, callback: Listener) -> Callable[[], None]:
        """Call ``callback`` after each commit, in the thread that wrote, with its topics; the answer ends that.

        A topic is the name of a node, the id of a deployment, or :data:`~provisioner.store.permits.ANY_PERMIT`.
        """
        return self._db.listen(callback)

    @property
    def shared(self) -> bool:
        """Whether conductors on other hosts may use the same records."""
        return self._db.shared

    def follow_others(self, stop: Event) -> None:
        """See :meth:`provisioner.store.database.Database.follow_others`."""
        self._db.follow_others(stop)

    def fence(self, fenced: bool = True) -> None:
        """From now on nothing is written but what moves the duty; or again everything."""
        self._db.fenced = fenced

    def copy_to(self, other: Store) -> None:
        """See :func:`provisioner.store.restore.copy_rows`."""
        copy_rows(self._db, other._db)

    def make_fresh(self) -> int:
        """See :func:`provisioner.store.restore.make_fresh`."""
        return make_fresh(self._db, self._cipher)

    def close(self) -> None:
        self._db.close()
