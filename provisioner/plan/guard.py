"""What a plan relied on, held against a node when the action runs."""

from __future__ import annotations

from collections.abc import Iterable

from provisioner.errors import GuardFailed
from provisioner.model.deployment import Node, Placement
from provisioner.model.plan import Action, Deploy, Guard, Move

TAKEN = "what the node was to have was given out"


def build_guard(node: Node) -> Guard:
    bad = tuple(sorted(part for part, test in node.tests.items() if test.bad))
    return Guard(state=node.state, deployment=node.deployment, generation=node.generation, bad_tests=bad)


def check_guard(action: Action, node: Node) -> None:
    """:raises GuardFailed: the node is not any more what the plan saw."""
    _check(action.guard, node)


def check_target(action: Move, node: Node) -> None:
    """:raises GuardFailed: the node to which a member is to move is not any more what the plan saw."""
    _check(action.target, node)


def check_places(actions: Iterable[Action], held: Iterable[Placement]) -> None:
    """Two plans that were made at the same time may have chosen the same name or address for different nodes.

    :param held: all that is in a place, or is promised one; not what was promised to a member that one of these moves.
    :raises GuardFailed: a name or an address that the plan gives out is another node's meanwhile.
    """
    slots: dict[tuple[str, str, int], Placement] = {}
    addresses: dict[str, Placement] = {}
    for placement in held:
        slots[placement.cloud, placement.role, placement.index] = placement
        addresses |= {address.bare: placement for address in placement.addresses}
    for action in actions:
        if isinstance(action, Deploy | Move):
            new = action.placement
            taken = slots.get((new.cloud, new.role, new.index))
            if taken is not None and isinstance(action, Deploy):
                raise _changed(new.node, TAKEN, f"{taken.hostname} of {taken.cloud} is on {taken.node} meanwhile")
            for address in new.addresses:
                if (other := addresses.get(address.bare)) is not None:
                    cause = f"{address.bare} is the address of {other.hostname} of {other.cloud} meanwhile"
                    raise _changed(new.node, TAKEN, cause)


def _check(planned: Guard, node: Node) -> None:
    found = build_guard(node)
    if planned == found:
        return
    if planned.state is not found.state:
        cause = f"it was {planned.state} and is {found.state}"
    elif planned.deployment != found.deployment:
        cause = "it has another deployment"
    elif planned.bad_tests != found.bad_tests:
        cause = f"its hardware tests are bad for {', '.join(found.bad_tests) or 'no part any more'}"
    else:
        cause = f"its metadata was at generation {planned.generation} and is at {found.generation}"
    raise _changed(node.name, "the node has changed", cause)


def _changed(node: str, what: str, cause: str) -> GuardFailed:
    return GuardFailed(
        f"{what} since the plan was made; nothing was done",
        where=node,
        cause=cause,
        hint="make the plan again: provisioner plan CLOUD.yaml",
    )
