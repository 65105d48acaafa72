"""Permits of a role's members to change, and what is done once in the life of a cluster."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import insert, select, update

from provisioner.store.database import Database
from provisioner.store.schema import ONCE, PERMITS

ANY_PERMIT = "permits"
"""The topic of changes of permits."""
FREE = "free"
HELD = "held"
FAILED = "failed"
CLAIMED = "claimed"
DONE = "done"


@dataclass(frozen=True)
class PermitRecord:
    """A permit that is not free. ``state``: ``held``, or ``failed``, which halts the role."""

    slot: int
    state: str
    node: str
    deployment: str
    generation: int
    granted: float


@dataclass(frozen=True)
class OnceRecord:
    """Who may do a thing that is done once. ``fence`` grows with each claim; ``state``: ``claimed`` or ``done``."""

    name: str
    deployment: str
    run: int
    fence: int
    state: str


class Permits:
    def __init__(self, database: Database) -> None:
        self._db = database

    def taken(self, cloud: str, role: str) -> list[PermitRecord]:
        """The permits of a role that are not free."""
        query = (
            select(PERMITS)
            .where(PERMITS.c.cloud == cloud, PERMITS.c.role == role, PERMITS.c.state != FREE)
            .order_by(PERMITS.c.slot)
        )
        with self._db.read() as tx:
            return [
                PermitRecord(row.slot, row.state, row.node, row.deployment, row.generation, row.granted)
                for row in tx.execute(query)
            ]

    def held_by(self, deployment: str) -> PermitRecord | None:
        """The permit that a deployment's instance holds, if it holds one."""
        query = select(PERMITS).where(PERMITS.c.deployment == deployment, PERMITS.c.state == HELD)
        with self._db.read() as tx:
            row = tx.execute(query).first()
        if row is None:
            return None
        return PermitRecord(row.slot, row.state, row.node, row.deployment, row.generation, row.granted)

    def take(
        self, cloud: str, role: str, width: int, *, node: str, deployment: str, generation: int, now: float
    ) -> bool:
        """Take one of ``width`` permits, or keep the one already held; whether it was granted."""
        mine = (PERMITS.c.cloud == cloud) & (PERMITS.c.role == role)
        with self._db.write(ANY_PERMIT) as tx:
            held = self.held_by(deployment)
            if held is not None:
                if held.generation != generation:
                    query = update(PERMITS).where(PERMITS.c.deployment == deployment, PERMITS.c.state == HELD)
                    tx.execute(query.values(generation=generation))
                return True
            values = {
                "state": HELD,
                "node": node,
                "deployment": deployment,
                "generation": generation,
                "granted": now,
            }
            states = dict(tx.execute(select(PERMITS.c.slot, PERMITS.c.state).where(mine)).all())
            for slot in [slot for slot in range(width) if states.get(slot, FREE) == FREE]:
                if slot not in states:
                    tx.execute(insert(PERMITS).values(cloud=cloud, role=role, slot=slot, **values))
                    return True
                won = tx.execute(
                    update(PERMITS).where(mine, PERMITS.c.slot == slot, PERMITS.c.state == FREE).values(values)
                )
                if won.rowcount:
                    return True
            return False

    def give_back(self, deployment: str) -> bool:
        """Free the permit that a deployment's instance holds; one that failed stays, and halts its role."""
        return self._set(deployment, (HELD,), FREE)

    def fail(self, deployment: str) -> bool:
        """Halt the role if the deployment's instance holds a permit; whether it did."""
        return self._set(deployment, (HELD,), FAILED)

    def clear(self, deployment: str) -> bool:
        """Free whatever permit the deployment has, also one that failed: its role goes on."""
        return self._set(deployment, (HELD, FAILED), FREE)

    def clear_failed(self, deployments: Collection[str]) -> None:
        """Free the permits of theirs that failed; one that is held stays held."""
        query = select(PERMITS.c.deployment).where(PERMITS.c.state == FAILED)
        with self._db.write() as tx:
            for failed in set(tx.execute(query).scalars()) & set(deployments):
                self._set(failed, (FAILED,), FREE)

    def _set(self, deployment: str, old: tuple[str, ...], new: str) -> bool:
        query = update(PERMITS).where(PERMITS.c.deployment == deployment, PERMITS.c.state.in_(old))
        with self._db.write(ANY_PERMIT) as tx:
            return tx.execute(query.values(state=new)).rowcount > 0

    def once(self, cloud: str, role: str) -> dict[str, OnceRecord]:
        """What of a role is done once, and who may do it, by name."""
        query = select(ONCE).where(ONCE.c.cloud == cloud, ONCE.c.role == role)
        with self._db.read() as tx:
            return {
                row.name: OnceRecord(row.name, row.deployment, row.run, row.fence, row.state)
                for row in tx.execute(query)
            }

    def claim(self, cloud: str, role: str, name: str, deployment: str, run: int) -> int:
        """Make a deployment's run the one that does a thing; its fence number, larger than any before.

        The caller has looked, in the same transaction, that nobody does it now and nobody has done it.
        """
        mine = (ONCE.c.cloud == cloud) & (ONCE.c.role == role) & (ONCE.c.name == name)
        with self._db.write(ANY_PERMIT) as tx:
            values = {"deployment": deployment, "run": run, "state": CLAIMED}
            won = tx.execute(update(ONCE).where(mine, ONCE.c.state != DONE).values(fence=ONCE.c.fence + 1, **values))
            if won.rowcount == 0:
                tx.execute(insert(ONCE).values(cloud=cloud, role=role, name=name, fence=1, **values))
            return int(tx.execute(select(ONCE.c.fence).where(mine)).scalar_one())

    def finish_once(self, deployment: str, run: int) -> list[str]:
        """What this run of a deployment may do once is done, for all time; the names."""
        mine = (ONCE.c.deployment == deployment) & (ONCE.c.run == run) & (ONCE.c.state == CLAIMED)
        with self._db.write(ANY_PERMIT) as tx:
            names = list(tx.execute(select(ONCE.c.name).where(mine)).scalars())
            if names:
                tx.execute(update(ONCE).where(mine).values(state=DONE))
            return names
