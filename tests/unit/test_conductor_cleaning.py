"""A node that is released or erased: it may run the ramdisk once more, and is available whatever ends meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack, cloud, role

from provisioner.errors import Conflict
from provisioner.model.deployment import EraseLevel, StepName
from provisioner.model.hardware import Power
from provisioner.model.states import NodeState
from provisioner.model.storage import Storage, Volume


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    made = Rack(tmp_path, 1)
    made.enroll()
    return made


def active(rack: Rack) -> None:
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"}
    rack.servers["node1"].orders.clear()


def available(rack: Rack) -> bool:
    return rack.states() == {"node1": "available"}


def test_a_release_may_erase_and_the_next_deployment_is_not_in_the_way_of_the_last(rack: Rack) -> None:
    active(rack)
    node = rack.conductor.release("node1", EraseLevel.QUICK)
    assert node.state is NodeState.CLEANING
    rack.play(until=lambda: available(rack))
    server = rack.servers["node1"]
    assert server.orders == ["erase", "power-off"] and server.order_bodies["erase"]["level"] == "quick"
    assert server.power is Power.OFF
    view = rack.conductor.node("node1")
    assert view.deployment is not None and view.node.hardware is not None
    erased = next(step for step in view.deployment.steps if step.name is StepName.ERASE)
    assert erased.detail["disks"] == {"sda": "discarded"} and "hardware" not in erased.detail
    assert view.node.hardware.disks[0].signatures == ()
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"}, "nothing is in the way"


def test_without_erasing_the_disk_stays_as_it_is(rack: Rack) -> None:
    active(rack)
    guid = rack.servers["node1"].disk_guid
    rack.conductor.release("node1")
    rack.play(until=lambda: available(rack))
    assert rack.servers["node1"].disk_guid == guid and rack.servers["node1"].orders == []


@pytest.mark.parametrize("level", [None, EraseLevel.METADATA])
def test_a_released_node_that_stays_is_deployed_without_another_start(rack: Rack, level: EraseLevel | None) -> None:
    active(rack)
    rack.conductor.release("node1", level, stays=True)
    rack.play(until=lambda: available(rack))
    server = rack.servers["node1"]
    assert server.running == "ramdisk" and server.power is Power.ON
    boots = server.boots
    rack.apply(cloud(1, wipe=("node1",)))
    rack.play()
    assert rack.states() == {"node1": "active"} and server.boots == boots


def test_an_available_node_is_erased(rack: Rack) -> None:
    rack.servers["node1"].disk_guid = "11111111-2222-3333-4444-555555555555"
    rack.conductor.erase("node1", EraseLevel.SECURE)
    rack.play(until=lambda: available(rack))
    assert rack.servers["node1"].disk_guid is None


def test_an_active_node_is_not_erased_under_its_instance(rack: Rack) -> None:
    active(rack)
    with pytest.raises(Conflict, match="not offered"):
        rack.conductor.erase("node1", EraseLevel.METADATA)
    assert rack.states() == {"node1": "active"}


def test_an_erasing_that_fails_is_tried_again_or_given_up(rack: Rack) -> None:
    active(rack)
    server = rack.servers["node1"]
    server.fail_orders["erase"] = "a disk cannot be written"
    rack.conductor.release("node1", EraseLevel.METADATA)
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    assert rack.conductor.verb("node1", "retry").state is NodeState.CLEANING
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    server.fail_orders.clear()
    rack.conductor.verb("node1", "retry")
    rack.play(until=lambda: available(rack))
    assert server.disk_guid is None

    server.deaf_to.add("erase")
    rack.conductor.erase("node1", EraseLevel.METADATA)
    rack.play(until=lambda: "erase" in server.orders[-1:])
    rack.conductor.verb("node1", "abort")
    rack.play(until=lambda: available(rack) and server.power is Power.OFF)


def test_killed_at_any_commit_it_is_erased_and_available(tmp_path: Path) -> None:
    for commit in range(1, 60):
        rack = Rack(tmp_path / str(commit), 1)
        rack.folder.mkdir(exist_ok=True)
        rack.enroll()
        active(rack)
        rack.surviving(lambda rack=rack: rack.conductor.release("node1", EraseLevel.METADATA))  # type: ignore[misc]
        rack.kill_at(commit)
        rack.play(until=lambda rack=rack: available(rack))  # type: ignore[misc]
        assert rack.servers["node1"].disk_guid is None and rack.servers["node1"].power is Power.OFF
        if not rack.restarts:
            assert commit > 10
            return
    raise AssertionError("there is no end")


def test_what_is_kept_is_shut_down_before_its_ramdisk_starts_but_not_before_it_is_erased(tmp_path: Path) -> None:
    volumes = (
        Volume(name="root", disk="root", size="3GiB", mount="/"),
        Volume(name="srv", disk="root", filesystem="ext4", mount="/srv", keep=True),
    )
    for level, asked in ((None, 1), (EraseLevel.METADATA, 0)):
        folder = tmp_path / str(level)
        folder.mkdir()
        rack = Rack(folder, 1, cloud(1, (role(storage=Storage(volumes=volumes)),)))
        rack.enroll()
        active(rack)
        rack.conductor.release("node1", level, stays=True)
        rack.play(until=lambda rack=rack: available(rack))  # type: ignore[misc]
        assert [call for _, call in rack.bmcs.calls].count("soft") == asked
