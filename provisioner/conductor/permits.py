"""Who of a role may change now, and who does what is done once in the life of its cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.conductor.order import Refusal, refuse_before, refuse_behind, refuse_leave
from provisioner.errors import NotFound
from provisioner.model.deployment import Deployment, Node
from provisioner.model.role import Desired, Role
from provisioner.model.states import NodeState
from provisioner.store.deployments import LIVE
from provisioner.store.permits import DONE, FAILED, HELD, OnceRecord, PermitRecord

ASKED_SECONDS = 30.0
"""Seconds after which a member that is refused for the same reason counts as having asked again."""
SO_FAR = re.compile(r" \(\d+ s so far\)$")
"""What of a reason changes by itself: nobody is told of it."""
UNUSED = Refusal("the cloud does not use its role any more")


@dataclass(frozen=True)
class Applicant:
    node: Node
    deployment: Deployment
    desired: Desired

    @property
    def cloud(self) -> str:
        return self.deployment.placement.cloud

    @property
    def role(self) -> Role | None:
        """None when the cloud does not use it any more, and the node was left as it is."""
        return self.desired.roles.get(self.deployment.placement.role)


def acquire(doors: Doors, who: Applicant, generation: int) -> dict[str, Any]:
    """Grant a permit or say why not, in one transaction; asking again changes nothing.

    Members that are refused because others change count as waiting; behind a failed member they do not, so that
    their own deadline goes on.
    """
    store, ident, role = doors.store, who.deployment.id, who.role
    with store.transaction():
        had = store.permits.held_by(ident)
        why = take(doors, who, generation)
        if why is not None or role is None:
            return {"granted": False, "why": why, "once": {}}
        once = {name: _once(doors, who, name) for name in role.once}
        if had is None:
            doors.tell("permit.granted", f"may change to generation {generation}", who.node.name, ident, once=once)
        return {"granted": True, "why": "", "once": once}


def take(
    doors: Doors, who: Applicant, generation: int, before: Callable[[], Refusal | None] | None = None
) -> str | None:
    """Take a permit, or keep it. :returns: why not, which is put on record; None when it is taken.

    :param before: of a member that leaves: what else may stand against it. That it failed itself does not.
    """
    store, ident, role = doors.store, who.deployment.id, who.role
    with store.transaction():
        had = store.permits.held_by(ident)
        refusal = _refuse(doors, who, role, had, leaves=before is not None) or (before and before())
        if refusal is not None or role is None:
            return _note(doors, who, refusal or UNUSED, generation)
        now = doors.clock.now()
        granted = store.permits.take(
            who.cloud,
            role.role,
            _width(who, role),
            node=who.node.name,
            deployment=ident,
            generation=generation,
            now=now,
        )
        assert granted, "that one is free was seen in this transaction"
        if store.nodes.waiting(who.node.name)[0] is not None:
            store.nodes.set_waiting(who.node.name, None, now)
        return None


def _note(doors: Doors, who: Applicant, refusal: Refusal, generation: int) -> str:
    """Put on record why a member waits. :returns: the reason."""
    store, now, name = doors.store, doors.clock.now(), who.node.name
    known, asked = store.nodes.waiting(name)
    told = known is not None and SO_FAR.sub("", known) == f"permit: {refusal.why}"
    # Every write wakes whoever waits for this node, who then asks again: so not each refusal is written.
    store.nodes.note_spoke(name, now, ASKED_SECONDS)
    if not told or (not refusal.halted and now - asked > ASKED_SECONDS):
        store.nodes.set_waiting(name, f"permit: {refusal}", asked if refusal.halted else now)
    if not told:
        doors.tell("permit.refused", str(refusal), name, who.deployment.id, generation=generation)
    return str(refusal)


def _refuse(
    doors: Doors, who: Applicant, role: Role | None, had: PermitRecord | None, *, leaves: bool
) -> Refusal | None:
    """Why a member gets no permit; None when it may have one. What is cheap to know comes first."""
    if who.node.maintenance is not None:
        return Refusal(f"it is in maintenance: {who.node.maintenance['reason']}")
    if role is None:
        return UNUSED
    taken = doors.store.permits.taken(who.cloud, role.role)
    failed = [permit for permit in taken if permit.state == FAILED]
    if leaves:
        failed = [permit for permit in failed if permit.deployment != who.deployment.id]
    mine = [permit for permit in failed if permit.deployment == who.deployment.id]
    if mine or len(failed) > role.policy.max_failures:
        first = (mine or failed)[0]
        return Refusal(f"{_names(doors, failed)} failed; provisioner node show {first.node}", halted=True)
    for record in doors.store.permits.once(who.cloud, role.role).values():
        holder = _live(doors, record)
        if record.state != DONE and holder is not None and holder.id != who.deployment.id:
            return Refusal(f"{holder.placement.hostname} does {record.name} first")
    if had is not None:
        return None
    held = [permit for permit in taken if permit.state == HELD]
    if len(held) >= _width(who, role):
        return Refusal(f"{_names(doors, held)} changes now")
    return _refuse_together(doors, who, role) or _refuse_by_policy(doors, who, role)


def _refuse_together(doors: Doors, who: Applicant, role: Role) -> Refusal | None:
    """One at a time of all who name the same group. Only one transaction writes at a time, so the look holds."""
    groups = {
        other.role: shared
        for other in who.desired.roles.values()
        if (shared := sorted(set(other.policy.apart) & set(role.policy.apart)))
    }
    held = doors.store.permits.held(who.cloud, groups) if groups else []
    if not held:
        return None
    named = ", ".join(groups[held[0].role])
    return Refusal(f"{_names(doors, held)} changes now, and {named} keeps {role.role} apart from it")


def _refuse_by_policy(doors: Doors, who: Applicant, role: Role) -> Refusal | None:
    """A first generation takes nothing away, and nobody is asked for it; nor for the mending of who is not healthy."""
    node, policy, permits = who.node, role.policy, doors.store.permits
    if node.applied == 0 or node.healthy is not True or node.state is NodeState.DEPLOYING:
        return None
    now, since, width = doors.clock.now(), doors.silence, _width(who, role)
    if width < who.desired.cloud.roles[role.role].count:
        others = [other for other in permits.away(who.cloud, role.role, since) if other.node != node.name]
        refusal = refuse_leave(role.role, width, others, since)
        if refusal is not None:
            return refusal
    if policy.canary:
        canaries = permits.canaries(who.cloud, role.role, policy.canary)
        if node.name not in [canary.node for canary in canaries]:
            refusal = refuse_before(canaries, policy.settle, now, since)
            if refusal is not None:
                return refusal
    for name in policy.after:
        earlier = who.desired.roles.get(name)
        if earlier is None:
            continue
        behind = permits.behind(who.cloud, name, since)
        if behind is not None:
            return refuse_behind(f"{name} comes first: ", behind, since)
    return None


def _width(who: Applicant, role: Role) -> int:
    return role.policy.width(who.desired.cloud.roles[role.role].count)


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


def _names(doors: Doors, permits: Sequence[PermitRecord]) -> str:
    return ", ".join(_name(doors, permit) for permit in permits)


def _name(doors: Doors, permit: PermitRecord) -> str:
    try:
        return f"{doors.store.deployments.placement(permit.deployment).hostname} on {permit.node}"
    except NotFound:
        return permit.node
