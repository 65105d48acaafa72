"""The sweep: what drifted is told once and put back only where the policy says so; the dead are named; nobody waits."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack

from provisioner.conductor.sweep import restore_power
from provisioner.errors import BmcError, BmcSilent
from provisioner.model.deployment import Node
from provisioner.model.hardware import Power, PowerPolicy
from provisioner.model.states import NodeState
from provisioner.model.status import EnrollItem, SweepResult


def sweep(rack: Rack) -> dict[str, SweepResult]:
    return {result.node: result for result in rack.conductor.sweep()}


def node(rack: Rack, name: str = "node1") -> Node:
    return rack.conductor.node(name).node


def told(rack: Rack, kind: str) -> list[str]:
    return [event for event in rack.events() if f" {kind}: " in event]


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    made = Rack(tmp_path, 2)
    made.enroll()
    return made


def test_what_is_as_it_was_left_changes_nothing(rack: Rack) -> None:
    before = rack.conductor.nodes()
    assert [result.drift for result in sweep(rack).values()] == [None, None]
    assert rack.conductor.nodes() == before


def test_drift_is_told_once_and_over_when_the_power_is_back(rack: Rack) -> None:
    rack.servers["node1"].power = Power.ON
    for _ in range(3):
        seen = sweep(rack)["node1"]
        assert (seen.power, seen.drift and seen.drift["expected"]) == (Power.ON, "off")
        rack.clock.sleep(30)
    assert node(rack).power is Power.ON and node(rack).drift == seen.drift
    assert told(rack, "power.drift") == ["node1 power.drift: the power is on; it was left off"]
    rack.servers["node1"].power = Power.OFF
    assert sweep(rack)["node1"].drift is None
    assert node(rack).drift is None
    assert len(told(rack, "power.drift-over")) == 1


def test_an_operators_command_is_what_is_expected_from_then_on(rack: Rack) -> None:
    rack.servers["node1"].power = Power.ON
    sweep(rack)
    rack.conductor.set_power("node1", "on")
    assert node(rack).drift is None
    assert sweep(rack)["node1"].drift is None


def test_a_question_of_an_operator_also_finds_drift(rack: Rack) -> None:
    rack.servers["node1"].power = Power.ON
    assert rack.conductor.set_power("node1", None) is Power.ON
    drift = node(rack).drift
    assert drift is not None and drift["expected"] == "off"


@pytest.mark.parametrize("policy", list(PowerPolicy))
def test_power_is_put_back_only_where_the_policy_says_so(rack: Rack, policy: PowerPolicy) -> None:
    spec = rack.servers["node1"].spec.model_copy(update={"power_policy": policy})
    assert [r.changes for r in rack.conductor.enroll([EnrollItem(spec=spec, password=rack.bmcs.password)])] == (
        [("power_policy: report → restore",)] if policy is PowerPolicy.RESTORE else [()]
    )
    rack.servers["node1"].power = Power.ON
    sweep(rack)
    for name in rack.servers:
        restore_power(rack.conductor._doors, name)
    put_back = policy is PowerPolicy.RESTORE
    assert rack.servers["node1"].power is (Power.OFF if put_back else Power.ON)
    assert (node(rack).drift is None) is put_back
    assert len(told(rack, "power.restored")) == put_back


def test_a_dead_controller_is_told_once_and_again_when_it_is_back(rack: Rack) -> None:
    rack.bmcs.silent.add("10.77.1.1")
    for _ in range(3):
        seen = sweep(rack)
        assert seen["node1"].error and seen["node1"].error["error"] == BmcSilent.__name__
        assert seen["node2"].power is Power.OFF
    error = node(rack).bmc_error
    assert error is not None and error["where"] == "10.77.1.1"
    assert len(told(rack, "bmc.lost")) == 1
    rack.bmcs.silent.clear()
    assert sweep(rack)["node1"].error is None
    assert node(rack).bmc_error is None
    assert len(told(rack, "bmc.back")) == 1


def test_a_node_that_is_worked_on_does_not_drift(rack: Rack) -> None:
    rack.apply()
    rack.conductor.tick()
    assert node(rack).state is NodeState.DEPLOYING
    rack.servers["node1"].power = Power.OFF
    assert sweep(rack)["node1"].drift is None
    assert told(rack, "power.drift") == []


def test_an_answer_that_comes_after_the_node_was_moved_means_nothing(rack: Rack) -> None:
    results = rack.conductor.sweep()
    assert next(results).node == "node1"
    rack.servers["node2"].power = Power.ON
    rack.conductor.set_power("node2", "on")
    rack.servers["node2"].power = Power.OFF
    assert [(result.node, result.drift) for result in results] == [("node2", None)]
    assert node(rack, "node2").power is Power.ON


def test_a_node_forgotten_meanwhile_is_left_out(rack: Rack) -> None:
    results = rack.conductor.sweep()
    next(results)
    rack.conductor.verb("node2", "forget")
    assert list(results) == []


def test_who_was_asked_to_end_and_took_long_is_not_switched_on_again(rack: Rack) -> None:
    spec = rack.servers["node1"].spec.model_copy(update={"power_policy": PowerPolicy.RESTORE})
    list(rack.conductor.enroll([EnrollItem(spec=spec, password=rack.bmcs.password)]))
    rack.conductor.set_power("node1", "on")
    rack.bmcs.ignores_soft = True
    with pytest.raises(BmcError):
        rack.conductor.set_power("node1", "soft")

    def look() -> Power:
        for seen in sweep(rack).values():
            if seen.drift is not None:
                restore_power(rack.conductor._doors, seen.node)
        return rack.servers["node1"].power

    assert look() is Power.ON, "its power is not taken away either"
    rack.servers["node1"].power = Power.OFF
    assert (look(), look()) == (Power.OFF, Power.OFF)
    assert node(rack).drift is None and node(rack).power is Power.OFF
