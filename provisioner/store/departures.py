"""Instances that are to leave their nodes, one record for each place in a cloud."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, select, update

from provisioner.model.departure import Departure
from provisioner.store.database import Database
from provisioner.store.permits import ANY_PERMIT
from provisioner.store.schema import DEPARTURES


class Departures:
    """Whoever waits for a permit is woken by each change: these stand in the same line."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def all(self, cloud: str | None = None) -> list[Departure]:
        """Of one cloud or all, by role and number."""
        return self._find(*([] if cloud is None else [DEPARTURES.c.cloud == cloud]))

    def of_role(self, cloud: str, role: str) -> list[Departure]:
        """By number."""
        return self._find(DEPARTURES.c.cloud == cloud, DEPARTURES.c.role == role)

    def of(self, deployment: str) -> Departure | None:
        """Of a deployment, or of what takes its place."""
        found = self._find(DEPARTURES.c.deployment == deployment)
        return found[0] if found else None

    def _find(self, *which: ColumnElement[bool]) -> list[Departure]:
        with self._db.read() as tx:
            found = [_departure(row) for row in tx.execute(select(DEPARTURES.c.body).where(*which))]
        return sorted(found, key=lambda departure: (departure.cloud, departure.role, departure.index))

    def put(self, departure: Departure) -> None:
        """In place of what was on record of the same place."""
        values = {name: getattr(departure, name) for name in ("role", "node", "deployment", "state")}
        values["body"] = departure.model_dump(mode="json")
        mine = (DEPARTURES.c.cloud == departure.cloud) & (DEPARTURES.c.hostname == departure.hostname)
        with self._db.write(departure.node, departure.deployment, ANY_PERMIT) as tx:
            if tx.execute(update(DEPARTURES).where(mine).values(values)).rowcount == 0:
                key = {"cloud": departure.cloud, "hostname": departure.hostname}
                tx.execute(insert(DEPARTURES).values(key | values))

    def drop(self, departure: Departure) -> None:
        mine = (DEPARTURES.c.cloud == departure.cloud) & (DEPARTURES.c.hostname == departure.hostname)
        with self._db.write(departure.node, departure.deployment, ANY_PERMIT) as tx:
            tx.execute(delete(DEPARTURES).where(mine))

    def drop_of(self, deployment: str) -> None:
        """What is on record of a deployment that ends otherwise."""
        with self._db.write(ANY_PERMIT) as tx:
            tx.execute(delete(DEPARTURES).where(DEPARTURES.c.deployment == deployment))


def _departure(row: Row[Any]) -> Departure:
    return Departure.model_validate(row.body)
