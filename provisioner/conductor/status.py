"""How a cloud stands: its members, and which of its roles are ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.conductor.instance_steps import red_probes
from provisioner.model.deployment import Deployment, DeploymentState, Node, StepState
from provisioner.model.role import Desired
from provisioner.model.states import NodeState
from provisioner.model.status import CloudStatus, MemberStatus
from provisioner.store.store import Store

READY = "ready"


@dataclass(frozen=True)
class Member:
    """What is on record of one member: ``report`` is what it last said, ``waiting`` why its instance waits."""

    node: Node
    deployment: Deployment
    report: Mapping[str, Any]
    waiting: str | None


def read_members(store: Store, cloud: str) -> list[Member]:
    """The members of a cloud by host name, as one consistent view."""
    with store.view():
        nodes = {_place(store, node): node for node in store.nodes.all() if node.deployment is not None}
        reports, waiting = store.clouds.reports(), store.nodes.all_waiting()
        live = store.deployments.live(cloud)
    return [
        Member(node, deployment, reports.get(deployment.id, {}), waiting.get(node.name))
        for deployment in live
        if (node := nodes.get(deployment.id)) is not None
    ]


def _place(store: Store, node: Node) -> str | None:
    """The deployment in whose place a node is, also while it is rescued."""
    if node.deployment is None or node.state not in (NodeState.RESCUE, NodeState.FAILED):
        return node.deployment
    return store.deployments.placement(node.deployment).rescues or node.deployment


def ready_roles(store: Store, cloud: str) -> dict[str, str]:
    """Each role: ``ready``, or what is missing for that."""
    return build_roles(store.clouds.get(cloud), read_members(store, cloud))


def read_status(store: Store, cloud: str, now: float) -> CloudStatus:
    """:raises NotFound: no such cloud was ever applied."""
    desired = store.clouds.get(cloud)
    return build_status(desired, read_members(store, cloud), now)


def build_status(desired: Desired, members: Sequence[Member], now: float) -> CloudStatus:
    roles = build_roles(desired, members)
    return CloudStatus(
        cloud=desired.cloud.cloud,
        ready=all(said == READY for said in roles.values()),
        failed=any(_failure(member) is not None for member in members),
        members=tuple(build_member(member, now) for member in members),
        roles=roles,
    )


def build_roles(desired: Desired, members: Sequence[Member]) -> dict[str, str]:
    return {
        name: _role([m for m in members if m.deployment.placement.role == name], use.count)
        for name, use in desired.cloud.roles.items()
    }


def _role(members: Sequence[Member], count: int) -> str:
    failed = [member.deployment.placement.hostname for member in members if _failure(member) is not None]
    if failed:
        return f"failed: {', '.join(failed)}"
    active = [member for member in members if member.node.state is NodeState.ACTIVE]
    if len(active) < count:
        return f"{len(active)} of {count} active"
    for member in active:
        hostname = member.deployment.placement.hostname
        if member.node.applied < member.node.generation:
            return f"{hostname} applies generation {member.node.generation}"
        if member.node.healthy is not True:
            return f"{hostname} is not healthy"
        red = red_probes(member.report, "role")
        if red:
            name = next(iter(red))
            return f"probe {name} is red on {hostname}: {red[name].get('output', '')}"
    return READY


def build_member(member: Member, now: float) -> MemberStatus:
    node, deployment = member.node, member.deployment
    placement = deployment.placement
    step = next((step for step in deployment.steps if step.state is not StepState.DONE), None)
    ends = [step.ended for step in deployment.steps if step.ended is not None]
    over = deployment.state is not DeploymentState.RUNNING and ends
    detail = dict(step.detail) if step is not None else {}
    return MemberStatus(
        node=node.name,
        role=placement.role,
        hostname=placement.hostname,
        state=str(node.state),
        step=str(step.name) if step is not None else None,
        detail=detail,
        seconds=round((max(ends) if over else now) - deployment.created, 1),
        generation=node.generation,
        applied=node.applied,
        healthy=node.healthy,
        waiting=member.waiting or detail.get("waiting"),
        failure=_failure(member),
        addresses=tuple(address.address for address in placement.addresses),
    )


def _failure(member: Member) -> Mapping[str, Any] | None:
    return member.node.failure or member.deployment.failure
