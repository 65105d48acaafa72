"""The audit of a controller: each fault is found on one that has it, and a sound one has none."""

from __future__ import annotations

import pytest

from provisioner.bmc.audit import CLOCK_SECONDS, audit_ipmi, judge_clock
from provisioner.bmc.driver import Way
from provisioner.bmc.rmcp import SHA1_AES
from provisioner.conductor.audit import find_old_firmware
from provisioner.lab.bmcs import Faults, SimulatedBmc, SimulatedRack
from provisioner.model.deployment import Node
from provisioner.model.hardware import BmcAddress, NodeSpec, Port, SecretRef
from provisioner.model.states import NodeState

PASSWORD = "S3cret-of-the-test"


def found(bmc: SimulatedBmc, username: str = "operator") -> dict[str, str]:
    with SimulatedRack([bmc]) as rack:
        findings = audit_ipmi(Way("127.0.0.1", rack.ports[0], username, PASSWORD))
    return {finding.check: finding.risk for finding in findings}


def test_a_sound_controller_has_no_findings() -> None:
    assert found(SimulatedBmc({"operator": PASSWORD})) == {}


@pytest.mark.parametrize(
    ("bmc", "expected"),
    [
        (SimulatedBmc({"operator": PASSWORD}, suites=(SHA1_AES,)), {"no-suite-17": "medium"}),
        (SimulatedBmc({"operator": PASSWORD, "root": "calvin"}), {"default-password": "high"}),
        (SimulatedBmc({"operator": PASSWORD, "root": "something else"}), {}),
        (SimulatedBmc({"operator": PASSWORD, "": ""}), {"null-user": "high"}),
        (SimulatedBmc({"operator": PASSWORD, "": "some"}), {"null-user": "medium"}),
        (SimulatedBmc({"operator": "changeme"}), {"default-password": "high"}),
        (SimulatedBmc({"operator": PASSWORD}, cipher_zero=True), {"cipher-zero": "high"}),
    ],
)
def test_each_fault_is_found(bmc: SimulatedBmc, expected: dict[str, str]) -> None:
    assert found(bmc) == expected


def test_what_does_not_answer_has_no_findings() -> None:
    assert found(SimulatedBmc({}, faults=Faults(silent=True))) == {}


@pytest.mark.parametrize(("off", "count"), [(0.0, 0), (CLOCK_SECONDS, 0), (CLOCK_SECONDS + 1, 1), (-86_400.0, 1)])
def test_a_clock_may_be_off_by_a_minute(off: float, count: int) -> None:
    assert len(judge_clock(1_700_000_000 + off, 1_700_000_000)) == count


def node(name: str, firmware: str | None, product: int = 1) -> Node:
    bmc = BmcAddress(address="10.0.0.1", username="admin", password=SecretRef(env="UNUSED"))
    spec = NodeSpec(name=name, bmc=bmc, ports=(Port(mac="52:54:00:00:00:01"),))
    facts = {"manufacturer_id": 7, "product_id": product, "firmware": firmware}
    return Node(uuid=name, spec=spec, state=NodeState.AVAILABLE, bmc_facts=facts)


def test_firmware_is_old_when_a_sibling_of_the_same_make_has_a_newer_one() -> None:
    rack = [node("a", "1.9"), node("b", "1.10"), node("c", "2.0", product=2), node("d", None)]
    old = {one.name: [finding["cause"] for finding in find_old_firmware(one, rack)] for one in rack}
    assert old == {"a": ["it has 1.9, b has 1.10"], "b": [], "c": [], "d": []}
