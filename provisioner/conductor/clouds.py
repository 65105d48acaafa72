"""From what is desired to what is recorded: plans, deployments, and the metadata of every member."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from provisioner.conductor.certificates import Certified, Issuer
from provisioner.conductor.doors import RAMDISK, Doors
from provisioner.conductor.effects import Outlook, build_outlooks, find_effects
from provisioner.conductor.masker import Masker
from provisioner.conductor.told import stays
from provisioner.conductor.trees import Common, Trees
from provisioner.errors import ImageError, NotFound, UsageError
from provisioner.events import Event
from provisioner.metadata.build import Documents, read_shared
from provisioner.model.departure import DRAINS
from provisioner.model.deployment import Deployment, DeploymentState, Node, Placement, StepName, StepState
from provisioner.model.image import Image
from provisioner.model.plan import Observed, Plan
from provisioner.model.role import Desired, Role
from provisioner.model.states import NodeState
from provisioner.plan.build import Slot, build_plan
from provisioner.plan.effects import add_effects
from provisioner.store.clouds import Build, Generation
from provisioner.store.deployments import LIVE
from provisioner.trust.keys import new_secret

NEWEST = "newest"
"""In the place of an image's id."""


def plan_cloud(doors: Doors, desired: Desired, takes: Mapping[Slot, str] | None = None) -> Plan:
    """What would have to be done, over what is on record now, and which files of which instances that changes.

    Changes nothing. What takes long is done while others may read and write the records.

    :raises ManifestError: the nodes that match are too few, or templates cannot be rendered with what they would be
        told.
    """
    ahead = look_ahead(doors, desired, takes)
    effects, notes = find_effects(ahead.outlooks, ahead.before, ahead.common, Trees(doors.catalogue))
    return Masker(ahead.secrets).mask_changes(add_effects(ahead.plan, effects, notes))


@dataclass(frozen=True)
class Ahead:
    """A plan, and what instances would be told by it.

    ``before``: what those of :attr:`outlooks` were told last, by node, as JSON. ``secrets``: that the cloud has by now.
    """

    plan: Plan
    observed: Observed
    outlooks: Sequence[Outlook]
    before: Mapping[str, str]
    common: Common
    secrets: Mapping[str, str]


def look_ahead(doors: Doors, desired: Desired, takes: Mapping[Slot, str] | None = None) -> Ahead:
    """Without the files. :raises ManifestError: the nodes that match are too few."""
    store = doors.store
    with store.view():
        observed, newest = observe(doors, desired)
        common, secrets = Common(store.clouds.parts_of(newest.values())), store.clouds.secrets(desired.cloud.cloud)
        certificates = Certified(desired, store.certificates.of(desired.cloud.cloud), doors.clock.now())
    plan = build_plan(desired, observed, takes)
    outlooks = build_outlooks(plan, observed, newest, secrets, certificates, common)
    before = store.clouds.own_texts([outlook.newest for outlook in outlooks if outlook.newest is not None])
    return Ahead(plan, observed, outlooks, before, common, secrets)


def observe(doors: Doors, desired: Desired) -> tuple[Observed, dict[str, Generation]]:
    """(the actual, the newest generation of each node that is in a deployment).

    A deployment that failed keeps its place until its node is retried, aborted or forgotten.

    :raises NotFound: there is no image that the cloud file names. :raises UsageError: it is another role's.
    """
    store = doors.store
    images = {}
    names = {name: (role.image_name, role.image.disk) for name, role in desired.roles.items()}
    for role, (named, disk) in {RAMDISK: (RAMDISK, ""), **names}.items():
        use = desired.cloud.roles.get(role)
        if use is not None and use.image not in ("", NEWEST):
            images[role] = image_of(doors, desired.roles[role], use.image)
            continue
        try:
            image = doors.catalogue.newest(named)
        except ImageError:
            continue  # not trusted: as if it were not there; image list says why
        if image is not None and fits(image, disk):
            images[role] = image.id
    with store.view():
        nodes = tuple(store.nodes.all())
        working = {node.name for node in nodes if node.deployment is not None}
        newest = {name: found for name, found in store.clouds.all_newest().items() if name in working}
        live = store.deployments.live(journals=False)
        observed = Observed(
            nodes=nodes,
            deployments={deployment.id: deployment for deployment in live},
            images=images,
            metadata={name: read_shared(store.clouds.shared(found)) for name, found in newest.items()},
            secrets=frozenset(store.clouds.secret_names(desired.cloud.cloud)),
            silent=find_silent(doors, desired, live),
            departures={departure.deployment: departure for departure in store.departures.all()},
        )
    return observed, newest


def find_silent(doors: Doors, desired: Desired, deployments: Iterable[Deployment]) -> frozenset[str]:
    """:attr:`Observed.silent`: the agent of before said nothing of services, as every one does that stays."""
    found = set()
    for deployment in deployments:
        placement, role = deployment.placement, desired.roles.get(deployment.placement.role)
        mine = placement.cloud == desired.cloud.cloud and role is not None and bool(role.image.disk)
        if mine and deployment.state is DeploymentState.ACTIVE:
            report = doors.store.clouds.report(placement.node, deployment.id)
            if report is not None and not stays(report.body):
                found.add(placement.node)
    return frozenset(found)


def fits(image: Image, disk: str) -> bool:
    """Whether a role can be made of an image. :param disk: the whole disk that the role names; empty for none."""
    return (image.kind == "disk") == bool(disk)


def image_of(doors: Doors, role: Role, wanted: str | None) -> str:
    """The id of an image for a role: that one, or the newest.

    :raises NotFound: there is none. :raises UsageError: that one is another role's.
    """
    name = role.image_name
    image = doors.catalogue.newest(name) if wanted is None else doors.catalogue.get(wanted)
    if image is None:
        made = f"build {name}" if role.image.is_built else f"import FILE --name {name}"
        raise NotFound(f"there is no image {name}", where=role.role, hint=f"provisioner image {made}")
    if image.name != name or not fits(image, role.image.disk):
        raise UsageError(f"{image.id} is not an image of {name}", where=role.role, hint="provisioner image list")
    return image.id


def begin_deployment(doors: Doors, node: Node, placement: Placement, why: str) -> str:
    """Put a placement on record as a deployment, in the transaction that is open. :returns: its id.

    Unless it rebuilds one, it gets keys of its own: who had this place before may still have those.
    """
    now, ident = doors.clock.now(), str(uuid.uuid4())
    if not placement.rebuilds:
        doors.store.certificates.drop_of(placement.cloud, placement.hostname)
    doors.store.deployments.add(ident, placement, now)
    doors.store.nodes.move(node, NodeState.DEPLOYING, now=now, deployment=ident)
    doors.store.nodes.set_health(node.name, 0, None, now)
    doors.store.clouds.drop_report(node.name)
    message = f"{placement.role} as {placement.hostname} with {placement.image}: {why}"
    doors.tell("deployment.created", message, node.name, ident)
    return ident


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
        store.departures.drop_of(ident)
        store.tokens.drop(ident, "instance")
        store.nodes.close_window(node.name)
    moved = store.nodes.move(node, state, now=now, deployment=None)
    store.nodes.set_health(node.name, 0, None, now)
    doors.tell("deployment.ended", why, node.name, node.deployment)
    return store.nodes.get(moved.name)


def renew_metadata(doors: Doors, cloud: str) -> None:
    """A new generation for each member whose document is another one now; the others keep theirs.

    A member that is drained hears nothing else before that is over.
    """
    store = doors.store
    desired = store.clouds.get(cloud)
    nodes = {node.name: node for node in store.nodes.all()}
    live = [
        deployment
        for deployment in store.deployments.live(cloud, journals=False)
        if deployment.placement.role in desired.roles
    ]
    declared = tuple(dict.fromkeys(name for role in desired.roles.values() for name in role.secrets))
    store.clouds.ensure_secrets(cloud, declared, new_secret)
    secrets = store.clouds.secrets(cloud)
    issuer = Issuer(desired, store.certificates.of(cloud), doors.clock.now())
    members = [deployment.placement for deployment in live]
    documents = Documents(desired, members, secrets, store.parts.put, issuer.find, issuer.authority)
    silent = find_silent(doors, desired, live)
    drained = store.departures.of_state(cloud, *DRAINS)
    placed: dict[str, Deployment] = {}
    builds: dict[str, tuple[str, Build]] = {}
    for deployment in live:
        placement = deployment.placement
        if deployment.id in drained:
            continue
        node, seeded = nodes[placement.node], None
        if desired.roles[placement.role].image.disk:
            if node.name in silent:
                continue
            seeded = _seeded_values(doors, store.deployments.get(deployment.id))
        build = partial(documents.own, placement, node.uuid, node.spec.location.zone, seeded=seeded)
        placed[placement.node], builds[placement.node] = deployment, (deployment.id, build)
    fresh = store.clouds.new_generations(builds, doors.clock.now())
    store.certificates.put(cloud, issuer.made)
    store.certificates.drop(cloud, issuer.unused(members))
    announce_generations(doors, [(nodes[name], placed[name].id, generation) for name, generation in fresh.items()])
    store.clouds.drop_parts()


def _seeded_values(doors: Doors, deployment: Deployment) -> Mapping[str, Any] | None:
    """What an instance of a whole disk was told when its cloud-init got its cloud-config, which that reads once; None
    when it has not yet, or gets it again."""
    seed = next(step for step in deployment.steps if step.name is StepName.SEED_INSTANCE)
    newest = doors.store.clouds.newest(deployment.placement.node)
    if deployment.state is DeploymentState.FAILED or seed.state is StepState.WAITING or newest is None:
        return None
    order = doors.store.deployments.order(deployment.id) if seed.state is StepState.RUNNING else None
    if seed.state is StepState.RUNNING and (order is None or order.step is not seed.name):
        return None  # it waits for other roles
    values: Mapping[str, Any] = read_shared(doors.store.clouds.shared(newest))["values"]
    return values


def announce_generations(doors: Doors, fresh: Sequence[tuple[Node, str, int]]) -> None:
    """A newer generation takes back that an older one failed: the role goes on.

    :param fresh: (node, its deployment, the generation).
    """
    store, now = doors.store, doors.clock.now()
    store.permits.clear_failed([deployment for _, deployment, _ in fresh])
    for node, _, _ in fresh:
        if node.state is NodeState.ACTIVE and node.failure is not None:
            store.nodes.set_failure(node.name, None, now)
    kind = "metadata.generation"
    events = [
        Event(kind, f"generation {number}", node.name, ident, {"generation": number}) for node, ident, number in fresh
    ]
    store.events.add_all(events, now)
