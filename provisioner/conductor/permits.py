"""Who of a role may change now, and who does what is done once in the life of its cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.model.deployment import Deployment, Node
from provisioner.model.role import Role
from provisioner.store.deployments import LIVE
from provisioner.store.permits import DONE, FAILED, OnceRecord, PermitRecord

ASKED_SECONDS = 30.0
"""Seconds after which a member that is refused for the same reason counts as having asked again."""


@dataclass(frozen=True)
class Applicant:
    node: Node
    deployment: Deployment
    role: Role


def acquire(doors: Doors, who: Applicant, generation: int) -> dict[str, Any]:
    """Grant a permit or say why not, in one transaction; asking again changes nothing.

    Members that are refused because others change count as waiting; behind a failed member they do not, so that
    their own deadline goes on.
    """
    store, placement, ident = doors.store, who.deployment.placement, who.deployment.id
    cloud, role = placement.cloud, placement.role
    now = doors.clock.now()
    with store.transaction():
        had = store.permits.held_by(ident)
        why, halted = _refusal(doors, who)
        if why is None:
            granted = store.permits.take(
                cloud,
                role,
                who.role.at_a_time,
                node=who.node.name,
                deployment=ident,
                generation=generation,
                now=now,
            )
            why = None if granted else f"{_names(store.permits.taken(cloud, role))} changes now"
        known, asked = store.nodes.waiting(who.node.name)
        if why is not None:
            reason = f"permit: {why}"
            # Every write wakes whoever waits for a permit, who then asks again: so not each refusal is written.
            if known != reason or (not halted and now - asked > ASKED_SECONDS):
                store.nodes.set_waiting(who.node.name, reason, asked if halted else now)
            if known != reason:
                doors.tell("permit.refused", why, who.node.name, ident, generation=generation)
            return {"granted": False, "why": why, "once": {}}
        if known is not None:
            store.nodes.set_waiting(who.node.name, None, now)
        once = {name: _once(doors, who, name) for name in who.role.once}
        if had is None:
            doors.tell("permit.granted", f"may change to generation {generation}", who.node.name, ident, once=once)
        return {"granted": True, "why": "", "once": once}


def _refusal(doors: Doors, who: Applicant) -> tuple[str | None, bool]:
    """(why a permit cannot be given whatever is free, whether that is because the role is halted)."""
    placement = who.deployment.placement
    if who.node.maintenance is not None:
        return f"it is in maintenance: {who.node.maintenance['reason']}", False
    taken = doors.store.permits.taken(placement.cloud, placement.role)
    failed = [permit for permit in taken if permit.state == FAILED]
    if failed:
        return f"{_names(failed)} failed; provisioner node show {failed[0].node}", True
    for record in doors.store.permits.once(placement.cloud, placement.role).values():
        holder = _live(doors, record)
        if record.state != DONE and holder is not None and holder.id != who.deployment.id:
            return f"{holder.placement.hostname} does {record.name} first", False
    return None, False


def _once(doors: Doors, who: Applicant, name: str) -> dict[str, Any]:
    """Exactly one member is told to do it, again if its deployment was begun again; all others never."""
    placement, ident = who.deployment.placement, who.deployment.id
    permits = doors.store.permits
    record = permits.once(placement.cloud, placement.role).get(name)
    if record is not None and record.state == DONE:
        return {"do": False, "fence": record.fence}
    run = doors.store.deployments.run_of(ident)
    if record is not None and (record.deployment, record.run) == (ident, run):
        return {"do": True, "fence": record.fence}
    fence = permits.claim(placement.cloud, placement.role, name, ident, run)
    doors.tell("once.claimed", f"does {name}, fence {fence}", who.node.name, ident, name=name, fence=fence)
    return {"do": True, "fence": fence}


def _live(doors: Doors, record: OnceRecord) -> Deployment | None:
    """The deployment that claimed it, unless that has ended."""
    deployment = doors.store.deployments.find(record.deployment)
    return deployment if deployment is not None and deployment.state in LIVE else None


def _names(permits: Sequence[PermitRecord]) -> str:
    return ", ".join(permit.node for permit in permits)
