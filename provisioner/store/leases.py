"""Who works on a node: leases with an expiry, and a fence number that only grows."""

from __future__ import annotations

from sqlalchemy import bindparam, func, or_, select, update

from provisioner.errors import LeaseLost
from provisioner.store.database import Database
from provisioner.store.schema import LEASES, NODES

UUID = select(NODES.c.uuid).where(NODES.c.name == bindparam("name"))
END = (
    update(LEASES)
    .where(LEASES.c.node == UUID.scalar_subquery(), LEASES.c.holder == bindparam("who"))
    .values(holder="", purpose="", expiry=0.0)
)
FIND = select(LEASES).join(NODES, NODES.c.uuid == LEASES.c.node).where(NODES.c.name == bindparam("name"))


class Leases:
    def __init__(self, database: Database) -> None:
        self._db = database

    def take(self, name: str, holder: str, purpose: str, now: float, seconds: float) -> int:
        """Take or renew the right to work on a node, by one conditional UPDATE; the fence number.

        The number grows when the holder changes or the lease had run out, never when it is renewed.

        :raises LeaseLost: another holder has it.
        """
        with self._db.write() as tx:
            uuid = tx.execute(UUID, {"name": name}).scalar_one()
            mine = (LEASES.c.node == uuid) & (LEASES.c.holder == holder) & (LEASES.c.expiry >= now)
            renewed = tx.execute(update(LEASES).where(mine).values(purpose=purpose, expiry=now + seconds))
            if renewed.rowcount != 1:
                free = or_(LEASES.c.holder.in_(("", holder)), LEASES.c.expiry < now)
                values = {"holder": holder, "purpose": purpose, "expiry": now + seconds, "fence": LEASES.c.fence + 1}
                taken = tx.execute(update(LEASES).where(LEASES.c.node == uuid, free).values(values))
                if taken.rowcount != 1:
                    row = tx.execute(select(LEASES).where(LEASES.c.node == uuid)).one()
                    raise LeaseLost(
                        "another conductor works on the node",
                        where=name,
                        cause=f"{row.holder} has it for {row.purpose}, {row.expiry - now:.0f} s more",
                        hint="wait until it is done or its lease runs out",
                    )
            return int(tx.execute(select(LEASES.c.fence).where(LEASES.c.node == uuid)).scalar_one())

    def get(self, name: str) -> tuple[str, str, float, int]:
        """(holder, purpose, expiry, fence); the holder is empty when nobody has it."""
        with self._db.read() as tx:
            row = tx.execute(FIND, {"name": name}).one()
        return row.holder, row.purpose, row.expiry, row.fence

    def count(self, now: float) -> dict[str, int]:
        """On how many nodes each holder works."""
        query = select(LEASES.c.holder, func.count()).where(LEASES.c.holder != "", LEASES.c.expiry >= now)
        with self._db.read() as tx:
            return {holder: int(count) for holder, count in tx.execute(query.group_by(LEASES.c.holder))}

    def end(self, name: str, holder: str) -> None:
        with self._db.write() as tx:
            tx.execute(END, {"name": name, "who": holder})
