"""From what is desired to what is recorded: plan, apply, and the metadata of every member."""

from __future__ import annotations

import uuid
from functools import partial

from provisioner.conductor.doors import RAMDISK, Doors
from provisioner.errors import ImageError, NotFound, UsageError
from provisioner.metadata.build import build_members, build_own, build_role
from provisioner.model.deployment import Deployment, DeploymentState, Node, Placement, StepName, StepState
from provisioner.model.image import Image
from provisioner.model.plan import Action, Deploy, Observed, Plan, Release
from provisioner.model.role import Desired, Role
from provisioner.model.states import NodeState
from provisioner.plan.build import build_plan
from provisioner.plan.guard import check_guard
from provisioner.store.deployments import LIVE
from provisioner.trust.keys import new_secret


def plan_cloud(doors: Doors, desired: Desired) -> Plan:
    """What would have to be done, over what is on record now; changes nothing.

    :raises Conflict: the nodes that match are too few, or in the way.
    """
    return build_plan(desired, observe(doors, desired))


def observe(doors: Doors, desired: Desired) -> Observed:
    """The actual. A deployment that failed keeps its place until its node is retried, aborted or forgotten."""
    store = doors.store
    images = {}
    for role, disk in {RAMDISK: "", **{name: role.image.disk for name, role in desired.roles.items()}}.items():
        try:
            image = doors.catalogue.newest(disk or role)
        except ImageError:
            continue  # not trusted: as if it were not there; image list says why
        if image is not None and fits(image, disk):
            images[role] = image.id
    with store.view():
        nodes = tuple(store.nodes.all())
        newest = {node.name: store.clouds.newest(node.name) for node in nodes if node.deployment is not None}
        return Observed(
            nodes=nodes,
            deployments={deployment.id: deployment for deployment in store.deployments.live()},
            images=images,
            metadata={
                name: {part: store.clouds.shared(found).get(part, {}) for part in ("values", "role", "health")}
                for name, found in newest.items()
                if found
            },
        )


def apply_plan(doors: Doors, plan: Plan) -> None:
    """Record all that a plan says, or nothing of it.

    :raises GuardFailed: something that the plan relied on has changed. :raises NotFound: a node or image is gone.
    """
    store, cloud = doors.store, plan.desired.cloud.cloud
    for action in plan.actions:
        if isinstance(action, Deploy):
            doors.catalogue.get(action.placement.image)
    with store.transaction():
        nodes = {name: store.nodes.get(name) for name in map(_node_of, plan.actions)}
        for action in plan.actions:
            check_guard(action, nodes[_node_of(action)])
        store.clouds.put(plan.desired, doors.clock.now())
        for action in sorted(plan.actions, key=lambda action: not isinstance(action, Release)):
            node = nodes[_node_of(action)]
            if isinstance(action, Release):
                end_deployment(doors, node, NodeState.CLEANING, f"released: {action.why}")
            elif isinstance(action, Deploy):
                begin_deployment(doors, node, action.placement, action.why)
        renew_metadata(doors, cloud)


def _node_of(action: Action) -> str:
    return action.placement.node if isinstance(action, Deploy) else action.node


def fits(image: Image, disk: str) -> bool:
    """Whether a role can be made of an image. :param disk: the whole disk that the role names; empty for none."""
    return (image.kind == "disk") == bool(disk)


def image_of(doors: Doors, role: Role, wanted: str | None) -> str:
    """The id of an image for a role: that one, or the newest.

    :raises NotFound: there is none. :raises UsageError: that one is another role's.
    """
    name = role.image.disk or role.role
    image = doors.catalogue.newest(name) if wanted is None else doors.catalogue.get(wanted)
    if image is None:
        raise NotFound(f"there is no image {name}", where=role.role, hint=f"provisioner image build {name}")
    if image.name != name or not fits(image, role.image.disk):
        raise UsageError(f"{image.id} is not an image of {name}", where=role.role, hint="provisioner image list")
    return image.id


def begin_deployment(doors: Doors, node: Node, placement: Placement, why: str) -> None:
    """Put a placement on record as a deployment, in the transaction that is open."""
    now, ident = doors.clock.now(), str(uuid.uuid4())
    doors.store.deployments.add(ident, placement, now)
    doors.store.nodes.move(node, NodeState.DEPLOYING, now=now, deployment=ident)
    doors.store.nodes.set_health(node.name, 0, None, now)
    doors.store.clouds.drop_report(node.name)
    message = f"{placement.role} as {placement.hostname} with {placement.image}: {why}"
    doors.tell("deployment.created", message, node.name, ident)


def deployments_of(doors: Doors, node: Node) -> tuple[str, ...]:
    """What a node is in: its deployment or run of steps, and in a rescue also the deployment that waits for its end."""
    if node.deployment is None:
        return ()
    rescues = doors.store.deployments.placement(node.deployment).rescues
    return (node.deployment, rescues) if rescues else (node.deployment,)


def end_deployment(doors: Doors, node: Node, state: NodeState, why: str) -> Node:
    """Take a node out of its deployment, in the transaction that is open: the slot is free, its permits too.

    The boot token stays until the node is clean, so that a ramdisk that still runs is told to halt.
    """
    store, now = doors.store, doors.clock.now()
    for ident in deployments_of(doors, node):
        store.deployments.set_state(ident, LIVE, DeploymentState.ENDED, now=now)
        store.permits.clear(ident)
        store.tokens.drop(ident, "instance")
        store.nodes.close_window(node.name)
    moved = store.nodes.move(node, state, now=now, deployment=None)
    store.nodes.set_health(node.name, 0, None, now)
    doors.tell("deployment.ended", why, node.name, node.deployment)
    return store.nodes.get(moved.name)


def renew_metadata(doors: Doors, cloud: str) -> None:
    """A new generation for each member whose document is another one now; the others keep theirs."""
    store = doors.store
    desired = store.clouds.get(cloud)
    nodes = {node.name: node for node in store.nodes.all()}
    live = [deployment for deployment in store.deployments.live(cloud) if deployment.placement.role in desired.roles]
    placements = [deployment.placement for deployment in live]
    members = store.parts.put(build_members(desired, placements))
    shared = {name: (store.parts.put(build_role(desired, name, placements)), members) for name in desired.cloud.roles}
    secrets = {name: store.clouds.ensure_secrets(cloud, desired.roles[name].secrets, new_secret) for name in shared}
    for deployment in live:
        placement = deployment.placement
        node = nodes[placement.node]
        if desired.roles[placement.role].image.disk and _is_seeded(deployment):
            continue
        build = partial(build_own, placement, node.uuid, secrets[placement.role], parts=shared[placement.role])
        generation = store.clouds.new_generation(node.name, deployment.id, build, doors.clock.now())
        if generation is not None:
            announce_generation(doors, node, deployment.id, generation)
    store.clouds.drop_parts()


def _is_seeded(deployment: Deployment) -> bool:
    """Whether the cloud-init of a whole disk has got its values, which it reads once, and will not get others."""
    seed = next(step for step in deployment.steps if step.name is StepName.SEED_INSTANCE)
    return deployment.state is not DeploymentState.FAILED and seed.state is not StepState.WAITING


def announce_generation(doors: Doors, node: Node, deployment: str, generation: int) -> None:
    """A newer generation takes back that an older one failed: the role goes on."""
    store, now = doors.store, doors.clock.now()
    store.permits.clear_failed(deployment)
    if node.state is NodeState.ACTIVE and node.failure is not None:
        store.nodes.set_failure(node.name, None, now)
    doors.tell("metadata.generation", f"generation {generation}", node.name, deployment, generation=generation)
