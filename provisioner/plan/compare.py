"""What a node is made of against what its hardware file says. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from provisioner.model.hardware import HardwareReport, NodeSpec, Port

GIB = 1 << 30
TOLERANCE = 0.06
"""Part by which a size may fall short: firmware keeps memory for itself, and a disk of 900 GB has 838 GiB."""


def is_address(text: str) -> bool:
    """Whether it is an IPv4 address, and no name that may stand for one."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def compare_hardware(spec: NodeSpec, seen: HardwareReport) -> Iterator[str]:
    """Each difference as a line; nothing where the file says nothing."""
    yield from compare_ports(spec.ports, seen)
    if seen.bmc_address and is_address(spec.bmc.address) and seen.bmc_address != spec.bmc.address:
        yield f"BMC: the node's own controller has the address {seen.bmc_address}, the file says {spec.bmc.address}"
    if seen.firmware is not spec.firmware:
        yield f"firmware: it booted by {seen.firmware}, the file says {spec.firmware}"
    largest = max((disk.size for disk in seen.disks), default=0) // GIB
    for key, is_so in (("cpus", seen.cpus), ("memory_mib", seen.memory_mib), ("disk_gib", largest)):
        should_be = spec.properties.get(key)
        if isinstance(should_be, int) and not isinstance(should_be, bool) and is_so < should_be * (1 - TOLERANCE):
            yield f"{key}: {is_so}, the file says {should_be}"
    for key, said in (("product", seen.product), ("arch", seen.arch), ("virtualisation", seen.virtualisation)):
        wanted = spec.properties.get(key)
        if wanted is not None and wanted != said:
            yield f"{key}: {said}, the file says {wanted}"


def compare_ports(ports: Iterable[Port], seen: HardwareReport) -> Iterator[str]:
    known = {nic.mac: nic for nic in seen.nics}
    for port in ports:
        nic = known.get(port.mac)
        if nic is None:
            yield f"port {port.mac}: no network interface has this MAC address"
            continue
        if not nic.link:
            yield f"port {port.mac} ({nic.name}): no link"
        if port.plugged and nic.neighbour and port.plugged != nic.neighbour:
            there, should = (f"{end.switch} {end.port}" for end in (nic.neighbour, port.plugged))
            yield f"port {port.mac} ({nic.name}): plugged into {there}, not {should}"
