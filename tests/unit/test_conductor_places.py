"""Two plans made at the same time: only the first gets a name, and an address."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack, cloud, role

from provisioner.errors import GuardFailed
from provisioner.model.plan import Deploy, Move
from provisioner.model.role import Desired, RoleUse


def named(desired: Desired, name: str) -> Desired:
    return desired.model_copy(update={"cloud": desired.cloud.model_copy(update={"cloud": name})})


def ready(folder: Path) -> Rack:
    rack = Rack(folder, 3, cloud(1, nodes=("node1",)))
    rack.enroll()
    return rack


def test_a_name_is_given_out_once(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    first, second = rack.conductor.plan(rack.desired), rack.conductor.plan(cloud(1, nodes=("node2",)))
    rack.conductor.apply(first)
    with pytest.raises(GuardFailed) as failed:
        rack.conductor.apply(second)
    assert (failed.value.where, failed.value.cause) == ("node2", "web-0 of lab is on node1 meanwhile")
    rack.play()
    assert rack.states() == {"node1": "active", "node2": "available", "node3": "available"}


def test_an_address_is_given_out_once_also_to_another_cloud(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    other = named(cloud(1, nodes=("node2",)), "other")
    first, second = rack.conductor.plan(rack.desired), rack.conductor.plan(other)
    rack.conductor.apply(first)
    with pytest.raises(GuardFailed, match="nothing was done") as failed:
        rack.conductor.apply(second)
    assert failed.value.cause == "10.77.0.20 is the address of web-0 of lab meanwhile"
    rack.conductor.apply(rack.conductor.plan(other))
    addresses = {one.placement.addresses[0].bare for one in rack.store.deployments.live()}
    assert addresses == {"10.77.0.20", "10.77.0.21"}


def test_the_address_of_a_member_that_moves_is_given_out_once(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    rack.apply()
    rack.play()
    moves = rack.conductor.plan(cloud(1, nodes=("node2",)))
    other = named(cloud(1, nodes=("node3",)), "other")
    rack.conductor.apply(rack.conductor.plan(other))
    with pytest.raises(GuardFailed) as failed:
        rack.conductor.apply(moves)
    assert failed.value.where == "node2"
    assert failed.value.cause == "10.77.0.21 is the address of web-0 of other meanwhile"
    rack.apply(cloud(1, nodes=("node2",)))
    rack.play()
    addresses = [one.placement.addresses[0].bare for one in rack.store.deployments.live()]
    assert sorted(addresses) == ["10.77.0.21", "10.77.0.22"]


def test_what_was_promised_to_a_member_that_now_moves_elsewhere_is_free(tmp_path: Path) -> None:
    def says(app: tuple[str, ...], web: tuple[str, ...]) -> Desired:
        desired = cloud(1, (role("app"), role()))
        roles = {"app": RoleUse(count=len(app), nodes=app), "web": RoleUse(count=len(web), nodes=web)}
        return desired.model_copy(update={"cloud": desired.cloud.model_copy(update={"roles": roles})})

    rack = Rack(tmp_path, 5, says(("node1",), ("node2",)))
    rack.servers["node2"].drain_scripts, rack.servers["node2"].drain = 1, "failed"
    rack.enroll()
    rack.apply()
    rack.play()
    rack.apply(says(("node1",), ("node3",)))
    rack.play()
    plan = rack.conductor.plan(says(("node1", "node4"), ("node5",)))
    given = {type(one): one.placement.addresses[0].bare for one in plan.actions if isinstance(one, Deploy | Move)}
    assert given == {Deploy: "10.77.0.22", Move: "10.77.0.23"}, "it was to have the first of them on node3"
    rack.servers["node2"].drain = "drained"
    rack.conductor.apply(plan)
    rack.play()
    assert {one.placement.node for one in rack.store.deployments.live()} == {"node1", "node4", "node5"}
