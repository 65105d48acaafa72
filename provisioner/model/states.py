"""The life cycle of a node: its states, the legal moves between them, and each state's exits."""

from __future__ import annotations

from enum import StrEnum

from provisioner.errors import Conflict


class NodeState(StrEnum):
    ENROLLED = "enrolled"
    INSPECTING = "inspecting"
    AVAILABLE = "available"
    DEPLOYING = "deploying"
    ACTIVE = "active"
    CLEANING = "cleaning"
    RESCUE = "rescue"
    FAILED = "failed"


AT_WORK = frozenset({NodeState.INSPECTING, NodeState.DEPLOYING, NodeState.CLEANING, NodeState.RESCUE})
"""States in which the conductor works on a node and switches its power by itself."""

MOVES: dict[NodeState, frozenset[NodeState]] = {
    NodeState.ENROLLED: frozenset({NodeState.INSPECTING, NodeState.AVAILABLE, NodeState.FAILED}),
    NodeState.INSPECTING: frozenset({NodeState.AVAILABLE, NodeState.CLEANING, NodeState.FAILED}),
    NodeState.AVAILABLE: frozenset({NodeState.INSPECTING, NodeState.DEPLOYING, NodeState.CLEANING, NodeState.FAILED}),
    NodeState.DEPLOYING: frozenset({NodeState.ACTIVE, NodeState.CLEANING, NodeState.FAILED}),
    NodeState.ACTIVE: frozenset({NodeState.CLEANING, NodeState.DEPLOYING, NodeState.RESCUE, NodeState.FAILED}),
    NodeState.CLEANING: frozenset({NodeState.AVAILABLE, NodeState.ENROLLED, NodeState.FAILED}),
    NodeState.RESCUE: frozenset({NodeState.ACTIVE, NodeState.FAILED}),
    NodeState.FAILED: frozenset(set(NodeState) - {NodeState.FAILED, NodeState.ENROLLED}),
}

EXITS: dict[NodeState, tuple[str, ...]] = {
    NodeState.ENROLLED: ("inspect", "test", "forget"),
    NodeState.INSPECTING: ("abort",),
    NodeState.AVAILABLE: ("inspect", "test", "erase", "forget"),
    NodeState.DEPLOYING: ("abort",),
    NodeState.ACTIVE: ("release", "rebuild", "rescue"),
    NodeState.CLEANING: ("abort",),
    NodeState.RESCUE: ("rescue --off",),
    NodeState.FAILED: ("retry", "rebuild", "rescue", "abort", "forget"),
}
"""The operator's verbs that each state offers; ``provisioner node --help`` and the server read this table."""


def exits_of(state: NodeState, maintenance: object) -> tuple[str, ...]:
    """:param maintenance: what is on record of it; None when the node is in none."""
    return EXITS[state] if maintenance is None else ("maintenance --off", *({"forget"} & set(EXITS[state])))


def check_move(node: str, old: NodeState, new: NodeState) -> None:
    """Raise :class:`~provisioner.errors.Conflict` unless a node may go from ``old`` to ``new``."""
    if new is not old and new not in MOVES[old]:
        raise Conflict(
            f"a node that is {old} cannot become {new}",
            where=node,
            hint=f"from {old} the exits are: {', '.join(EXITS[old])}",
        )


def check_verb(node: str, state: NodeState, verb: str) -> None:
    """Raise :class:`~provisioner.errors.Conflict` unless ``state`` offers the operator's ``verb``."""
    if verb not in EXITS[state]:
        raise Conflict(
            f"{verb} is not offered for a node that is {state}",
            where=node,
            hint=f"from {state} the exits are: {', '.join(EXITS[state])}",
        )
