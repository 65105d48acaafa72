"""What a plan relied on, held against a node when the action runs."""

from __future__ import annotations

from provisioner.errors import GuardFailed
from provisioner.model.deployment import Node
from provisioner.model.plan import Action, Guard, Move


def build_guard(node: Node) -> Guard:
    bad = tuple(sorted(part for part, test in node.tests.items() if test.bad))
    return Guard(state=node.state, deployment=node.deployment, generation=node.generation, bad_tests=bad)


def check_guard(action: Action, node: Node) -> None:
    """:raises GuardFailed: the node is not any more what the plan saw."""
    _check(action.guard, node)


def check_target(action: Move, node: Node) -> None:
    """:raises GuardFailed: the node to which a member is to move is not any more what the plan saw."""
    _check(action.target, node)


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
    raise GuardFailed(
        "the node has changed since the plan was made; nothing was done",
        where=node.name,
        cause=cause,
        hint="make the plan again: provisioner plan CLOUD.yaml",
    )
