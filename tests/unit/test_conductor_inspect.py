"""An inspection: the ramdisk boots once and tells all; the node is off and available again, whatever ends meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack

from provisioner.errors import Conflict
from provisioner.model.deployment import INSPECTION_STEPS, StepState
from provisioner.model.hardware import Power
from provisioner.model.states import NodeState


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    made = Rack(tmp_path, 1)
    made.enroll()
    return made


def inspected(rack: Rack) -> bool:
    return rack.states() == {"node1": "available"} and rack.conductor.node("node1").node.hardware is not None


def test_a_node_is_inspected_and_off_again(rack: Rack) -> None:
    assert rack.conductor.inspect("node1").state is NodeState.INSPECTING
    rack.play(until=lambda: inspected(rack))
    view = rack.conductor.node("node1")
    assert view.deployment is not None
    assert [step.name for step in view.deployment.steps] == list(INSPECTION_STEPS)
    assert {step.state for step in view.deployment.steps} == {StepState.DONE}
    assert view.node.hardware is not None and view.node.hardware.processor == "Testing 9000"
    assert rack.servers["node1"].power is Power.OFF
    assert rack.servers["node1"].orders == ["inspect", "power-off"]
    assert rack.servers["node1"].disk_guid is None
    assert view.differences == ()


def test_it_can_be_deployed_afterwards(rack: Rack) -> None:
    rack.conductor.inspect("node1")
    rack.play(until=lambda: inspected(rack))
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_no_other_work_is_taken_on_meanwhile(rack: Rack) -> None:
    rack.conductor.inspect("node1")
    for call in (
        lambda: rack.conductor.inspect("node1"),
        lambda: rack.conductor.set_power("node1", "off"),
        lambda: rack.conductor.verb("node1", "forget"),
    ):
        with pytest.raises(Conflict):
            call()


def test_an_abort_ends_it(rack: Rack) -> None:
    rack.conductor.inspect("node1")
    rack.play(until=lambda: rack.servers["node1"].running == "ramdisk")
    rack.conductor.verb("node1", "abort")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert rack.servers["node1"].power is Power.OFF


def test_what_fails_can_be_tried_again(rack: Rack) -> None:
    rack.servers["node1"].fail_orders["inspect"] = "no memory"
    rack.conductor.inspect("node1")
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "no memory" in failure["summary"]
    rack.servers["node1"].fail_orders.clear()
    assert rack.conductor.verb("node1", "retry").state is NodeState.INSPECTING
    rack.play(until=lambda: inspected(rack))


def commits(tmp_path: Path) -> int:
    """How often the records are written in the life of an inspection."""
    rack = Rack(tmp_path, 1)
    rack.enroll()
    count = 0

    def note() -> None:
        nonlocal count
        count += 1

    rack.on_commit = note
    rack.conductor.inspect("node1")
    rack.play(until=lambda: inspected(rack))
    return count


def test_a_kill_at_any_commit_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "count").mkdir()
    total = commits(tmp_path / "count")
    assert total > 10
    for moment in range(1, total + 1):
        folder = tmp_path / str(moment)
        folder.mkdir()
        rack = Rack(folder, 1)
        rack.enroll()
        rack.kill_at(moment)
        rack.surviving(lambda rack=rack: rack.conductor.inspect("node1"))  # type: ignore[misc]
        rack.play(until=lambda rack=rack: inspected(rack))  # type: ignore[misc]
        assert rack.restarts == 1, moment
        rack.store.close()


# A ramdisk that stays.


def stay(rack: Rack) -> None:
    rack.conductor.inspect("node1", stays=True)
    rack.play(until=lambda: inspected(rack))
    assert rack.servers["node1"].power is Power.ON and rack.servers["node1"].running == "ramdisk"


def test_a_ramdisk_that_stays_takes_the_deployment_on(rack: Rack) -> None:
    stay(rack)
    for _ in range(3):
        rack.live(rack.servers["node1"])
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"}
    server = rack.servers["node1"]
    assert server.boots == 1 and server.orders[:3] == ["inspect", "hello", "storage"]
    view = rack.conductor.node("node1")
    assert view.deployment is not None and view.deployment.steps[3].detail["adopted"] is True


def test_it_may_be_inspected_and_tested_again_where_it_is(rack: Rack) -> None:
    stay(rack)
    rack.conductor.test("node1", (), 60.0, stays=True)
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    rack.conductor.inspect("node1")
    rack.play(until=lambda: rack.states() == {"node1": "available"} and rack.servers["node1"].power is Power.OFF)
    assert rack.servers["node1"].boots == 1


def test_a_ramdisk_that_does_not_answer_is_started_anew(rack: Rack) -> None:
    stay(rack)
    rack.servers["node1"].running = "nothing"
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"} and rack.servers["node1"].boots == 2
    assert any("ramdisk.asleep" in event for event in rack.events())


def test_a_ramdisk_of_another_image_is_started_anew(rack: Rack) -> None:
    stay(rack)
    rack.images.known["ramdisk"] = rack.images.known["ramdisk"].model_copy(update={"id": "ramdisk-111111111111"})
    rack.apply()
    rack.play()
    assert rack.servers["node1"].boots == 2


def test_a_node_that_an_operator_switched_off_is_started_as_ever(rack: Rack) -> None:
    stay(rack)
    rack.conductor.set_power("node1", "off")
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"} and rack.servers["node1"].boots == 2


def test_a_kill_at_any_commit_loses_no_ramdisk_that_stays(tmp_path: Path) -> None:
    for moment in range(1, 30):
        folder = tmp_path / str(moment)
        folder.mkdir()
        rack = Rack(folder, 1)
        rack.enroll()
        stay(rack)
        rack.kill_at(moment)
        rack.surviving(rack.apply)
        if rack.states() == {"node1": "available"}:
            rack.apply()
        rack.play()
        assert rack.states() == {"node1": "active"}, moment
        assert rack.servers["node1"].boots == 1, moment
        rack.store.close()
