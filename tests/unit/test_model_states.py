"""Every state has an exit, every move is legal or refused with the way out."""

from __future__ import annotations

import pytest

from provisioner.errors import Conflict, Problem, error_from_dict
from provisioner.errors import ManifestError as Wrong
from provisioner.model.states import EXITS, MOVES, NodeState, check_move, check_verb


@pytest.mark.parametrize("state", NodeState)
def test_every_state_has_an_exit(state: NodeState) -> None:
    assert EXITS[state]
    assert MOVES[state]
    for verb in EXITS[state]:
        check_verb("n", state, verb)


def test_every_state_is_reached_from_enrolled() -> None:
    seen, todo = set(), [NodeState.ENROLLED]
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += MOVES[state]
    assert seen == set(NodeState)


def test_an_illegal_move_names_the_exits() -> None:
    with pytest.raises(Conflict) as caught:
        check_move("node1", NodeState.ENROLLED, NodeState.ACTIVE)
    assert "forget" in str(caught.value.hint)
    with pytest.raises(Conflict):
        check_verb("node1", NodeState.ACTIVE, "retry")


def test_errors_survive_the_way_through_the_api() -> None:
    error = Conflict("taken", where="node1", cause="galera-0 has it", hint="provisioner node release node1")
    back = error_from_dict(error.to_dict())
    assert type(back) is Conflict
    assert back.to_dict() == error.to_dict()
    wrong = Wrong([Problem("a.yaml:3", "unknown key", "write count")])
    assert error_from_dict(wrong.to_dict()).to_dict() == wrong.to_dict()
