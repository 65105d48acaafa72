"""Instances leave their nodes: each when its turn has come, drained before, and what comes after them is begun.

A look at one is a single transaction and touches nothing but records, so a kill at any moment loses nothing.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.conductor.clouds import announce_generations, begin_deployment, end_deployment, renew_metadata
from provisioner.conductor.doors import Doors
from provisioner.conductor.evidence import build_failure
from provisioner.conductor.order import SILENT, Refusal, refuse_before
from provisioner.conductor.permits import Applicant, take
from provisioner.conductor.work import LATER, SOON
from provisioner.errors import Conflict, DeployError, ImageError, NotFound
from provisioner.model.departure import Departure, DepartureState
from provisioner.model.deployment import (
    RAMDISK_BOOT,
    Deployment,
    DeploymentState,
    EraseLevel,
    Node,
    Placement,
    StepName,
    build_cleaning,
)
from provisioner.model.hardware import Power
from provisioner.model.policy import Policy
from provisioner.model.role import Role
from provisioner.model.states import NodeState
from provisioner_agent.protocol.messages import DRAIN, DRAIN_FAILED, DRAINED

STANDS = (NodeState.ACTIVE, NodeState.FAILED)
"""States of a node in which its instance may leave."""


@dataclass(frozen=True)
class Wish:
    """What is to become of an instance: see :class:`Departure`."""

    why: str
    placement: Placement | None = None
    drain: bool = True
    rolls: bool = False
    erase: EraseLevel | None = None
    stays: bool = False


def depart(doors: Doors, node: Node, wish: Wish) -> None:
    """Let an instance leave its node, in the transaction that is open: at once when there is nothing to wait for.

    The metadata of the others are the caller's.

    :raises Conflict: it is to leave already, or cannot be drained.
    """
    store = doors.store
    assert node.deployment is not None
    deployment = store.deployments.get(node.deployment)
    placement, known = deployment.placement, store.departures.of(deployment.id)
    if known is not None and known.going and known.state is not DepartureState.FAILED and wish.drain:
        raise Conflict(
            f"{placement.hostname} {known.what} already",
            where=node.name,
            cause=known.why,
            hint=f"provisioner cloud status {placement.cloud}, or provisioner cloud abort {placement.cloud} "
            f"{placement.hostname}",
        )
    drain = wish.drain and has_drain(doors, node, deployment)
    if drain:
        check_drain(doors, node, deployment)
    departure = Departure(
        cloud=placement.cloud,
        role=placement.role,
        index=placement.index,
        hostname=placement.hostname,
        node=node.name,
        deployment=deployment.id,
        why=wish.why,
        asked=doors.clock.now(),
        placement=wish.placement,
        drain=drain,
        rolls=wish.rolls,
        erase=wish.erase,
        stays=wish.stays,
    )
    if known is not None:
        _take_back_failure(doors, node, deployment.id)
    store.departures.put(departure)
    if drain or wish.rolls:
        doors.tell("departure.asked", f"{placement.hostname} {departure.what}: {wish.why}", node.name, deployment.id)
    else:
        _leave(doors, departure, node, deployment)


def has_drain(doors: Doors, node: Node, deployment: Deployment) -> bool:
    """Whether there is anything to drain: something ran once, and its image has scripts for that, or does not say."""
    if deployment.state is not DeploymentState.ACTIVE or _is_visited(doors, deployment.placement.image):
        return False
    said = _said(doors, node, deployment.id)
    return said is None or bool(said.get("scripts"))


def _is_visited(doors: Doors, image: str) -> bool:
    """Whether it is a whole disk, whose agent is gone when it has begun."""
    try:
        return doors.catalogue.get(image).kind == "disk"
    except (NotFound, ImageError):
        return False


def _said(doors: Doors, node: Node, deployment: str) -> Mapping[str, Any] | None:
    """What the instance last said of its drain; None for one that knows of none."""
    record = doors.store.clouds.report(node.name, deployment)
    said = None if record is None else record.body.get(DRAIN)
    return said if isinstance(said, Mapping) else None


def check_drain(doors: Doors, node: Node, deployment: Deployment) -> None:
    """:raises Conflict: nobody is there who could drain it."""
    placement = deployment.placement
    standing = doors.store.permits.standing(placement.cloud, placement.role, deployment.id)
    heard = None if standing is None else standing.heard
    if node.power is Power.OFF:
        why = "the node is switched off"
    elif heard is None or doors.clock.now() - heard > SILENT:
        why = "its agent is silent"
    elif _said(doors, node, deployment.id) is None:
        why = "its agent is of an older image, which knows no drain"
    else:
        return
    raise Conflict(
        f"{placement.hostname} cannot be drained; nothing was done",
        where=node.name,
        cause=why,
        hint=f"provisioner node show {node.name}; or the same command with --without-drain {node.name}",
    )


def advance(doors: Doors, name: str) -> float | None:
    """One look at the departure of a node's instance. :returns: seconds until the next one; None when there is none."""
    store = doors.store
    with store.transaction():
        node = store.nodes.find(name)
        departure = None if node is None or node.deployment is None else store.departures.of(node.deployment)
        if node is None or departure is None or node.maintenance is not None or node.state not in STANDS:
            return None
        deployment = store.deployments.get(departure.deployment)
        if departure.state is DepartureState.DEPLOYING:
            return _follow(doors, departure, node, deployment)
        try:
            if departure.state is DepartureState.WAITING:
                return _begin(doors, departure, node, deployment)
            if departure.state is DepartureState.DRAINING:
                return _look(doors, departure, node, deployment)
        except (Conflict, DeployError, NotFound) as error:
            _fail(doors, departure, node, error)
    return LATER


def _begin(doors: Doors, departure: Departure, node: Node, deployment: Deployment) -> float:
    """When its turn has come by the policy of its role, its agent is told; of a role that is not used nobody waits."""
    desired = doors.store.clouds.get(departure.cloud)
    role = desired.roles.get(departure.role)
    if role is not None:
        who = Applicant(node, deployment, desired)
        if take(doors, who, node.generation, lambda: _refuse(doors, departure, role.policy)) is not None:
            return LATER
        doors.tell("permit.granted", f"may leave: it {departure.what}", node.name, deployment.id)
    _check_target(doors, departure)
    if not departure.drain:
        _leave(doors, departure, node, deployment)
        renew_metadata(doors, departure.cloud)
        return SOON
    check_drain(doors, node, deployment)
    news = {"state": DepartureState.DRAINING, "begun": doors.clock.now(), "order": str(uuid.uuid4())}
    told = departure.model_copy(update=news)
    doors.store.departures.put(told)
    ends = departure.role not in desired.cloud.roles
    what = "release" if departure.placement is None or departure.placement.node != node.name else "rebuild"
    _tell_agent(doors, node, deployment.id, {"id": told.order, "for": what, "role_ends": ends})
    doors.tell(
        "departure.drain", f"{departure.hostname} is drained before it {departure.what}", node.name, deployment.id
    )
    return LATER


def _refuse(doors: Doors, departure: Departure, policy: Policy) -> Refusal | None:
    """In the order of their numbers, and canaries first; beside what the policy says of every change."""
    store = doors.store
    rows = [
        other for other in store.departures.of_role(departure.cloud, departure.role) if other.rolls is departure.rolls
    ]
    if departure.rolls:
        canaries = rows[: policy.canary]
        for canary in canaries if departure not in canaries else ():
            if canary.going:
                return Refusal(f"canary {canary.hostname} on {canary.node} goes first", canary.failure is not None)
            standing = store.permits.standing(canary.cloud, canary.role, canary.deployment)
            refusal = None if standing is None else refuse_before([standing], policy.settle, doors.clock.now())
            if refusal is not None:
                return refusal
    for other in rows[: rows.index(departure)]:
        if other.state is DepartureState.WAITING and store.nodes.get(other.node).maintenance is None:
            return Refusal(f"{other.hostname} on {other.node} goes first")
    return None


def _check_target(doors: Doors, departure: Departure) -> None:
    """:raises Conflict: what should take its place cannot, so it stays. :raises NotFound: the node or image is gone."""
    placement = departure.placement
    if placement is None:
        return
    doors.catalogue.get(placement.image)
    target = doors.store.nodes.get(placement.node)
    if placement.node != departure.node and (target.state is not NodeState.AVAILABLE or target.maintenance is not None):
        state = "in maintenance" if target.maintenance is not None else str(target.state)
        raise Conflict(f"{placement.node}, to which it is to move, is {state}", where=departure.node)


def _look(doors: Doors, departure: Departure, node: Node, deployment: Deployment) -> float:
    """:raises DeployError: it was not drained."""
    said = _said(doors, node, deployment.id) or {}
    mine = said if said.get("id") == departure.order else {}
    if mine.get("state") == DRAINED:
        _check_target(doors, departure)
        _leave(doors, departure, node, deployment)
        renew_metadata(doors, departure.cloud)
        return SOON
    if mine.get("state") == DRAIN_FAILED:
        error = mine.get("error")
        told = error if isinstance(error, Mapping) else {}
        summary, cause = (str(told.get(key) or "") for key in ("summary", "cause"))
        raise DeployError(summary or "it was not drained", where=node.name, cause=cause or None)
    limit = _policy(doors, departure).drain
    if doors.clock.now() - departure.begun > limit:
        script = mine.get("script")
        raise DeployError(
            f"it was not drained within {limit:.0f} s",
            where=node.name,
            cause=f"it is at drain.d/{script}" if script else "its agent did not say that it began",
        )
    if node.power is Power.OFF:
        raise DeployError("it was switched off while it was drained", where=node.name)
    return LATER


def _policy(doors: Doors, departure: Departure) -> Policy:
    role: Role | None = doors.store.clouds.get(departure.cloud).roles.get(departure.role)
    return Policy() if role is None else role.policy


def _leave(doors: Doors, departure: Departure, node: Node, deployment: Deployment) -> None:
    """The instance is over, and what comes after it begins; a permit is handed on to that. As :func:`depart`."""
    store, placement = doors.store, departure.placement
    permit = store.permits.held_by(deployment.id)
    if placement is None:
        moved = end_deployment(doors, node, NodeState.CLEANING, f"released: {departure.why}")
        if departure.erase or departure.stays:
            clean(doors, moved, departure.erase, stays=departure.stays)
    else:
        stays = placement.node == node.name
        state = NodeState.DEPLOYING if stays else NodeState.CLEANING
        moved = end_deployment(doors, node, state, f"{departure.hostname} {departure.what}: {departure.why}")
        if stays:
            placement = placement.model_copy(update={"rebuilds": deployment.id})
        target = moved if stays else store.nodes.get(placement.node)
        ident = begin_deployment(doors, target, placement, departure.why)
        if permit is not None:
            width = 1 + len(store.permits.taken(departure.cloud, departure.role))  # it had one, so none is too many
            store.permits.take(
                departure.cloud,
                departure.role,
                width,
                node=target.name,
                deployment=ident,
                generation=0,
                now=doors.clock.now(),
            )
        if departure.rolls:
            news = {"state": DepartureState.DEPLOYING, "deployment": ident, "node": target.name, "failure": None}
            store.departures.put(departure.model_copy(update=news))
    if store.nodes.waiting(node.name)[0] is not None:
        store.nodes.set_waiting(node.name, None, doors.clock.now())


def clean(doors: Doors, node: Node, erase: EraseLevel | None, *, stays: bool) -> Node:
    """Let a node that has no place any more run the ramdisk, in the transaction that is open."""
    steps = (*RAMDISK_BOOT, StepName.ERASE) if erase else RAMDISK_BOOT
    return begin_run(doors, node, NodeState.CLEANING, build_cleaning(node.name, erase, stays), steps)


def begin_run(doors: Doors, node: Node, state: NodeState, placement: Placement, steps: Sequence[StepName]) -> Node:
    """Begin a run of steps that is no deployment."""
    ident, now = str(uuid.uuid4()), doors.clock.now()
    doors.store.deployments.add(ident, placement, now, steps)
    return doors.store.nodes.move(node, state, now=now, deployment=ident)


def _follow(doors: Doors, departure: Departure, node: Node, deployment: Deployment) -> float | None:
    """What took its place is kept on record until all of the role have had their turn: canaries are asked for later."""
    others = doors.store.departures.of_role(departure.cloud, departure.role)
    well = deployment.state is DeploymentState.ACTIVE and node.healthy is True and node.failure is None
    if not well or any(other.rolls and other.going for other in others):
        return LATER
    doors.store.departures.drop(departure)
    doors.tell("departure.done", f"{departure.hostname} runs {deployment.placement.image}", node.name, deployment.id)
    return None


def _fail(doors: Doors, departure: Departure, node: Node, error: Conflict | DeployError | NotFound) -> None:
    """It stays where it is, and its role stops as after any change that failed."""
    store, now, cloud = doors.store, doors.clock.now(), departure.cloud
    hint = (
        f"mend it, then provisioner cloud resume {cloud}; or provisioner cloud resume {cloud} --without-drain "
        f"{node.name}; or provisioner cloud abort {cloud} {departure.hostname}, and it stays"
    )
    cause = f"drain of {departure.hostname}, which {departure.what}"
    told = DeployError(error.summary, where=node.name, cause=": ".join(filter(None, (cause, error.cause))), hint=hint)
    failure = build_failure(doors, node.name, told, now)
    store.departures.put(departure.model_copy(update={"state": DepartureState.FAILED, "failure": failure}))
    store.permits.fail(departure.deployment)
    if node.state is NodeState.ACTIVE:
        store.nodes.set_failure(node.name, failure, now)
    doors.tell("departure.failed", str(told), node.name, departure.deployment)


def _take_back_failure(doors: Doors, node: Node, deployment: str) -> None:
    doors.store.permits.clear(deployment)
    if node.state is NodeState.ACTIVE and node.failure is not None:
        doors.store.nodes.set_failure(node.name, None, doors.clock.now())


def resume(doors: Doors, cloud: str, without_drain: Collection[str] = ()) -> None:
    """What was not drained has its turn again. :param without_drain: nodes that leave without it.

    :raises Conflict: nothing of the cloud waits for that. :raises NotFound: no such cloud, or a node of these does not
        leave.
    """
    store = doors.store
    with store.transaction():
        store.clouds.get(cloud)
        going = [departure for departure in store.departures.all(cloud) if departure.going]
        for name in without_drain:
            if name not in [departure.node for departure in going]:
                hint = f"provisioner cloud status {cloud}"
                raise NotFound(f"nothing on {name} is to leave", where=cloud, hint=hint)
        chosen = [one for one in going if one.state is DepartureState.FAILED or one.node in without_drain]
        if not chosen:
            raise Conflict("nothing of it has stopped", where=cloud, hint=f"provisioner cloud status {cloud}")
        for departure in chosen:
            node, drain = store.nodes.get(departure.node), departure.drain and departure.node not in without_drain
            news = {"state": DepartureState.WAITING, "failure": None, "order": "", "drain": drain}
            again = departure.model_copy(update=news)
            if departure.state is DepartureState.FAILED:
                _take_back_failure(doors, node, departure.deployment)
            store.departures.put(again)
            how = "" if drain else "without being drained, "
            doors.tell(
                "departure.resumed", f"{departure.hostname} {departure.what} {how}when its turn comes", node.name
            )
            if not drain and not departure.rolls and node.maintenance is None and node.state in STANDS:
                _leave(doors, again, node, store.deployments.get(departure.deployment))
        renew_metadata(doors, cloud)


def abort(doors: Doors, cloud: str, members: Collection[str] = ()) -> None:
    """Who has not left stays, and who was drained is let back in. :param members: host names; none for all.

    What took the place of others is deployed to its end. :raises NotFound: no such cloud, or no such member leaves.
    :raises Conflict: nobody of the cloud does.
    """
    store = doors.store
    with store.transaction():
        store.clouds.get(cloud)
        known = store.departures.all(cloud)
        for hostname in members:
            if hostname not in [departure.hostname for departure in known if departure.going]:
                hint = f"provisioner cloud status {cloud}"
                raise NotFound(f"{hostname} is not to leave", where=cloud, hint=hint)
        if not known:
            raise Conflict("nobody of it is to leave", where=cloud, hint=f"provisioner cloud status {cloud}")
        for departure in known:
            if members and departure.hostname not in members:
                continue
            store.departures.drop(departure)
            if departure.going:
                _let_back(doors, departure, store.nodes.get(departure.node))
        renew_metadata(doors, cloud)


def _let_back(doors: Doors, departure: Departure, node: Node) -> None:
    store, ident = doors.store, departure.deployment
    if departure.state is DepartureState.FAILED:
        _take_back_failure(doors, node, ident)
    if store.nodes.waiting(node.name)[0] is not None:
        store.nodes.set_waiting(node.name, None, doors.clock.now())
    if departure.order:
        _tell_agent(doors, node, ident, None)
    doors.tell("departure.aborted", f"{departure.hostname} stays", node.name, ident)


def _tell_agent(doors: Doors, node: Node, deployment: str, order: Mapping[str, Any] | None) -> None:
    """A new generation that says that, and nothing else that is new. None: it is not drained any more."""
    store, now = doors.store, doors.clock.now()
    newest = store.clouds.newest(node.name)
    assert newest is not None, "it was active, so it had metadata"
    own = {key: value for key, value in json.loads(store.clouds.own_text(newest)).items() if key != DRAIN}
    if order is not None:
        own[DRAIN] = dict(order)
    generation = store.clouds.new_generation(
        node.name, deployment, lambda number: {**own, "generation": number}, now, force=True
    )
    assert generation is not None
    announce_generations(doors, [(node, deployment, generation)])
    permit = store.permits.held_by(deployment)
    if permit is not None:  # given back when that generation is in force, and not before
        store.permits.take(
            store.deployments.placement(deployment).cloud,
            permit.role,
            0,
            node=node.name,
            deployment=deployment,
            generation=generation,
            now=now,
        )
