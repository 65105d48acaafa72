"""A node is looked at from the ramdisk: it keeps its place, its disks and its metadata, and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack, cloud
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioner.errors import Conflict, UsageError
from provisioner.model.deployment import StepName
from provisioner.model.hardware import BootDevice, Power
from provisioner.model.plan import Release
from provisioner.model.states import NodeState

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJhc2U2NGJhc2U2NGJhc2U2NGJhc2U2NGJhc2U2NGJh operator@desk"


def ready(folder: Path, count: int = 1) -> Rack:
    rack = Rack(folder, count)
    rack.enroll()
    rack.apply()
    rack.play()
    return rack


def is_open(rack: Rack, name: str = "node1") -> bool:
    deployment = rack.conductor.node(name).deployment
    assert deployment is not None
    return any(step.name is StepName.RESCUE and step.detail.get("open") for step in deployment.steps)


def test_into_the_ramdisk_and_back(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    server, before = rack.servers["node1"], rack.conductor.node("node1").node
    disk, files = server.disk_guid, dict(server.files)
    rack.conductor.rescue("node1", [KEY])
    rack.play(until=lambda: is_open(rack))
    assert server.running == "ramdisk" and server.order_bodies["rescue"]["keys"] == [KEY]
    view = rack.conductor.node("node1")
    assert view.exits == ("rescue --off",) and view.node.state is NodeState.RESCUE
    step = next(step for step in view.deployment.steps if step.name is StepName.RESCUE) if view.deployment else None
    assert step is not None and "ssh root@10.77.0.100" in step.detail["waiting"] and step.detail["fingerprint"]
    status = rack.conductor.cloud_status("lab")
    assert {member.node for member in status.members} == {"node1", "node2"} and not status.ready
    assert rack.conductor.plan(rack.desired).actions == ()
    for _ in range(30):
        rack.conductor.tick()
        rack.clock.sleep(3600)
    assert rack.states()["node1"] == "rescue", "as long as somebody likes"
    rack.conductor.end_rescue("node1")
    rack.play()
    after = rack.conductor.node("node1").node
    assert (after.state, after.deployment, after.generation) == (NodeState.ACTIVE, before.deployment, before.generation)
    assert (server.running, server.device, server.disk_guid, server.files) == ("instance", BootDevice.DISK, disk, files)
    assert rack.conductor.cloud_status("lab").ready


@settings(max_examples=12, deadline=None)
@given(commit=st.integers(1, 24))
def test_killed_at_any_commit_on_the_way(tmp_path_factory: pytest.TempPathFactory, commit: int) -> None:
    rack = ready(tmp_path_factory.mktemp("rack"))
    before = rack.conductor.node("node1").node.deployment
    rack.conductor.rescue("node1", ())
    rack.kill_at(commit)
    rack.play(until=lambda: is_open(rack))
    rack.surviving(lambda: rack.conductor.end_rescue("node1") and None)
    rack.play()
    node = rack.conductor.node("node1").node
    assert (node.state, node.deployment) == (NodeState.ACTIVE, before)


def test_a_failed_member_is_looked_at_and_is_as_it_was_afterwards(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.servers["node1"].fail_orders["boot-loader"] = "no room"
    rack.apply()
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    failure = rack.conductor.node("node1").node.failure
    rack.conductor.rescue("node1", ())
    rack.play(until=lambda: is_open(rack))
    rack.conductor.end_rescue("node1")
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    assert rack.conductor.node("node1").node.failure == failure
    rack.servers["node1"].fail_orders.clear()
    rack.conductor.verb("node1", "retry")
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_a_ramdisk_that_does_not_come_up_can_be_given_up(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    before = rack.conductor.node("node1").node.deployment
    rack.conductor.rescue("node1", ())
    for _ in range(600):
        rack.conductor.tick()
        rack.clock.sleep(3)
    assert rack.states() == {"node1": "failed"}
    assert [member.node for member in rack.conductor.cloud_status("lab").members] == ["node1"], "it keeps its place"
    rack.conductor.end_rescue("node1")
    rack.play()
    node = rack.conductor.node("node1").node
    assert (node.state, node.deployment) == (NodeState.ACTIVE, before)


def test_whoever_gives_a_failed_rescue_up_with_the_node_frees_its_place(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    rack.conductor.rescue("node1", ())
    for _ in range(600):
        rack.conductor.tick()
        rack.clock.sleep(3)
    rack.conductor.verb("node1", "abort")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert rack.conductor.cloud_status("lab").members == () and rack.servers["node1"].power is Power.OFF
    rack.apply(cloud(1, wipe=("node1",)))
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_a_plan_leaves_a_node_that_is_rescued(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    rack.conductor.rescue("node2", ())
    plan = rack.conductor.plan(cloud(1, remove=("web-1",)))
    assert not any(isinstance(action, Release) for action in plan.actions)
    assert any("in rescue" in note for note in plan.notes)


def test_what_is_refused(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    with pytest.raises(Conflict, match="not offered"):
        rack.conductor.rescue("node1", ())
    with pytest.raises(Conflict, match="in no rescue"):
        rack.conductor.end_rescue("node1")
    rack.apply()
    rack.play()
    for key in ("hello", KEY + "\nssh-rsa " + "A" * 60, 'command="sh" ' + KEY):
        with pytest.raises(UsageError, match="no public key"):
            rack.conductor.rescue("node1", [key])
    assert rack.states() == {"node1": "active"}
