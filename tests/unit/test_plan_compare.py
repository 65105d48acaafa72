"""Where a node is not what its hardware file says."""

from __future__ import annotations

from typing import Any

import pytest

from provisioner.model.hardware import (
    BmcAddress,
    Disk,
    Firmware,
    HardwareReport,
    Nic,
    NodeSpec,
    Port,
    SecretRef,
    SwitchPort,
)
from provisioner.plan.compare import compare_hardware

MAC = "52:54:00:00:00:01"
LEAF = SwitchPort(switch="leaf1", port="eth1/7")


def differences(properties: dict[str, Any] | None = None, port: Port | None = None, **seen: Any) -> list[str]:
    bmc = BmcAddress(address="10.0.0.1", username="admin", password=SecretRef(env="UNUSED"))
    spec = NodeSpec(name="a1", bmc=bmc, ports=(port or Port(mac=MAC),), properties=properties or {})
    fields: dict[str, Any] = {
        "cpus": 8,
        "memory_mib": 16000,
        "firmware": Firmware.UEFI,
        "disks": (Disk(name="sda", size=100 << 30),),
        "nics": (Nic(name="eth0", mac=MAC, neighbour=LEAF),),
    }
    return list(compare_hardware(spec, HardwareReport(**fields | seen)))


@pytest.mark.parametrize(
    ("properties", "lines"),
    [
        ({}, []),
        ({"cpus": 8, "memory_mib": 16384, "disk_gib": 100, "rack": "x"}, []),
        ({"cpus": 16}, ["cpus: 8, the file says 16"]),
        ({"memory_mib": 32768}, ["memory_mib: 16000, the file says 32768"]),
        ({"disk_gib": 200}, ["disk_gib: 100, the file says 200"]),
        ({"virtualisation": True}, ["virtualisation: False, the file says True"]),
    ],
)
def test_what_falls_short_is_a_line(properties: dict[str, Any], lines: list[str]) -> None:
    assert differences(properties) == lines


def test_ports_are_compared_with_what_is_plugged_in() -> None:
    assert differences(port=Port(mac=MAC, plugged=LEAF)) == []
    elsewhere = Port(mac=MAC, plugged=SwitchPort(switch="leaf2", port="eth1/7"))
    assert differences(port=elsewhere) == [f"port {MAC} (eth0): plugged into leaf1 eth1/7, not leaf2 eth1/7"]
    assert differences(nics=(Nic(name="eth0", mac=MAC, link=False),)) == [f"port {MAC} (eth0): no link"]
    assert differences(nics=()) == [f"port {MAC}: no network interface has this MAC address"]


def test_another_firmware_is_told() -> None:
    assert differences(firmware=Firmware.BIOS) == ["firmware: it booted by bios, the file says uefi"]


def test_a_controller_that_says_another_address_inside_is_told() -> None:
    assert differences(bmc_address="10.0.0.1") == []
    assert differences(bmc_address="10.0.0.9") == [
        "BMC: the node's own controller has the address 10.0.0.9, the file says 10.0.0.1"
    ]
