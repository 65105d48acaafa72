"""Whether the records are in force: one row, moved on by conditional updates; of two who come at once one wins."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Table, insert, select, update

from provisioner.errors import Conflict, HostError
from provisioner.model.duty import Duty, DutyState
from provisioner.store.database import Database
from provisioner.store.schema import DUTY, METADATA

ROW = 1
TOPIC = "duty"
"""Of changes of this row, for those who wait."""
NOT_COMPARED = frozenset({"duty", "events"})
"""Tables that are written while a handover is under way."""


class Duties:
    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self) -> Duty:
        """As it is now; of records that were never handed over: the master in epoch 1."""
        with self._db.read() as tx:
            row = tx.execute(select(DUTY).where(DUTY.c.id == ROW)).one_or_none()
        if row is None:
            return Duty()
        found = {name: value for name, value in row._mapping.items() if name != "id"}
        return Duty.model_validate(found)

    def begin(self, node: str, handover: str, now: float) -> Duty:
        """:raises Conflict: these records are not in force, or are being handed over already."""
        values = {"node": node, "handover": handover, "since": now}
        return self._move((DutyState.MASTER,), DutyState.COPYING, None, values, {})

    def freeze(self, handover: str, now: float) -> Duty:
        """From now on nobody is told anything. :raises Conflict: that attempt is over."""
        return self._move((DutyState.COPYING,), DutyState.FROZEN, handover, {"since": now}, {})

    def cede(self, handover: str, now: float) -> Duty:
        """The epoch moves: the node may take over from now on, and these records never will again.

        :raises Conflict: that attempt is over.
        """
        with self._db.write(TOPIC, through=True):
            epoch = self.get().epoch + 1
            return self._move((DutyState.FROZEN,), DutyState.CEDED, handover, {"since": now, "epoch": epoch}, {})

    def bury(self, handover: str, now: float) -> Duty:
        """The other has said that it is the master. :raises Conflict: the epoch has not moved."""
        return self._move((DutyState.CEDED,), DutyState.TOMBSTONE, handover, {"since": now}, {})

    def thaw(self, handover: str, now: float, failure: Mapping[str, Any]) -> Duty:
        """In force again. :raises Conflict: the epoch has moved, or that attempt is over."""
        states = tuple(state for state in DutyState if state.may_cancel)
        return self._move(states, DutyState.MASTER, handover, {"since": now}, {"failure": dict(failure)}, drop=True)

    def note(self, handover: str, news: Mapping[str, Any]) -> None:
        """Add to the detail of an attempt that is under way; of another one nothing is taken."""
        with self._db.write(TOPIC, through=True) as tx:
            duty = self.get()
            if duty.handover == handover and duty.state is not DutyState.MASTER:
                tx.execute(update(DUTY).where(DUTY.c.id == ROW).values(detail={**duty.detail, **news}))

    def take(self, duty: Duty, own_node: str, now: float) -> Duty:
        """On a copy of frozen records: they are in force from now on, in the next epoch, on this node.

        :param duty: as the records were when they were copied. :raises Conflict: they are not those.
        """
        values = {"since": now, "epoch": duty.epoch + 1, "node": own_node}
        detail = {"own_node": own_node}
        return self._move((DutyState.FROZEN,), DutyState.MASTER, duty.handover, values, detail, drop=True)

    def _move(
        self,
        before: Sequence[DutyState],
        state: DutyState,
        handover: str | None,
        values: Mapping[str, Any],
        news: Mapping[str, Any],
        *,
        drop: bool = False,
    ) -> Duty:
        """:param handover: whose attempt it must be; None for none. :param drop: forget what else the detail says."""
        with self._db.write(TOPIC, through=True) as tx:
            duty = self.get()
            if duty.state not in before or (handover is not None and duty.handover != handover):
                raise Conflict(
                    f"the records are not {' or '.join(before)}",
                    where=duty.node or None,
                    cause=f"they are {duty.state}, in epoch {duty.epoch}",
                    hint="provisioner handover --status",
                )
            kept = {"own_node": duty.own_node} if duty.own_node else {}
            detail = {**(kept if drop or handover is None else duty.detail), **news}
            row = {**duty.model_dump(mode="json"), **values, "state": str(state), "detail": detail}
            if tx.execute(update(DUTY).where(DUTY.c.id == ROW).values(row)).rowcount != 1:
                tx.execute(insert(DUTY).values(id=ROW, **row))
            return Duty.model_validate(row)

    def digests(self) -> dict[str, tuple[int, str]]:
        """Of each table how many rows it has, and the SHA-256 of all that is in them, in the order of their keys.

        Equal on two files that hold the same records.
        """
        with self._db.read() as tx:
            found = {}
            for name, table in METADATA.tables.items():
                if name in NOT_COMPARED:
                    continue
                digest, rows = hashlib.sha256(), 0
                for row in tx.execute(select(table).order_by(*_keys(table))):
                    digest.update(json.dumps(list(row), sort_keys=True).encode() + b"\n")
                    rows += 1
                found[name] = (rows, digest.hexdigest())
            return found


def read_duty(records: Path) -> Duty:
    """As :meth:`Duties.get`, of a file that nobody has opened, and that may be of an older version.

    :raises HostError: it cannot be read.
    """
    if not records.is_file():
        return Duty()
    try:
        with closing(sqlite3.connect(f"file:{records}?mode=ro", uri=True)) as door:
            if not door.execute("SELECT 1 FROM sqlite_master WHERE name = 'duty'").fetchone():
                return Duty()
            row = door.execute("SELECT epoch, state, node, handover, since, detail FROM duty WHERE id = 1").fetchone()
    except sqlite3.Error as error:
        raise HostError("the records cannot be read", where=str(records), cause=str(error)) from error
    if row is None:
        return Duty()
    names = ("epoch", "state", "node", "handover", "since")
    return Duty(**dict(zip(names, row[:5], strict=True)), detail=json.loads(row[5]))


def _keys(table: Table) -> list[Any]:
    return list(table.primary_key.columns)
