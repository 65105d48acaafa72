"""Instances leave their nodes: each when its turn has come, drained before, and what comes after them is begun.

A look at one is a single transaction and touches nothing but records, so a kill at any moment loses nothing.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.conductor.clouds import announce_generations, begin_deployment, end_deployment, renew_metadata
from provisioner.conductor.doors import Doors
from provisioner.conductor.evidence import build_failure
from provisioner.conductor.order import Refusal, find_joining, is_silent, refuse_before
from provisioner.conductor.permits import Applicant, take
from provisioner.conductor.work import LATER, SOON
from provisioner.errors import Conflict, DeployError, ImageError, ManifestError, NotFound, ProvisionerError
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
from provisioner.model.role import Desired, Role
from provisioner.model.states import NodeState
from provisioner.store.departures import STANDS
from provisioner_agent.protocol.messages import DRAIN, DRAIN_FAILED, DRAINED

IN_LINE = 60.0
"""Seconds until one that is not the next is looked at again."""
HINDERED = (Conflict, DeployError, ImageError, ManifestError, NotFound)
"""Errors after which a member stays where it is."""


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
        check_drain(doors, node, deployment, f"the same command with --without-drain {node.name}")
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
        take_back_failure(doors, node, deployment.id)
    store.departures.put(departure)
    if drain or wish.rolls:
        doors.tell("departure.asked", f"{placement.hostname} {departure.what}: {wish.why}", node.name, deployment.id)
    else:
        leave(doors, departure, node, deployment)


def has_drain(doors: Doors, node: Node, deployment: Deployment) -> bool:
    """Whether there is anything to drain: something ran once, and its image has scripts for that, or does not say."""
    if deployment.state is not DeploymentState.ACTIVE:
        return False
    said = _said(doors, node, deployment.id)
    return not _is_visited(doors, deployment.placement.image) if said is None else bool(said.get("scripts"))


def _is_visited(doors: Doors, image: str) -> bool:
    """Whether it is a whole disk: an agent of a release that knew no drain was gone when that had begun."""
    try:
        return doors.catalogue.get(image).kind == "disk"
    except (NotFound, ImageError):
        return False


def _said(doors: Doors, node: Node, deployment: str) -> Mapping[str, Any] | None:
    """What the instance last said of its drain; None for one that knows of none."""
    record = doors.store.clouds.report(node.name, deployment)
    said = None if record is None else record.body.get(DRAIN)
    return said if isinstance(said, Mapping) else None


def check_drain(doors: Doors, node: Node, deployment: Deployment, instead: str) -> None:
    """:param instead: what lets it leave without that. :raises Conflict: nobody is there who could drain it."""
    placement = deployment.placement
    standing = doors.store.permits.standing(placement.cloud, placement.role, deployment.id)
    heard = None if standing is None else standing.heard
    if node.power is Power.OFF:
        why = "the node is switched off"
    elif heard is None or heard < doors.silence:
        why = "its agent is silent"
    elif _said(doors, node, deployment.id) is None:
        why = "its agent is of an older image, which knows no drain"
    else:
        return
    raise Conflict(
        f"{placement.hostname} cannot be drained; nothing was done",
        where=node.name,
        cause=why,
        hint=f"provisioner node show {node.name}; or {instead}",
    )


def advance(doors: Doors, name: str) -> float | None:
    """One look at the departure of a node's instance. :returns: seconds until the next one; None when there is none."""
    store = doors.store
    with store.transaction():
        node = store.nodes.find(name)
        departure = None if node is None or node.deployment is None else store.departures.of(node.deployment)
        if node is None or departure is None or not may_leave(node):
            return None
        deployment = store.deployments.get(departure.deployment)
        if departure.state is DepartureState.DEPLOYING:
            return _follow(doors, departure, node, deployment)
        desired = store.clouds.get(departure.cloud)
        if departure.state is DepartureState.WAITING and not _has_turn(doors, departure, node, deployment, desired):
            return LATER if store.departures.ahead(departure) is None else IN_LINE
        try:
            with store.attempt():
                if departure.state is DepartureState.WAITING:
                    return _begin(doors, departure, node, deployment, desired)
                if departure.state is DepartureState.DRAINING:
                    return _look(doors, departure, node, deployment)
        except HINDERED as error:
            _fail(doors, departure, node, error)
    return LATER


def _has_turn(doors: Doors, departure: Departure, node: Node, deployment: Deployment, desired: Desired) -> bool:
    """By the policy of its role; of a role that is not used nobody waits. From then on it holds a permit."""
    role = desired.roles.get(departure.role)
    if role is None:
        return True
    who = Applicant(node, deployment, desired)
    if take(doors, who, node.generation, lambda: _refuse(doors, departure, role.policy)) is not None:
        return False
    doors.tell("permit.granted", f"may leave: it {departure.what}", node.name, deployment.id)
    return True


def _begin(doors: Doors, departure: Departure, node: Node, deployment: Deployment, desired: Desired) -> float:
    """Its agent is told. :raises Conflict: it cannot be drained, or what should take its place cannot.
    :raises NotFound: as well. :raises ImageError: as well."""
    _check_target(doors, departure)
    if not departure.drain:
        leave(doors, departure, node, deployment)
        renew_metadata(doors, departure.cloud)
        return SOON
    instead = f"provisioner cloud resume {departure.cloud} --without-drain {node.name}"
    check_drain(doors, node, deployment, instead)
    news = {"state": DepartureState.DRAINING, "begun": doors.clock.now(), "order": str(uuid.uuid4())}
    told = departure.model_copy(update=news)
    doors.store.departures.put(told)
    ends = departure.role not in desired.cloud.roles
    what = "release" if departure.placement is None or departure.placement.node != node.name else "rebuild"
    tell_agent(doors, node, deployment.id, {"id": told.order, "for": what, "role_ends": ends})
    doors.tell(
        "departure.drain", f"{departure.hostname} is drained before it {departure.what}", node.name, deployment.id
    )
    return LATER


def _refuse(doors: Doors, departure: Departure, policy: Policy) -> Refusal | None:
    """In the order of their numbers, and canaries first; beside what the policy says of every change.

    Whoever is let alone, or rescued, holds up nobody; whoever has a permit already would be waited for by the others.
    """
    store, now, since = doors.store, doors.clock.now(), doors.silence
    if departure.rolls:
        joins = find_joining(store.permits.away(departure.cloud, departure.role, since))
        if joins is not None:
            mine = store.permits.standing(departure.cloud, departure.role, departure.deployment)
            if mine is None or not is_silent(mine, since):
                return joins
    if store.permits.held_by(departure.deployment) is not None:
        return None
    canaries = store.departures.canaries(departure, policy.canary) if departure.rolls and policy.canary else []
    for canary in canaries if departure not in canaries else ():
        if canary.going:
            return Refusal(f"canary {canary.hostname} on {canary.node} goes first", canary.failure is not None)
        standing = store.permits.standing(canary.cloud, canary.role, canary.deployment)
        refusal = None if standing is None else refuse_before([standing], policy.settle, now, since)
        if refusal is not None:
            return refusal
    other = store.departures.ahead(departure)
    return None if other is None else Refusal(f"{other.hostname} on {other.node} goes first")


def may_leave(node: Node) -> bool:
    """Whether the instance of a node is its own master: no operator, no ramdisk has it."""
    return node.maintenance is None and node.state in STANDS


def go_on(doors: Doors, deployment: str) -> None:
    """Nobody else has the node of an instance any more: it may be drained for as long as from the beginning."""
    departure = doors.store.departures.of(deployment)
    if departure is not None and departure.state is DepartureState.DRAINING:
        doors.store.departures.put(departure.model_copy(update={"begun": doors.clock.now()}))


def _check_target(doors: Doors, departure: Departure) -> None:
    """:raises Conflict: what should take its place cannot, so it stays. :raises NotFound: the node or image is gone."""
    placement = departure.placement
    if placement is None:
        return
    if placement.role not in doors.store.clouds.get(placement.cloud).roles:
        raise Conflict(f"{placement.cloud} does not use the role {placement.role} any more", where=departure.node)
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
        leave(doors, departure, node, deployment)
        renew_metadata(doors, departure.cloud)
        return SOON
    if mine.get("state") == DRAIN_FAILED:
        error = mine.get("error")
        told = error if isinstance(error, Mapping) else {}
        summary, cause = (str(told.get(key) or "") for key in ("summary", "cause"))
        raise DeployError(summary or "it was not drained", where=node.name, cause=cause or None)
    limit = _policy(doors, departure).drain
    if doors.clock.now() - max(departure.begun, doors.opened) > limit:  # it may have ended while nobody listened
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


def leave(doors: Doors, departure: Departure, node: Node, deployment: Deployment) -> None:
    """The instance is over, and what comes after it begins; a permit is handed on to that. As :func:`depart`.

    :raises Conflict: what should take its place cannot. :raises NotFound: the node or image is gone.
    """
    _check_target(doors, departure)
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
    well = deployment.state is DeploymentState.ACTIVE and node.healthy is True and node.failure is None
    if not well or doors.store.departures.rolls_on(departure):
        return LATER
    doors.store.departures.drop(departure)
    doors.tell("departure.done", f"{departure.hostname} runs {deployment.placement.image}", node.name, deployment.id)
    return None


def _fail(doors: Doors, departure: Departure, node: Node, error: ProvisionerError) -> None:
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


def take_back_failure(doors: Doors, node: Node, deployment: str) -> None:
    """That it was not drained is over, and its role goes on."""
    doors.store.permits.clear(deployment)
    if node.state is NodeState.ACTIVE and node.failure is not None:
        doors.store.nodes.set_failure(node.name, None, doors.clock.now())


def tell_agent(doors: Doors, node: Node, deployment: str, order: Mapping[str, Any] | None) -> None:
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
