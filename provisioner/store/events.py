"""Events, numbered in the order in which they were recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Row, bindparam, insert, select

from provisioner.events import Event
from provisioner.store.database import Database
from provisioner.store.schema import EVENTS

ADD = insert(EVENTS)
SINCE = select(EVENTS).where(EVENTS.c.id > bindparam("since")).order_by(EVENTS.c.id).limit(bindparam("most"))


@dataclass(frozen=True)
class EventRecord:
    """``at``: seconds since the epoch."""

    id: int
    at: float
    event: Event


class Events:
    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, event: Event, now: float) -> None:
        self.add_all([event], now)

    def add_all(self, events: Sequence[Event], now: float) -> None:
        """In their order."""
        rows = [
            {
                "at": now,
                "kind": event.kind,
                "node": event.node,
                "deployment": event.deployment,
                "message": event.message,
                "data": dict(event.data),
            }
            for event in events
        ]
        if rows:
            with self._db.write() as tx:
                tx.execute(ADD, rows)

    def since(self, since: int, limit: int) -> list[EventRecord]:
        """Those with a number above ``since``, oldest first."""
        with self._db.read() as tx:
            return [_event(row) for row in tx.execute(SINCE, {"since": since, "most": limit})]

    def last_of(self, node: str, limit: int) -> list[EventRecord]:
        """A node's newest, newest first."""
        query = select(EVENTS).where(EVENTS.c.node == node).order_by(EVENTS.c.id.desc()).limit(limit)
        with self._db.read() as tx:
            return [_event(row) for row in tx.execute(query)]


def _event(row: Row[tuple[object, ...]]) -> EventRecord:
    return EventRecord(row.id, row.at, Event(row.kind, row.message, row.node, row.deployment, row.data))
