"""Another node takes the place of a member."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack, cloud, role

from provisioner.errors import Conflict, ManifestError, NotFound
from provisioner.model.plan import Move


def running(tmp_path: Path, nodes: int = 4) -> Rack:
    rack = Rack(tmp_path, nodes, cloud(2, (role(),)))
    rack.enroll()
    rack.apply()
    rack.play()
    return rack


def test_another_node_takes_the_place_and_all_members_are_told(tmp_path: Path) -> None:
    rack = running(tmp_path)
    before = {member.hostname: member for member in rack.conductor.cloud_status("lab").members}
    plan = rack.conductor.plan_replacement("lab", "web-0", "node4")
    (move,) = (action for action in plan.actions if isinstance(action, Move))
    assert (move.node, move.why, move.drain, move.lost) == ("node1", "it is replaced", False, True)
    assert (move.placement.hostname, move.placement.node) == ("web-0", "node4")
    assert any("web-0 on node1 said last that it is healthy" in note for note in plan.notes)
    assert rack.conductor.cloud_status("lab").members == tuple(before[name] for name in sorted(before)), "a plan only"
    rack.conductor.apply(plan)
    rack.play()
    status = rack.conductor.cloud_status("lab")
    after = {member.hostname: member for member in status.members}
    assert status.ready and after["web-0"].node == "node4" and after["web-1"].node == "node2"
    assert after["web-0"].addresses != before["web-0"].addresses
    assert after["web-1"].generation > before["web-1"].generation, "it is told of the other's address"
    assert rack.states()["node1"] == "available"
    assert rack.conductor.plan(rack.desired).empty


def test_another_member_that_has_failed_is_left_alone(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 4, cloud(2, (role(),)))
    rack.enroll()
    rack.servers["node1"].fail_orders["boot-loader"] = "no room"
    rest = ("node3", "node4")
    rack.apply()
    rack.play(until=lambda: rack.states() == {"node1": "failed", "node2": "active"} | dict.fromkeys(rest, "available"))
    plan = rack.conductor.plan_replacement("lab", "web-1", None)
    assert [action.kind for action in plan.actions] == ["move"]


def test_without_a_name_any_that_matches(tmp_path: Path) -> None:
    rack = running(tmp_path)
    plan = rack.conductor.plan_replacement("lab", "node2", None)
    assert [action.placement.node for action in plan.actions if isinstance(action, Move)] == ["node3"]


def test_one_that_still_works_is_drained_first(tmp_path: Path) -> None:
    rack = running(tmp_path)
    plan = rack.conductor.plan_replacement("lab", "web-0", None, drain=True)
    (move,) = (action for action in plan.actions if isinstance(action, Move))
    assert (move.drain, move.lost) == (True, False) and not any("without being drained" in note for note in plan.notes)
    rack.conductor.apply(plan)
    rack.play()
    status = rack.conductor.cloud_status("lab")
    assert status.ready and {member.hostname: member.node for member in status.members}["web-0"] == "node3"
    assert rack.conductor.plan(rack.desired).empty


def test_who_cannot_take_it_is_named_with_the_reason(tmp_path: Path) -> None:
    rack = running(tmp_path)
    rack.conductor.maintenance("node4", "a new fan")
    with pytest.raises(ManifestError, match=r"node4.*it is in maintenance: a new fan"):
        rack.conductor.plan_replacement("lab", "web-0", "node4")
    with pytest.raises(ManifestError, match=r"node2.*has a place already"):
        rack.conductor.plan_replacement("lab", "web-0", "node2")
    with pytest.raises(NotFound):
        rack.conductor.plan_replacement("lab", "web-0", "node9")
    with pytest.raises(NotFound, match="web-7 is no member"):
        rack.conductor.plan_replacement("lab", "web-7", None)
    with pytest.raises(Conflict, match="is on node1 already") as told:
        rack.conductor.plan_replacement("lab", "web-0", "node1")
    assert told.value.hint == "provisioner node rebuild node1"
    rack.conductor.maintenance("node1", "a new disk")
    with pytest.raises(Conflict, match="in maintenance"):
        rack.conductor.plan_replacement("lab", "web-0", None)


def test_nobody_is_left(tmp_path: Path) -> None:
    rack = running(tmp_path, 2)
    with pytest.raises(ManifestError, match="needs 2 nodes, 1 match"):
        rack.conductor.plan_replacement("lab", "web-0", None)


def test_a_cloud_file_that_names_its_nodes_says_who_takes_a_place(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 3, cloud(2, (role(),), nodes=("node1", "node2")))
    rack.enroll()
    rack.apply()
    with pytest.raises(Conflict, match="names the nodes of web") as told:
        rack.conductor.plan_replacement("lab", "web-0", "node3")
    assert told.value.hint == "write node3 in the place of node1 there, then provisioner apply"
