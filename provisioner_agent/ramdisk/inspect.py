"""The order ``inspect``: all of the hardware report, also what takes a while to find out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner_agent.ramdisk.hardware import read_hardware
from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.lldp import ETHERTYPE, parse_frame

KVM_MODULES = ("kvm_intel", "kvm_amd")
MOST_SECONDS = 120.0


def do_inspect(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """:param order: ``lldp_seconds``: how long switches are listened to. :returns: ``{"hardware": report}``."""
    report = read_hardware(host)
    report["kvm"] = report["virtualisation"] and try_kvm(host)
    linked = [nic["name"] for nic in report["nics"] if nic["link"]]
    heard = host.listen(linked, ETHERTYPE, min(float(order.get("lldp_seconds", 0)), MOST_SECONDS))
    for nic in report["nics"]:
        neighbour = parse_frame(heard.get(nic["name"], b""))
        if neighbour is not None:
            nic["neighbour"] = neighbour
    return {"hardware": report}


def try_kvm(host: Host) -> bool:
    """Whether a virtual machine comes into being: the extension may be there and switched off by the firmware."""
    for module in KVM_MODULES:
        host.run(["modprobe", module])
    return host.makes_machine()
