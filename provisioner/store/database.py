"""The one way to the database: transactions, and word to whoever waits for a change."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError

from provisioner.errors import Conflict, HostError, RecordsAway

BUSY = 30.0
"""Seconds that a writer waits for another process's transaction."""
READING = "reading"
CHANNEL = "provisioner"
"""On which conductors that share a PostgreSQL tell each other of their commits (NOTIFY)."""
EVERYTHING = "*"
"""Topic of changes that nobody can name."""
TURN = 0x70726F76
"""Number of PostgreSQL's advisory lock that a writer holds until its commit."""
LONGEST_NEWS = 7000
"""Bytes of a notification; PostgreSQL takes less than 8000."""

LOG = logging.getLogger(__name__)


TAKE_TURN = text("SELECT pg_advisory_xact_lock(:turn)").bindparams(turn=TURN)
TELL = text(f"SELECT pg_notify('{CHANNEL}', :news)")
Listener = Callable[[frozenset[str]], None]


class Cipher(Protocol):
    """Encryption at rest; the site's keys are one."""

    def encrypt(self, text: str) -> str: ...

    def decrypt(self, token: str) -> str: ...


class Database:
    """An engine and its transactions. Within :meth:`write`, whatever the same thread asks for joins it.

    On every database one transaction writes at a time, also when several processes share it: what it has read holds
    until its commit, so the same code means the same everywhere.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _open_engine(url)
        self.shared = self.engine.dialect.name == "postgresql"
        """Whether other hosts may use the same records."""
        consistent = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True} if self.shared else {}
        self._reader = self.engine.execution_options(**{READING: True}, **consistent)
        driver = self.engine.dialect.dbapi
        assert driver is not None
        self._fault: type[Exception] = driver.Error
        self._me = uuid.uuid4().hex
        self.fenced = False
        """Whether nobody may write but whoever moves the duty: the records are another's, or are about to be."""
        self._closed = False
        self._local = threading.local()
        self._listeners: dict[object, Listener] = {}
        self._kept: dict[Engine, Connection] = {}
        if self.shared:
            event.listen(self.engine, "after_cursor_execute", self._note_change)
        # SQLite takes one writer; a queue in the process is fair, its busy timeout is not. Readers queue as well: each
        # statement gives up the interpreter's lock and would have to win it back from all others, while a writer waits.
        self._turn: AbstractContextManager[Any] = nullcontext() if self.shared else threading.RLock()

    @contextmanager
    def write(self, *topics: str, through: bool = False) -> Iterator[Connection]:
        """One transaction: all of it is recorded, or nothing. Listeners hear of it after a commit that changed a row.

        :param topics: what the change is about: names of nodes, ids of deployments; who waits for something else is
            not woken. :param through: of who moves the duty, whom a fence lets through.
        :raises Conflict: a record with that key exists already, or the records are fenced. :raises HostError: the
            database does not work.
        """
        current: Connection | None = getattr(self._local, "connection", None)
        if current is not None:
            self._local.topics.update(topics)
            yield current
            return
        with self._translated(), self._turn, self._begun(self.engine) as connection:
            if self._closed or (self.fenced and not through):
                raise Conflict(
                    "nothing is written to these records",
                    cause="they are being handed over, or another host is the master",
                    hint="provisioner handover --status",
                )
            self._local.connection = connection
            self._local.changed = False
            self._local.topics = set(topics)
            try:
                if self.shared:
                    connection.execute(TAKE_TURN)
                    yield connection
                    if self._local.changed:
                        self._tell_others(connection)
                else:
                    before = _total_changes(connection)
                    yield connection
                    self._local.changed |= _total_changes(connection) != before
            finally:
                self._local.connection = None
        if self._local.changed:
            self.hear(frozenset(self._local.topics))

    def hear(self, topics: frozenset[str]) -> None:
        """Tell the listeners in this process of a commit."""
        for callback in list(self._listeners.values()):
            try:
                callback(topics)
            except Exception:
                LOG.exception("a listener failed; the records are written all the same")

    def _tell_others(self, connection: Connection) -> None:
        """They hear of it when it is committed, or never."""
        for news in _pack(sorted(self._local.topics)):
            connection.execute(TELL, {"news": json.dumps([self._me, *news])})

    def follow_others(self, stop: threading.Event) -> None:
        """Hear what other processes commit, until ``stop``. What was said before, or while nobody listened, is lost:
        so whoever waits is told once, when it begins, that it may be anything.

        :raises RecordsAway: the database does not work.
        """
        with self._translated(), self.engine.connect() as connection:
            door: Any = connection.connection.driver_connection
            connection.detach()
            door.autocommit = True
            door.execute(f"LISTEN {CHANNEL}")
            self.hear(frozenset((EVERYTHING,)))
            while not stop.is_set():
                for notice in door.notifies(timeout=1.0, stop_after=1):
                    author, *topics = json.loads(notice.payload)
                    if author != self._me:
                        self.hear(frozenset(topics))

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
        with self._translated(), self._turn, self._begun(self._reader) as connection:
            self._local.view = connection
            try:
                yield self._local.view
            finally:
                self._local.view = None

    @contextmanager
    def _begun(self, engine: Engine) -> Iterator[Connection]:
        """A transaction. On SQLite it is always the same two connections, since they are used one at a time."""
        if self.shared:
            with engine.begin() as connection:
                yield connection
            return
        kept = self._kept.get(engine)
        if kept is None:
            kept = self._kept[engine] = engine.connect()
        try:
            with kept.begin():
                yield kept
        except DBAPIError:
            self._kept.pop(engine).close()
            raise

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
        """Whoever still works in another thread writes no more: the records may be another's from now on."""
        with self._turn:
            self._closed = True
            for connection in self._kept.values():
                connection.close()
            self._kept.clear()
        self.engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, self._fault) as error:
            # The statement's parameters stay out of the text: they may hold what is sealed or private.
            cause = str(error.orig if isinstance(error, DBAPIError) else error)
            if type(error).__name__ == "IntegrityError":
                raise Conflict(
                    "a record with that key exists already", cause=cause, hint="look at what is on record"
                ) from None
            raise RecordsAway(
                "the records cannot be read or written",
                where=make_url(self.url).render_as_string(hide_password=True),
                cause=cause,
                hint="see to it that the database answers; what is under way goes on by itself"
                if self.shared
                else "check the space and the rights of the folder; a service that runs goes on by itself",
            ) from None


def _total_changes(connection: Connection) -> int:
    """Rows that were written through a connection of SQLite since it was opened (sqlite3_total_changes)."""
    door: Any = connection.connection.driver_connection
    return int(door.total_changes)


def _pack(topics: Sequence[str]) -> Iterator[list[str]]:
    """Pieces that fit into a notification each; one at least, for a commit that is about nobody."""
    piece: list[str] = []
    for topic in topics:
        if piece and sum(len(other) + 4 for other in piece) + len(topic) > LONGEST_NEWS:
            yield piece
            piece = []
        piece.append(topic)
    yield piece


def _open_postgresql(url: str) -> Engine:
    """:raises HostError: its driver is not installed."""
    options = f"-c idle_in_transaction_session_timeout={BUSY * 1000:.0f} -c lock_timeout={BUSY * 1000:.0f}"
    try:
        return create_engine(url, pool_size=20, max_overflow=40, pool_pre_ping=True, connect_args={"options": options})
    except ModuleNotFoundError as error:
        raise HostError(
            "the driver of PostgreSQL is not installed", cause=str(error), hint="pip install 'provisioner[postgresql]'"
        ) from error


def _open_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return _open_postgresql(url)
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
        door: Any = connection.connection.driver_connection  # by itself: it comes before every other statement
        door.execute("BEGIN" if reading else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine
