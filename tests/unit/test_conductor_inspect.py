"""An inspection: the ramdisk boots once and tells all; the node is off and available again, whatever ends meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Killed, Rack

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
    assert rack.conductor.verb("node1", "inspect").state is NodeState.INSPECTING
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
    rack.conductor.verb("node1", "inspect")
    rack.play(until=lambda: inspected(rack))
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_no_other_work_is_taken_on_meanwhile(rack: Rack) -> None:
    rack.conductor.verb("node1", "inspect")
    for call in (
        lambda: rack.conductor.verb("node1", "inspect"),
        lambda: rack.conductor.set_power("node1", "off"),
        lambda: rack.conductor.verb("node1", "forget"),
    ):
        with pytest.raises(Conflict):
            call()


def test_an_abort_ends_it(rack: Rack) -> None:
    rack.conductor.verb("node1", "inspect")
    rack.play(until=lambda: rack.servers["node1"].running == "ramdisk")
    rack.conductor.verb("node1", "abort")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert rack.servers["node1"].power is Power.OFF


def test_what_fails_can_be_tried_again(rack: Rack) -> None:
    rack.servers["node1"].fail_orders["inspect"] = "no memory"
    rack.conductor.verb("node1", "inspect")
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
    rack.conductor.verb("node1", "inspect")
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
        left = [moment]

        def strike(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        rack.on_commit = strike
        rack.surviving(lambda rack=rack: rack.conductor.verb("node1", "inspect"))  # type: ignore[misc]
        rack.play(until=lambda rack=rack: inspected(rack))  # type: ignore[misc]
        assert rack.restarts == 1, moment
        rack.store.close()
