"""Roles that were down as a whole: what their members said of how far they had come, and who begins again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from provisioner.store.database import Database
from provisioner.store.permits import ANY_PERMIT
from provisioner.store.schema import POSITIONS, RECOVERIES

OPEN = "open"
NAMED = "named"
LEADS = "leads"
OVER = "over"


@dataclass(frozen=True)
class RecoveryRecord:
    """An outage of a role. ``state``: ``open``, ``named`` (``leader`` is to begin again), ``leads`` (it was told to, so
    what the others said may have ceased to be true) or ``over``.

    ``outage`` and ``fence`` only grow: one with each outage, the other with each naming. ``leader``: a deployment, or
    empty. ``begun``: in seconds since the epoch.
    """

    cloud: str
    role: str
    outage: int
    fence: int
    state: str
    leader: str
    begun: float


@dataclass(frozen=True)
class PositionRecord:
    """What is known of a member in an outage. ``history`` and ``sequence`` mean nothing unless it ``said`` them."""

    deployment: str
    outage: int
    said: bool
    history: str
    sequence: int
    lost: bool


class Recoveries:
    def __init__(self, database: Database) -> None:
        self._db = database

    def get(self, cloud: str, role: str) -> RecoveryRecord | None:
        """The last outage of a role; None when there was none."""
        query = select(RECOVERIES).where(RECOVERIES.c.cloud == cloud, RECOVERIES.c.role == role)
        with self._db.read() as tx:
            row = tx.execute(query).first()
        return None if row is None else _recovery(row)

    def going_on(self, cloud: str) -> list[RecoveryRecord]:
        """The outages of a cloud that are not over, by role."""
        query = select(RECOVERIES).where(RECOVERIES.c.cloud == cloud, RECOVERIES.c.state != OVER)
        with self._db.read() as tx:
            return [_recovery(row) for row in tx.execute(query.order_by(RECOVERIES.c.role))]

    def positions(self, recovery: RecoveryRecord) -> dict[str, PositionRecord]:
        """What is known of members in this outage, by deployment."""
        query = select(POSITIONS).where(
            POSITIONS.c.cloud == recovery.cloud,
            POSITIONS.c.role == recovery.role,
            POSITIONS.c.outage == recovery.outage,
        )
        with self._db.read() as tx:
            rows = tx.execute(query).all()
        return {
            row.deployment: PositionRecord(row.deployment, row.outage, row.said, row.history, row.sequence, row.lost)
            for row in rows
        }

    def open(self, cloud: str, role: str, now: float) -> RecoveryRecord:
        """Begin an outage: nobody has said anything in it yet."""
        mine = (RECOVERIES.c.cloud == cloud) & (RECOVERIES.c.role == role)
        values: dict[str, Any] = {"state": OPEN, "leader": "", "begun": now}
        with self._db.write(ANY_PERMIT) as tx:
            tx.execute(delete(POSITIONS).where(POSITIONS.c.cloud == cloud, POSITIONS.c.role == role))
            won = tx.execute(update(RECOVERIES).where(mine).values(outage=RECOVERIES.c.outage + 1, **values))
            if won.rowcount == 0:
                tx.execute(insert(RECOVERIES).values(cloud=cloud, role=role, outage=1, fence=0, **values))
            return _recovery(tx.execute(select(RECOVERIES).where(mine)).one())

    def say(self, recovery: RecoveryRecord, deployment: str, history: str, sequence: int, now: float) -> None:
        """A member's position, in place of what it said before. Whoever was given up has spoken after all."""
        self._put(recovery, deployment, now, said=True, history=history, sequence=sequence, lost=False)

    def give_up(self, recovery: RecoveryRecord, deployment: str, now: float) -> None:
        """From now on nobody waits for this member in this outage."""
        known = self.positions(recovery).get(deployment)
        said, history, sequence = (False, "", -1) if known is None else (known.said, known.history, known.sequence)
        self._put(recovery, deployment, now, said=said, history=history, sequence=sequence, lost=True)

    def _put(self, recovery: RecoveryRecord, deployment: str, now: float, **values: Any) -> None:
        place = {"cloud": recovery.cloud, "role": recovery.role, "outage": recovery.outage, "at": now}
        with self._db.write(ANY_PERMIT) as tx:
            tx.execute(delete(POSITIONS).where(POSITIONS.c.deployment == deployment))
            tx.execute(insert(POSITIONS).values(deployment=deployment, **place, **values))

    def drop(self, deployment: str) -> None:
        """What a member said: it counts as one that has not."""
        with self._db.write() as tx:
            tx.execute(delete(POSITIONS).where(POSITIONS.c.deployment == deployment))

    def name(self, recovery: RecoveryRecord, deployment: str) -> RecoveryRecord:
        """Make a member the one that begins again, with a fence number larger than any before.

        The caller has looked, in the same transaction, that nobody else is.
        """
        values = {"state": NAMED, "leader": deployment, "fence": RECOVERIES.c.fence + 1}
        return self._set(recovery, values)

    def unname(self, recovery: RecoveryRecord) -> RecoveryRecord:
        """Nobody begins again until somebody is named anew."""
        return self._set(recovery, {"state": OPEN, "leader": ""})

    def lead(self, recovery: RecoveryRecord) -> RecoveryRecord:
        """The one that was named is told to begin."""
        return self._set(recovery, {"state": LEADS})

    def end(self, recovery: RecoveryRecord) -> RecoveryRecord:
        return self._set(recovery, {"state": OVER})

    def _set(self, recovery: RecoveryRecord, values: dict[str, Any]) -> RecoveryRecord:
        mine = (RECOVERIES.c.cloud == recovery.cloud) & (RECOVERIES.c.role == recovery.role)
        with self._db.write(ANY_PERMIT) as tx:
            tx.execute(update(RECOVERIES).where(mine, RECOVERIES.c.outage == recovery.outage).values(values))
            return _recovery(tx.execute(select(RECOVERIES).where(mine)).one())


def _recovery(row: Row[Any]) -> RecoveryRecord:
    return RecoveryRecord(row.cloud, row.role, row.outage, row.fence, row.state, row.leader, row.begun)
