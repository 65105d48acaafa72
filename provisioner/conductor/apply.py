"""Plans are recorded: whole, or nothing of them. And the plan of a role that is to run another image."""

from __future__ import annotations

from provisioner.conductor.certificates import Certified
from provisioner.conductor.clouds import NEWEST, begin_deployment, end_deployment, image_of, observe, renew_metadata
from provisioner.conductor.departures import Wish, depart
from provisioner.conductor.doors import Doors
from provisioner.conductor.effects import build_outlooks, find_effects
from provisioner.conductor.trees import Common, Trees
from provisioner.conductor.verbs import retry
from provisioner.errors import Conflict, NotFound
from provisioner.model.deployment import Node
from provisioner.model.plan import Action, Deploy, Move, Plan, Rebuild, Release, Retry
from provisioner.model.states import NodeState
from provisioner.plan.build import build_plan
from provisioner.plan.guard import check_guard, check_places, check_target


def apply_plan(doors: Doors, plan: Plan) -> None:
    """Record all that a plan says, or nothing of it.

    :raises GuardFailed: something that the plan relied on has changed. :raises NotFound: a node or image is gone.
    :raises Conflict: a member is to leave already, or cannot be drained.
    """
    store, cloud = doors.store, plan.desired.cloud.cloud
    for action in plan.actions:
        if isinstance(action, Deploy | Move | Rebuild):
            doors.catalogue.get(action.placement.image)
    with store.transaction():
        known = {node.name: node for node in store.nodes.all()}
        nodes = {name: known.get(name) or store.nodes.get(name) for name in map(_node_of, plan.actions)}
        for action in plan.actions:
            check_guard(action, nodes[_node_of(action)])
            if isinstance(action, Move):
                check_target(action, store.nodes.get(action.placement.node))
        held = [deployment.placement for deployment in store.deployments.live(journals=False)]
        moving = {action.node for action in plan.actions if isinstance(action, Move)}  # and what it was promised goes
        promised = (departure.placement for departure in store.departures.all() if departure.node not in moving)
        check_places(plan.actions, [*held, *filter(None, promised)])
        for role in plan.desired.roles.keys() - {place.role for place in held if place.cloud == cloud}:
            store.permits.begin_anew(cloud, role)
        store.clouds.put(plan.desired, doors.clock.now())
        for action in sorted(plan.actions, key=_turn):
            _begin(doors, action, nodes[_node_of(action)])
        renew_metadata(doors, cloud)


def _begin(doors: Doors, action: Action, node: Node) -> None:
    if isinstance(action, Deploy):
        begin_deployment(doors, node, action.placement, action.why)
    elif isinstance(action, Release):
        depart(doors, node, Wish(action.why, drain=action.drain))
    elif isinstance(action, Rebuild):
        depart(doors, node, Wish(action.why, action.placement, drain=action.drain, rolls=True))
    elif isinstance(action, Move) and action.lost:
        end_deployment(doors, node, NodeState.CLEANING, action.why)
        begin_deployment(doors, doors.store.nodes.get(action.placement.node), action.placement, action.why)
    elif isinstance(action, Move):
        depart(doors, node, Wish(action.why, action.placement, drain=action.drain))
    elif isinstance(action, Retry):
        doors.tell("node.retry", f"the cloud is applied again; {action.why}", node.name, node.deployment)
        retry(doors, node)


def _turn(action: Action) -> int:
    """Places are free before others take them."""
    return 1 if isinstance(action, Deploy) else 0


def _node_of(action: Action) -> str:
    return action.placement.node if isinstance(action, Deploy) else action.node


def plan_rebuild(doors: Doors, cloud: str, role: str, image: str | None) -> Plan:
    """Of all members of a role that run another image than this one, or than the newest; the cloud stays as it is.

    :raises NotFound: no such cloud, role or image. :raises Conflict: the cloud file says another image.
    :raises ManifestError: the image's templates cannot be rendered with what its members would be told.
    """
    desired = doors.store.clouds.get(cloud)
    use = desired.cloud.roles.get(role)
    if use is None:
        known = ", ".join(desired.cloud.roles)
        raise NotFound(f"{cloud} has no role {role}", where=cloud, hint=f"it has: {known}")
    if use.image not in ("", NEWEST) and image not in (None, use.image):
        raise Conflict(
            f"the cloud file says that {role} runs {use.image}",
            where=desired.place(f"roles.{role}.image"),
            cause="the next plan would go back to it",
            hint="write the other image there, then provisioner apply",
        )
    wanted = image_of(doors, desired.roles[role], image or (None if use.image == NEWEST else use.image or None))
    other = desired.with_use(role, image=wanted)
    with doors.store.view():
        observed, newest = observe(doors, other)
        common = Common(doors.store.clouds.parts_of(newest.values()))
        secrets = doors.store.clouds.secrets(cloud)
        certificates = Certified(desired, doors.store.certificates.of(cloud), doors.clock.now())
    found = build_plan(other, observed)
    actions = tuple(one for one in found.actions if isinstance(one, Rebuild) and one.placement.role == role)
    notes = tuple(note for note in found.notes if note.startswith((f"{role}:", f"{role}-")))
    plan = Plan(cloud=cloud, desired=desired, actions=actions, notes=notes)
    outlooks = build_outlooks(plan, observed, newest, secrets, certificates, common)
    find_effects([one for one in outlooks if one.newest is None], {}, common, Trees(doors.catalogue))
    return plan
