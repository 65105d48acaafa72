"""Instances that are to leave their nodes, one record for each place in a cloud."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, or_, select, update

from provisioner.model.departure import Departure, DepartureState
from provisioner.model.states import NodeState
from provisioner.store.database import Database
from provisioner.store.permits import ANY_PERMIT
from provisioner.store.schema import DEPARTURES, NODES

STANDS = (NodeState.ACTIVE, NodeState.FAILED)
"""States of a node in which its instance may leave."""
MAY_LEAVE = NODES.c.maintenance.is_(None) & NODES.c.state.in_(STANDS)


class Departures:
    """Whoever waits for a permit is woken by each change: these stand in the same line."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def all(self, cloud: str | None = None) -> list[Departure]:
        """Of one cloud or all, by role and number."""
        return self._find(*([] if cloud is None else [DEPARTURES.c.cloud == cloud]))

    def of_state(self, cloud: str, *states: DepartureState) -> frozenset[str]:
        """The deployments of those that are in one of these states."""
        query = select(DEPARTURES.c.deployment).where(DEPARTURES.c.cloud == cloud, DEPARTURES.c.state.in_(states))
        with self._db.read() as tx:
            return frozenset(tx.execute(query).scalars())

    def canaries(self, departure: Departure, number: int) -> list[Departure]:
        """The first so many of those that roll with this one, without those whose nodes are let alone."""
        rolling = (DEPARTURES.c.rolls.is_(True), or_(DEPARTURES.c.state == DepartureState.DEPLOYING, MAY_LEAVE))
        return self._in_line(departure, *rolling, limit=number)

    def ahead(self, departure: Departure) -> Departure | None:
        """The first that waits and comes before this one, without those whose nodes are let alone."""
        mine = (DEPARTURES.c.rolls.is_(departure.rolls), DEPARTURES.c.slot < departure.index, MAY_LEAVE)
        found = self._in_line(departure, *mine, DEPARTURES.c.state == DepartureState.WAITING, limit=1)
        return found[0] if found else None

    def _in_line(self, departure: Departure, *which: ColumnElement[bool], limit: int) -> list[Departure]:
        """A thousand may stand in a line and ask: few are read."""
        mine = (DEPARTURES.c.cloud == departure.cloud, DEPARTURES.c.role == departure.role)
        query = select(DEPARTURES.c.body).join(NODES, NODES.c.name == DEPARTURES.c.node).where(*mine, *which)
        with self._db.read() as tx:
            return [_departure(row) for row in tx.execute(query.order_by(DEPARTURES.c.slot).limit(limit))]

    def rolls_on(self, departure: Departure) -> bool:
        """Whether others that roll with this one have still to leave."""
        query = select(DEPARTURES.c.hostname).where(
            DEPARTURES.c.cloud == departure.cloud,
            DEPARTURES.c.role == departure.role,
            DEPARTURES.c.rolls.is_(True),
            DEPARTURES.c.state != DepartureState.DEPLOYING,
        )
        with self._db.read() as tx:
            return tx.execute(query.limit(1)).first() is not None

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
        values = {name: getattr(departure, name) for name in ("role", "node", "deployment", "state", "rolls")}
        values["slot"] = departure.index
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
