"""Another node takes the place of a member, as a plan like any other."""

from __future__ import annotations

from provisioner.conductor.clouds import plan_cloud
from provisioner.conductor.departures import check_drain, has_drain
from provisioner.conductor.doors import Doors
from provisioner.errors import Conflict, NotFound
from provisioner.model.plan import Move, Plan, Retry
from provisioner.model.states import NodeState


def plan_replacement(doors: Doors, cloud: str, member: str, by: str | None, *, drain: bool) -> Plan:
    """What has to be done for that: the plan of the cloud as it was applied last, with the member on another node.

    Changes nothing.

    :param member: host name, or node. :param by: the node that takes the place; None for any that matches.
    :param drain: it still works, and is drained first; without that it just ends.
    :raises NotFound: no such cloud or member. :raises Conflict: the cloud file names the role's nodes, somebody
        works on the member's node, or nobody is there who could drain it. :raises ManifestError: no node can take
        the place.
    """
    desired = doors.store.clouds.get(cloud)
    slots = doors.store.deployments.slots(cloud)
    names = ((slot, (slot.placement.hostname, slot.placement.node)) for slot in slots)
    deployment = next((slot for slot, known in names if member in known), None)
    use = None if deployment is None else desired.cloud.roles.get(deployment.placement.role)
    if deployment is None or use is None:
        raise NotFound(f"{member} is no member", where=cloud, hint=f"provisioner cloud status {cloud}")
    found = deployment.placement
    if use.nodes:
        raise Conflict(
            f"the cloud file names the nodes of {found.role}, so it says who takes a place",
            where=desired.place(f"roles.{found.role}.nodes"),
            hint=f"write {by or 'another node'} in the place of {found.node} there, then provisioner apply",
        )
    node = doors.store.nodes.get(found.node)
    if by == node.name:
        hint = f"provisioner node rebuild {node.name}"
        raise Conflict(f"{found.hostname} is on {node.name} already", where=cloud, hint=hint)
    if by is not None:
        doors.store.nodes.get(by)
    if node.maintenance is not None or node.state is NodeState.RESCUE:
        rescue = node.maintenance is None
        what = f"{found.hostname} is in {'rescue' if rescue else 'maintenance'}"
        hint = f"provisioner node {'rescue' if rescue else 'maintenance'} {node.name} --off"
        raise Conflict(what, where=node.name, hint=hint)
    if drain and has_drain(doors, node, known := doors.store.deployments.get(deployment.id)):
        check_drain(doors, node, known, "the same command without --drain")
    without = desired.with_use(found.role, lost=(*use.lost, node.name))
    plan = plan_cloud(doors, without, {} if by is None else {(found.role, found.index): by})
    actions = tuple(
        action.model_copy(update={"why": "it is replaced", "drain": drain, "lost": not drain})
        if isinstance(action, Move) and action.node == node.name
        else action
        for action in plan.actions
        if not isinstance(action, Retry)  # of others, who have failed: nobody asked for that here
    )
    notes = plan.notes
    if node.healthy is True and not drain:
        notes = (f"{found.hostname} on {node.name} said last that it is healthy; it ends without being drained", *notes)
    return plan.model_copy(update={"desired": desired, "actions": actions, "notes": notes})
