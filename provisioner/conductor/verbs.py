"""The operator's verbs: the exits of :data:`provisioner.model.states.EXITS`, done."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence

from provisioner.conductor.clouds import announce_generation, end_deployment
from provisioner.conductor.doors import Doors
from provisioner.errors import DeployError, UsageError
from provisioner.model.deployment import (
    INSPECTION_STEPS,
    RAMDISK_BOOT,
    TESTS,
    DeploymentState,
    Node,
    Placement,
    StepName,
    build_inspection,
    build_test,
)
from provisioner.model.hardware import HardwarePart
from provisioner.model.states import NodeState, check_verb
from provisioner.store.deployments import LIVE


def do_verb(doors: Doors, name: str, verb: str) -> Node:
    """Do ``retry``, ``abort``, ``release`` or ``forget``; the node as it is then, or was for ``forget``.

    :raises UsageError: there is no such verb. :raises Conflict: the node's state does not offer it.
    """
    action = VERBS.get(verb)
    if action is None:
        raise UsageError(f"there is no verb {verb}", where=name, hint=f"the verbs are: {', '.join(VERBS)}")
    with doors.store.transaction():
        node = doors.store.nodes.get(name)
        check_verb(name, node.state, verb)
        doors.tell(f"node.{verb}", f"asked for by an operator; it was {node.state}", name, node.deployment)
        return action(doors, node)


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


def _begin(doors: Doors, name: str, verb: str, placement: Placement, steps: Sequence[StepName]) -> Node:
    ident, now = str(uuid.uuid4()), doors.clock.now()
    with doors.store.transaction():
        node = doors.store.nodes.get(name)
        check_verb(name, node.state, verb)
        doors.tell(f"node.{verb}", f"asked for by an operator; it was {node.state}", name)
        doors.store.deployments.add(ident, placement, now, steps)
        return doors.store.nodes.move(node, NodeState.INSPECTING, now=now, deployment=ident)


def _retry(doors: Doors, node: Node) -> Node:
    """Clean again, deploy again from the first step, or hand the same metadata to an instance once more."""
    store, now = doors.store, doors.clock.now()
    if node.deployment is None:
        return store.nodes.move(node, NodeState.CLEANING, now=now, deployment=None)
    ident = node.deployment
    store.permits.clear(ident)
    if store.deployments.get(ident).state is DeploymentState.ACTIVE:
        moved = store.nodes.move(node, NodeState.ACTIVE, now=now, deployment=ident)
        newest = store.clouds.newest(node.name)
        if newest is not None:
            generation = store.clouds.new_generation(
                node.name, ident, lambda number: {**newest.document, "generation": number}, now, force=True
            )
            assert generation is not None
            announce_generation(doors, moved, ident, generation)
        return store.nodes.get(node.name)
    store.deployments.begin_again(ident)
    store.tokens.drop(ident)
    store.clouds.drop_report(node.name)
    inspects = store.deployments.get(ident).placement.inspects
    store.nodes.move(node, NodeState.INSPECTING if inspects else NodeState.DEPLOYING, now=now, deployment=ident)
    store.nodes.set_health(node.name, 0, None, now)
    return store.nodes.get(node.name)


def _abort(doors: Doors, node: Node) -> Node:
    if node.state is not NodeState.CLEANING:
        return end_deployment(doors, node, NodeState.CLEANING, "aborted by an operator")
    error = DeployError(
        "cleaning was aborted; the node may still run", where=node.name, hint=f"provisioner node retry {node.name}"
    )
    now = doors.clock.now()
    return doors.store.nodes.move(node, NodeState.FAILED, now=now, deployment=None, failure=error.to_dict())


def _release(doors: Doors, node: Node) -> Node:
    return end_deployment(doors, node, NodeState.CLEANING, "released by an operator")


def _forget(doors: Doors, node: Node) -> Node:
    if node.deployment is not None:
        ended = DeploymentState.ENDED
        doors.store.deployments.set_state(node.deployment, LIVE, ended, now=doors.clock.now())
        doors.store.permits.clear(node.deployment)
    doors.store.nodes.remove(node.name)
    return node


VERBS: Mapping[str, Callable[[Doors, Node], Node]] = {
    "retry": _retry,
    "abort": _abort,
    "release": _release,
    "forget": _forget,
}
