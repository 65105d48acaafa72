"""Hardware tests as the conductor runs them: recorded whatever comes of them, and in the way of a deployment."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack, cloud

from provisioner.errors import Conflict, GuardFailed, ManifestError
from provisioner.model.deployment import RAMDISK_BOOT, TESTS, StepName
from provisioner.model.hardware import HardwarePart, Power, Verdict
from provisioner.model.states import NodeState

DEGRADED = {"verdict": "degraded", "summary": "sda: 8 sectors wait to be replaced"}


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    made = Rack(tmp_path, 1)
    made.enroll()
    return made


def run_tests(rack: Rack, *parts: HardwarePart, seconds: float = 60.0) -> None:
    assert rack.conductor.test("node1", parts, seconds).state is NodeState.INSPECTING
    rack.play(until=lambda: rack.states()["node1"] in ("available", "failed"))


def verdicts(rack: Rack) -> dict[str, str]:
    return {str(part): str(test.verdict) for part, test in rack.conductor.node("node1").node.tests.items()}


def test_all_parts_are_tested_and_the_node_is_off_again(rack: Rack) -> None:
    run_tests(rack)
    view = rack.conductor.node("node1")
    assert verdicts(rack) == dict.fromkeys(("network", "disk", "memory", "cpu"), "passed")
    assert view.deployment is not None
    assert [step.name for step in view.deployment.steps] == [*RAMDISK_BOOT, *TESTS]
    server = rack.servers["node1"]
    assert server.orders == ["test-network", "test-disk", "test-memory", "test-cpu", "power-off"]
    assert server.power is Power.OFF and server.disk_guid is None
    assert server.order_bodies["test-cpu"]["seconds"] == 60.0
    assert server.order_bodies["test-network"]["macs"] == [server.mac]


def test_one_part_alone_leaves_the_other_results(rack: Rack) -> None:
    rack.servers["node1"].test_results["disk"] = DEGRADED
    run_tests(rack)
    rack.servers["node1"].test_results.clear()
    run_tests(rack, HardwarePart.CPU)
    assert rack.servers["node1"].orders[-2:] == ["test-cpu", "power-off"]
    assert verdicts(rack)["disk"] == "degraded"
    run_tests(rack, HardwarePart.DISK)
    assert verdicts(rack)["disk"] == "passed"


def test_a_bad_result_is_in_the_way_until_it_is_accepted_by_name(rack: Rack) -> None:
    rack.servers["node1"].test_results["disk"] = DEGRADED
    run_tests(rack)
    assert any("test.degraded" in event for event in rack.events())
    with pytest.raises(ManifestError) as caught:
        rack.apply()
    assert "its disk test found it degraded (sda: 8 sectors" in str(caught.value)
    assert "accept: {node1: [disk]}" in str(caught.value)
    with pytest.raises(ManifestError):
        rack.apply(cloud(1, accept={"node1": ["memory"]}))
    rack.apply(cloud(1, accept={"node1": ["disk"]}))
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_a_plan_made_before_a_bad_result_is_not_applied(rack: Rack) -> None:
    plan = rack.conductor.plan(rack.desired)
    rack.servers["node1"].test_results["memory"] = {"verdict": "failed", "summary": "CPU 0: bits"}
    run_tests(rack, HardwarePart.MEMORY)
    with pytest.raises(GuardFailed, match="memory"):
        rack.conductor.apply(plan)


def test_a_server_that_restarts_under_the_load_has_failed_the_test(rack: Rack) -> None:
    server = rack.servers["node1"]
    server.deaf_to.add("test-memory")
    rack.conductor.test("node1", (), 60.0)
    rack.play(until=lambda: "test-memory" in server.orders)
    server.deaf_to.clear()
    server.boot, server.greeted = server.boot + 1, False
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert verdicts(rack) == {"network": "passed", "disk": "passed", "memory": "failed", "cpu": "passed"}
    assert "restarted by itself" in rack.conductor.node("node1").node.tests[HardwarePart.MEMORY].summary


def test_a_server_that_falls_silent_under_the_load_has_failed_the_test(rack: Rack) -> None:
    server = rack.servers["node1"]
    server.deaf_to.add("test-cpu")
    rack.conductor.test("node1", (), 60.0)
    rack.play(until=lambda: rack.states() == {"node1": "failed"}, rounds=200)
    assert verdicts(rack)["cpu"] == "failed"
    server.deaf_to.clear()
    assert rack.conductor.verb("node1", "retry").state is NodeState.INSPECTING
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert verdicts(rack)["cpu"] == "passed"
    assert server.order_bodies["test-cpu"]["seconds"] == 60.0


def test_a_ramdisk_that_cannot_test_is_no_verdict(rack: Rack) -> None:
    rack.servers["node1"].fail_orders["test-disk"] = "this ramdisk does not know the step"
    rack.conductor.test("node1", (), 60.0)
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    assert "disk" not in verdicts(rack)


def test_a_result_that_cannot_be_understood_is_none(rack: Rack) -> None:
    rack.servers["node1"].test_results["disk"] = {"verdict": "wonderful", "summary": ""}
    rack.conductor.test("node1", (), 60.0)
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    assert "disk" not in verdicts(rack)


def test_a_node_at_work_is_not_tested(rack: Rack) -> None:
    rack.apply()
    with pytest.raises(Conflict, match="test is not offered"):
        rack.conductor.test("node1", (), 60.0)


def test_a_restart_of_the_conductor_goes_on_with_the_tests(rack: Rack) -> None:
    rack.conductor.test("node1", (), 60.0)
    rack.play(until=lambda: "test-disk" in rack.servers["node1"].orders)
    rack.restart()
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert set(verdicts(rack).values()) == {str(Verdict.PASSED)}
    view = rack.conductor.node("node1")
    assert view.deployment is not None
    step = next(step for step in view.deployment.steps if step.name is StepName.TEST_DISK)
    assert step.detail["verdict"] == "passed"
