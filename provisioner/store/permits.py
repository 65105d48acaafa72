"""Permits of a role's members to change, and what is done once in the life of a cluster."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, Text, cast, func, insert, or_, select, update

from provisioner.model.deployment import DeploymentState
from provisioner.model.hardware import Power
from provisioner.model.states import NodeState
from provisioner.store.database import Database
from provisioner.store.deployments import LIVE
from provisioner.store.schema import DEPLOYMENTS, NODES, NULL, ONCE, PERMITS, REPORTS

ANY_PERMIT = "permits"
"""The topic of changes of permits."""
FREE = "free"
HELD = "held"
FAILED = "failed"
CLAIMED = "claimed"
DONE = "done"
MEMBERS = (
    select(DEPLOYMENTS.c.id, DEPLOYMENTS.c.hostname, DEPLOYMENTS.c.state.label("deployed"), REPORTS.c.at)
    .add_columns(DEPLOYMENTS.c.placement["rebuilds"].as_string().label("rebuilds"), PERMITS.c.state.label("permit"))
    .add_columns(DEPLOYMENTS.c.placement["replaces"].as_string().label("replaces"))
    .add_columns(NODES.c.name, NODES.c.state, NODES.c.power, NODES.c.generation, NODES.c.applied, NODES.c.healthy)
    .add_columns(NODES.c.since, NODES.c.spoke, NODES.c.maintenance, NODES.c.failure)
    .join(NODES, NODES.c.name == DEPLOYMENTS.c.node)
    .outerjoin(REPORTS, (REPORTS.c.node == NODES.c.uuid) & (REPORTS.c.deployment == DEPLOYMENTS.c.id))
    .outerjoin(PERMITS, (PERMITS.c.deployment == DEPLOYMENTS.c.id) & (PERMITS.c.state != FREE))
    .where(DEPLOYMENTS.c.state.in_(LIVE))
)
"""How the members of roles are."""


@dataclass(frozen=True)
class PermitRecord:
    """A permit that is not free. ``state``: ``held``, or ``failed``, which may halt the role."""

    role: str
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


@dataclass(frozen=True)
class Standing:
    """How a member of a role is, as far as it decides about changes of others.

    ``deployed``: it was active once, since it was deployed. ``rebuilds``: it takes the place of one that was, with what
    that kept; ``replaces``: the place of one on another node, which it does not have.
    ``permit``: ``free``, ``held`` or ``failed``. ``since``: when what it has in force, or its health, last changed;
    ``heard``: when its instance last reported or asked, None for never; both in seconds since the epoch.
    ``maintenance`` and ``failure`` say why.
    """

    deployment: str
    hostname: str
    node: str
    deployed: bool
    rebuilds: bool
    replaces: bool
    state: NodeState
    power: Power
    generation: int
    applied: int
    healthy: bool
    since: float
    heard: float | None = None
    maintenance: str | None = None
    failure: str | None = None
    permit: str = FREE


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
            return [_permit(row) for row in tx.execute(query)]

    def held(self, cloud: str, roles: Collection[str]) -> list[PermitRecord]:
        """The permits of several roles that are held, by role."""
        query = select(PERMITS).where(PERMITS.c.cloud == cloud, PERMITS.c.role.in_(roles), PERMITS.c.state == HELD)
        with self._db.read() as tx:
            return [_permit(row) for row in tx.execute(query.order_by(PERMITS.c.role, PERMITS.c.slot))]

    def canaries(self, cloud: str, role: str, number: int) -> list[Standing]:
        """The first so many members that run and are not let alone."""
        there = (DEPLOYMENTS.c.state == DeploymentState.ACTIVE, NODES.c.maintenance.is_(None))
        return self._standings(cloud, role, *there, NODES.c.state != NodeState.RESCUE, limit=number)

    def away(self, cloud: str, role: str, since: float) -> list[Standing]:
        """The members that change, or do not serve.

        :param since: seconds since the epoch; who was last heard before does not serve.
        """
        return self._standings(cloud, role, or_(PERMITS.c.state == HELD, _is_away(since)))

    def behind(self, cloud: str, role: str, since: float) -> Standing | None:
        """The first member that changes, has failed, does not serve, or has an older generation in force.

        :param since: as for :meth:`away`.
        """
        failed = cast(NODES.c.failure, Text).not_in((NULL, ""))
        older = NODES.c.applied < NODES.c.generation
        found = self._standings(cloud, role, or_(PERMITS.c.state.is_not(None), failed, older, _is_away(since)), limit=1)
        return found[0] if found else None

    def standing(self, cloud: str, role: str, deployment: str) -> Standing | None:
        """Of one member."""
        found = self._standings(cloud, role, DEPLOYMENTS.c.id == deployment)
        return found[0] if found else None

    def _standings(
        self, cloud: str, role: str, *which: ColumnElement[bool], limit: int | None = None
    ) -> list[Standing]:
        """By number, which is how host names end. A role may have a thousand members who all ask: few are read."""
        query = MEMBERS.where(DEPLOYMENTS.c.cloud == cloud, DEPLOYMENTS.c.role == role, *which)
        order = (func.length(DEPLOYMENTS.c.hostname), DEPLOYMENTS.c.hostname)
        with self._db.read() as tx:
            return [_standing(row) for row in tx.execute(query.order_by(*order).limit(limit))]

    def members(self, cloud: str, role: str) -> list[Standing]:
        """All members of a role, by number."""
        return self._standings(cloud, role)

    def held_by(self, deployment: str) -> PermitRecord | None:
        """The permit that a deployment's instance holds, if it holds one."""
        query = select(PERMITS).where(PERMITS.c.deployment == deployment, PERMITS.c.state == HELD)
        with self._db.read() as tx:
            row = tx.execute(query).first()
        return None if row is None else _permit(row)

    def take(
        self, cloud: str, role: str, width: int, *, node: str, deployment: str, generation: int, now: float
    ) -> bool:
        """Take one of ``width`` permits, or keep the one already held; whether it was granted.

        A permit that failed is none of them: whether it halts the role is not decided here.
        """
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
            if sum(state == HELD for state in states.values()) >= width:
                return False
            slot = next(slot for slot in range(len(states) + 1) if states.get(slot, FREE) == FREE)
            if slot not in states:
                tx.execute(insert(PERMITS).values(cloud=cloud, role=role, slot=slot, **values))
                return True
            won = tx.execute(
                update(PERMITS).where(mine, PERMITS.c.slot == slot, PERMITS.c.state == FREE).values(values)
            )
            return won.rowcount > 0

    def give_back(self, deployment: str) -> bool:
        """Free the permit that a deployment's instance holds; one that failed stays, and halts its role."""
        return self._set(deployment, (HELD,), FREE)

    def fail(self, deployment: str) -> bool:
        """The permit that a deployment's instance holds is one that failed; whether it held one."""
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
        """What this run of a deployment may do once is done, as long as the role has members; the names."""
        mine = (ONCE.c.deployment == deployment) & (ONCE.c.run == run) & (ONCE.c.state == CLAIMED)
        with self._db.write(ANY_PERMIT) as tx:
            names = list(tx.execute(select(ONCE.c.name).where(mine)).scalars())
            if names:
                tx.execute(update(ONCE).where(mine).values(state=DONE))
            return names

    def begin_anew(self, cloud: str, role: str) -> None:
        """What of a role was done is to be done once more: nobody is left who has anything of it."""
        mine = (ONCE.c.cloud == cloud) & (ONCE.c.role == role) & (ONCE.c.state == DONE)
        with self._db.write(ANY_PERMIT) as tx:
            tx.execute(update(ONCE).where(mine).values(state=CLAIMED))


def _is_away(since: float) -> ColumnElement[bool]:
    """What :func:`provisioner.conductor.order.is_away` says in words."""
    at_work = NODES.c.state.in_((NodeState.DEPLOYING, NodeState.RESCUE))
    silent = (REPORTS.c.at < since) & (NODES.c.spoke < since)
    return or_(at_work, NODES.c.power == Power.OFF, NODES.c.healthy.is_not(True), silent)


def _permit(row: Row[Any]) -> PermitRecord:
    return PermitRecord(row.role, row.slot, row.state, row.node, row.deployment, row.generation, row.granted)


def _standing(row: Row[Any]) -> Standing:
    failure, maintenance = row.failure or {}, row.maintenance or {}
    return Standing(
        deployment=row.id,
        hostname=row.hostname,
        node=row.name,
        deployed=row.deployed == DeploymentState.ACTIVE,
        rebuilds=row.rebuilds is not None,
        replaces=row.replaces is not None,
        state=NodeState(row.state),
        power=Power(row.power),
        generation=row.generation,
        applied=row.applied,
        healthy=row.healthy is True,
        since=row.since,
        heard=None if row.at is None else max(row.at, row.spoke),
        maintenance=maintenance.get("reason"),
        failure=failure.get("summary"),
        permit=row.permit or FREE,
    )
