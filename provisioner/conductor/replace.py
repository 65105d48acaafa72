"""Another node takes the place of a member, as a plan like any other."""

from __future__ import annotations

from provisioner.conductor.clouds import plan_cloud
from provisioner.conductor.doors import Doors
from provisioner.errors import Conflict, NotFound
from provisioner.model.plan import Plan
from provisioner.model.states import NodeState
from provisioner.plan.build import Replacement


def plan_replacement(doors: Doors, cloud: str, member: str, by: str | None) -> Plan:
    """What has to be done for that: the plan of the cloud as it was applied last, and the member's node released.

    Changes nothing.

    :param member: host name, or node. :param by: the node that takes the place; None for any that matches.
    :raises NotFound: no such cloud or member. :raises Conflict: the cloud file names the role's nodes, or somebody
        works on the member's node. :raises ManifestError: no node can take the place.
    """
    desired = doors.store.clouds.get(cloud)
    slots = doors.store.deployments.slots(cloud)
    found = next((slot.placement for slot in slots if member in (slot.placement.hostname, slot.placement.node)), None)
    if found is None or found.role not in desired.cloud.roles:
        raise NotFound(f"{member} is no member", where=cloud, hint=f"provisioner cloud status {cloud}")
    if desired.cloud.roles[found.role].nodes:
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
    return plan_cloud(doors, desired, Replacement(node.name, by))
