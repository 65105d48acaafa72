"""The operator's verbs: the exits of :data:`provisioner.model.states.EXITS`, done."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from provisioner.conductor.clouds import (
    announce_generations,
    deployments_of,
    end_deployment,
    image_of,
    renew_metadata,
)
from provisioner.conductor.departures import Wish, begin_run, clean, depart, go_on
from provisioner.conductor.doors import Doors
from provisioner.conductor.work import TOKEN_SECONDS
from provisioner.errors import Conflict, DeployError, UsageError
from provisioner.model.deployment import (
    CLEANING,
    INSPECTION_STEPS,
    RAMDISK_BOOT,
    RESCUE,
    RESCUE_STEPS,
    TESTS,
    DeploymentState,
    EraseLevel,
    Node,
    Placement,
    StepName,
    StepState,
    build_inspection,
    build_rescue,
    build_test,
)
from provisioner.model.hardware import HardwarePart
from provisioner.model.states import NodeState, check_verb, exits_of
from provisioner.store.deployments import LIVE
from provisioner.store.tokens import BOOT
from provisioner_agent.protocol.messages import DRAIN

SSH_KEY = re.compile(r"^(ssh-(ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-\S+) [A-Za-z0-9+/=]{40,} ?[^\n\r]{0,200}$")


def do_verb(doors: Doors, name: str, verb: str) -> Node:
    """Do ``retry``, ``abort``, ``release`` or ``forget``; the node as it is then, or was for ``forget``.

    :raises UsageError: there is no such verb. :raises Conflict: the node's state does not offer it.
    """
    action = VERBS.get(verb)
    if action is None:
        raise UsageError(f"there is no verb {verb}", where=name, hint=f"the verbs are: {', '.join(VERBS)}")
    with doors.store.transaction():
        return action(doors, _ask(doors, name, verb))


def begin_inspection(doors: Doors, name: str, *, stays: bool) -> Node:
    """Boot the ramdisk once, take on record what it finds, and switch the node off again.

    :param stays: the ramdisk runs on instead, ready for what comes next. :raises Conflict: the state does not offer it.
    """
    return _begin(doors, name, "inspect", build_inspection(name, stays), INSPECTION_STEPS)


def begin_tests(doors: Doors, name: str, parts: Sequence[HardwarePart], burn_seconds: float, *, stays: bool) -> Node:
    """Boot the ramdisk, put ``parts`` to the test, all if none is named, and switch the node off again.

    :param burn_seconds: for how long the processors are loaded. :param stays: as for an inspection.
    :raises Conflict: the node's state does not offer it.
    """
    wanted = [step for step, part in TESTS.items() if part in parts or not parts]
    return _begin(doors, name, "test", build_test(name, burn_seconds, stays), (*RAMDISK_BOOT, *wanted))


def set_maintenance(doors: Doors, name: str, reason: str | None) -> Node:
    """From now on nothing is done to the node by itself, whatever its state; or again, with no reason.

    What it was doing goes on afterwards where it stood, its deadlines from the beginning.
    """
    now = doors.clock.now()
    with doors.store.transaction():
        node = doors.store.nodes.get(name)
        if reason is None and node.maintenance is None:
            return node
        doors.store.nodes.set_maintenance(name, None if reason is None else {"reason": reason, "since": now}, now)
        said = "ended" if reason is None else f"nothing is done to it by itself: {reason}"
        doors.tell("node.maintenance", said, name, node.deployment)
        if reason is None and node.deployment is not None:
            go_on(doors, node.deployment)
            doors.store.tokens.extend(node.deployment, BOOT, now + TOKEN_SECONDS)
            for step in doors.store.deployments.get(node.deployment).steps:
                if step.state is StepState.RUNNING:
                    doors.store.deployments.set_detail(node.deployment, step.name, {"resumed": now}, touched=now)
        return doors.store.nodes.get(name)


def rebuild(doors: Doors, name: str, image: str | None, *, drain: bool = True) -> Node:
    """Deploy a node again in the place that it has, with the newest image of its role; volumes that are kept stay.

    :param image: the id of another image of the role. :param drain: its instance is drained before.
    :raises NotFound: there is no such image. :raises Conflict: the node's state does not offer it, it has no place in a
        cloud, or it cannot be drained.
    """
    store = doors.store
    with store.transaction():
        node = _ask(doors, name, "rebuild")
        before = None if node.deployment is None else store.deployments.get(node.deployment)
        if before is None or before.placement.inspects:
            raise Conflict("it has no place in a cloud", where=name, hint=f"provisioner node retry {name}")
        placement = before.placement
        role = store.clouds.get(placement.cloud).roles.get(placement.role)
        if role is None:
            what, hint = (
                f"{placement.cloud} does not use the role {placement.role} any more",
                "provisioner node release",
            )
            raise Conflict(what, where=name, hint=f"{hint} {name}")
        chosen = image_of(doors, role, image)
        place = placement.model_copy(update={"image": chosen, "rebuilds": before.id})
        depart(doors, node, Wish(f"rebuilt by an operator; it ran {placement.image}", place, drain=drain))
        renew_metadata(doors, placement.cloud)
        return store.nodes.get(name)


def begin_rescue(doors: Doors, name: str, keys: Sequence[str]) -> Node:
    """Boot the ramdisk beside what is on the disks, and let an operator in. The node keeps its place.

    :param keys: of SSH (authorized_keys(5)); without one there are only the consoles.
    :raises Conflict: the node's state does not offer it, or it has no place in a cloud.
    :raises UsageError: a key is none.
    """
    wrong = next((key for key in keys if not SSH_KEY.match(key)), None)
    if wrong is not None:
        hint = "--key ~/.ssh/id_ed25519.pub"
        raise UsageError("this is no public key of SSH", where=name, cause=wrong[:60], hint=hint)
    store = doors.store
    with store.transaction():
        node = _ask(doors, name, "rescue")
        if node.deployment is None or store.deployments.get(node.deployment).placement.inspects:
            raise Conflict("it has no place in a cloud", where=name, hint=f"provisioner node show {name}")
        store.nodes.set_health(name, node.applied, None, doors.clock.now())
        return begin_run(doors, node, NodeState.RESCUE, build_rescue(name, node.deployment, keys), RESCUE_STEPS)


def end_rescue(doors: Doors, name: str) -> Node:
    """From its own disk again, in the place that it has. :raises Conflict: the node is in no rescue."""
    store, now = doors.store, doors.clock.now()
    with store.transaction():
        node = store.nodes.get(name)
        run = None if node.deployment is None else store.deployments.get(node.deployment)
        if run is None or run.placement.rescues is None:
            hint = f"from {node.state} the exits are: {', '.join(exits_of(node.state, node.maintenance))}"
            raise Conflict("the node is in no rescue", where=name, hint=hint)
        doors.tell("node.rescue", "ended by an operator", name, run.id)
        store.deployments.set_state(run.id, LIVE, DeploymentState.ENDED, now=now)
        return store.nodes.move(node, NodeState.RESCUE, now=now, deployment=run.placement.rescues)


def release(doors: Doors, name: str, erase: EraseLevel | None, *, stays: bool, drain: bool = True) -> Node:
    """Take a node out of its cloud.

    :param erase: what is done to all its disks then; None for nothing. :param stays: it is left in the ramdisk, ready
        for what comes next, instead of off. :param drain: its instance is drained before.
    :raises Conflict: the node's state does not offer it, or it cannot be drained.
    """
    with doors.store.transaction():
        node = _ask(doors, name, "release")
        depart(doors, node, Wish("by an operator", drain=drain, erase=erase, stays=stays))
        return doors.store.nodes.get(name)


def erase_disks(doors: Doors, name: str, level: EraseLevel, *, stays: bool) -> Node:
    """Erase all disks of a node that has no place in a cloud. :raises Conflict: the state does not offer it."""
    with doors.store.transaction():
        node = _ask(doors, name, "erase")
        return clean(doors, node, level, stays=stays)


def _begin(doors: Doors, name: str, verb: str, placement: Placement, steps: Sequence[StepName]) -> Node:
    with doors.store.transaction():
        return begin_run(doors, _ask(doors, name, verb), NodeState.INSPECTING, placement, steps)


def _ask(doors: Doors, name: str, verb: str) -> Node:
    """:raises Conflict: the node's state does not offer the verb."""
    node = doors.store.nodes.get(name)
    check_verb(name, node.state, verb)
    if node.maintenance is not None and verb != "forget":
        raise Conflict(
            "the node is in maintenance",
            where=name,
            cause=str(node.maintenance["reason"]),
            hint=f"provisioner node maintenance {name} --off",
        )
    doors.tell(f"node.{verb}", f"asked for by an operator; it was {node.state}", name, node.deployment)
    return node


def retry(doors: Doors, node: Node) -> Node:
    """Clean again, deploy again from the first step, or hand the same metadata to an instance once more.

    In the transaction that is open.
    """
    store, now = doors.store, doors.clock.now()
    if node.deployment is None:
        return store.nodes.move(node, NodeState.CLEANING, now=now, deployment=None)
    ident = node.deployment
    store.permits.clear(ident)
    if store.deployments.get(ident).state is DeploymentState.ACTIVE:
        known = store.departures.of(ident)
        if known is not None and known.going:
            store.departures.drop(known)  # what was asked for may be asked for again, when it is well
        moved = store.nodes.move(node, NodeState.ACTIVE, now=now, deployment=ident)
        newest = store.clouds.newest(node.name)
        if newest is not None:
            own = {key: value for key, value in json.loads(store.clouds.own_text(newest)).items() if key != DRAIN}
            generation = store.clouds.new_generation(
                node.name, ident, lambda number: {**own, "generation": number}, now, force=True
            )
            assert generation is not None
            announce_generations(doors, [(moved, ident, generation)])
        return store.nodes.get(node.name)
    store.deployments.begin_again(ident)
    store.tokens.drop(ident)
    store.clouds.drop_report(node.name)
    store.nodes.move(node, state_of(store.deployments.get(ident).placement), now=now, deployment=ident)
    store.nodes.set_health(node.name, 0, None, now)
    return store.nodes.get(node.name)


def state_of(placement: Placement) -> NodeState:
    """The state of a node while this run of steps is walked."""
    if not placement.inspects:
        return NodeState.DEPLOYING
    if placement.role == RESCUE:
        return NodeState.RESCUE
    return NodeState.CLEANING if placement.role == CLEANING else NodeState.INSPECTING


def _abort(doors: Doors, node: Node) -> Node:
    if node.state is not NodeState.CLEANING or node.deployment is not None:
        return end_deployment(doors, node, NodeState.CLEANING, "aborted by an operator")
    error = DeployError(
        "cleaning was aborted; the node may still run", where=node.name, hint=f"provisioner node retry {node.name}"
    )
    now = doors.clock.now()
    return doors.store.nodes.move(node, NodeState.FAILED, now=now, deployment=None, failure=error.to_dict())


def _release(doors: Doors, node: Node) -> Node:
    depart(doors, node, Wish("by an operator"))
    return doors.store.nodes.get(node.name)


def _forget(doors: Doors, node: Node) -> Node:
    for ident in deployments_of(doors, node):
        doors.store.deployments.set_state(ident, LIVE, DeploymentState.ENDED, now=doors.clock.now())
        doors.store.permits.clear(ident)
        doors.store.departures.drop_of(ident)
    doors.store.nodes.remove(node.name)
    return node


VERBS: Mapping[str, Callable[[Doors, Node], Node]] = {
    "retry": retry,
    "abort": _abort,
    "release": _release,
    "forget": _forget,
}
