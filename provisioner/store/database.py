"""The one way to the database: transactions, and word to whoever waits for a change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

from provisioner.errors import Conflict, HostError

BUSY = 30.0
"""Seconds that a writer waits for another process's transaction."""
READING = "reading"

LOG = logging.getLogger(__name__)


Listener = Callable[[frozenset[str]], None]


class Cipher(Protocol):
    """Encryption at rest; the site's keys are one."""

    def encrypt(self, text: str) -> str: ...

    def decrypt(self, token: str) -> str: ...


class Database:
    """An engine and its transactions. Within :meth:`write`, whatever the same thread asks for joins it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _open_engine(url)
        self._local = threading.local()
        self._listeners: dict[object, Listener] = {}
        event.listen(self.engine, "after_cursor_execute", self._note_change)
        # SQLite takes one writer; a queue in the process is fair, its busy timeout is not. Readers queue as well: each
        # statement gives up the interpreter's lock and would have to win it back from all others, while a writer waits.
        one_at_a_time = self.engine.dialect.name == "sqlite"
        self._turn: AbstractContextManager[Any] = threading.RLock() if one_at_a_time else nullcontext()

    @contextmanager
    def write(self, *topics: str) -> Iterator[Connection]:
        """One transaction: all of it is recorded, or nothing. Listeners hear of it after a commit that changed a row.

        :param topics: what the change is about: names of nodes, ids of deployments; who waits for something else is
            not woken.
        :raises Conflict: a record with that key exists already. :raises HostError: the database does not work.
        """
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            self._local.topics.update(topics)
            yield current
            return
        with self._translated(), self._turn, self.engine.begin() as connection:
            self._local.connection = connection
            self._local.changed = False
            self._local.topics = set(topics)
            try:
                yield connection
            finally:
                self._local.connection = None
        if not self._local.changed:
            return
        heard = frozenset(self._local.topics)
        for callback in list(self._listeners.values()):
            try:
                callback(heard)
            except Exception:
                LOG.exception("a listener failed; the records are written all the same")

    @contextmanager
    def attempt(self) -> Iterator[Connection]:
        """A savepoint in this thread's transaction, or a transaction where there is none."""
        with self.write() as connection, connection.begin_nested():
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; what the same thread reads inside sees the same. Nothing is written through it."""
        current: Connection | None = getattr(self._local, "connection", None) or getattr(self._local, "view", None)
        if current is not None:
            yield current
            return
        with self._translated(), self._turn, self.engine.connect() as connection:
            self._local.view = connection.execution_options(**{READING: True})
            try:
                yield self._local.view
            finally:
                self._local.view = None

    def listen(self, callback: Listener) -> Callable[[], None]:
        """Call ``callback`` after each commit, in the thread that wrote, with its topics; the answer ends that."""
        key = object()
        self._listeners[key] = callback

        def unsubscribe() -> None:
            self._listeners.pop(key, None)

        return unsubscribe

    def announce(self) -> None:
        """Listeners are to hear of the transaction that is open, even if it changes no row."""
        self._local.changed = True

    def _note_change(self, connection: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        """Remember that a row was written: who waits for a change is not woken by one that looked in vain."""
        if not statement.lstrip().upper().startswith("SELECT") and cursor.rowcount != 0:
            self._local.changed = True

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            # The statement's parameters stay out of the text: they may hold what is sealed or private.
            if type(error).__name__ == "IntegrityError":
                raise Conflict(
                    "a record with that key exists already", cause=str(error.orig), hint="look at what is on record"
                ) from None
            raise HostError(
                "the records cannot be read or written",
                where=make_url(self.url).render_as_string(hide_password=True),
                cause=str(error.orig),
                hint="check the space and the rights of the folder, then run provisioner serve again",
            ) from None


def _open_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(url, pool_size=20, max_overflow=40)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, pool_size=20, max_overflow=40, connect_args={"timeout": BUSY})

    def on_connect(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; on_begin does
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: Connection) -> None:
        # A transaction that reads and then writes must take the write lock first, or it may be refused half way.
        reading = connection.get_execution_options().get(READING)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine
