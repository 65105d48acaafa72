"""Which node takes a slot, and which addresses it gets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

from provisioner.manifest.cloud import parse_pool
from provisioner.model.deployment import Address, Interface, Node
from provisioner.model.hardware import Firmware, Verdict
from provisioner.model.role import Cloud, Role, RoleUse
from provisioner.model.states import NodeState
from provisioner.plan.wire import Unwired, wire

MIB, GIB = 1 << 20, 1 << 30
KVM = "kvm"
SAID = {Verdict.DEGRADED: "found it degraded", Verdict.FAILED: "failed"}


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts node2 before node10."""
    return [(int(part or -1) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def facts(node: Node) -> dict[str, int | str | bool]:
    """What a role may match on: what the ramdisk saw, and what the hardware file says over it; not of KVM."""
    found: dict[str, int | str | bool] = {}
    if node.hardware is not None:
        largest = max((disk.size for disk in node.hardware.disks), default=0)
        found = {
            "cpus": node.hardware.cpus,
            "memory_mib": node.hardware.memory_mib,
            "disk_gib": largest // GIB,
            "virtualisation": node.hardware.virtualisation,
            "product": node.hardware.product,
        }
    found |= node.spec.properties
    # Only a machine that came into being proves it: what the hardware file says of it does not count.
    found.pop(KVM, None)
    if node.hardware is not None and node.hardware.kvm is not None:
        found[KVM] = node.hardware.kvm
    return found


def why_not(node: Node, role: Role, use: RoleUse, cloud: Cloud) -> str | None:
    """Why a node cannot take a role now; None when it can."""
    if use.nodes and node.name not in use.nodes:
        return "the cloud file does not name it"
    if any(node.name in other.lost for other in cloud.roles.values()):
        return "the cloud file says that it is lost"
    for tag in role.match.tags:
        if tag not in node.spec.tags:
            return f"it has not the tag {tag}"
    known = facts(node)
    for key, wanted in role.match.properties.items():
        given = known.get(key)
        if given is None and key == KVM:
            return f"no inspection has tried KVM on it; provisioner node inspect {node.name}"
        if given is None:
            return f"nothing says its {key}; add it to properties in its hardware file"
        number = isinstance(wanted, int) and not isinstance(wanted, bool)
        if number and isinstance(given, int) and not isinstance(given, bool):
            if given < wanted:  # type: ignore[operator]  # both are numbers here
                return f"its {key} is {given}, the role needs {wanted}"
        elif given != wanted:
            return f"its {key} is {given}, the role needs {wanted}"
    if role.storage.table == "mbr" and node.spec.firmware is Firmware.UEFI:
        return "it has UEFI firmware, and the role's table is an mbr"
    try:
        wire(role, node, cloud)
    except Unwired as error:
        return str(error)
    if node.maintenance is not None:
        return f"it is in maintenance: {node.maintenance['reason']}"
    if node.state is not NodeState.AVAILABLE:
        return f"it is {node.state}"
    for name, test in node.tests.items():
        if test.bad and name not in use.accept.get(node.name, ()):
            accept = f"accept: {{{node.name}: [{name}]}}"
            return f"its {name} test {SAID[test.verdict]} ({test.summary}); mend and test it, or {accept}"
    return None


class Addresses:
    """Hands out the lowest free address of each network's pool."""

    def __init__(self, cloud: Cloud, taken: Iterable[str]) -> None:
        self._cloud = cloud
        self._taken = {text.partition("/")[0] for text in taken}

    def pick(self, carries: Mapping[str, Interface]) -> tuple[Address, ...] | str:
        """An address on each network; or which network has none left.

        :param carries: the interface by the network that lies on it, in the role's order.
        """
        found = []
        for name, interface in carries.items():
            network = self._cloud.networks[name]
            prefix = ipaddress.ip_network(network.cidr).prefixlen
            free = self._free(network.pool)
            if free is None:
                return name
            found.append(
                Address(
                    network=name,
                    address=f"{free}/{prefix}",
                    gateway=network.gateway,
                    dns=network.dns,
                    ntp=network.ntp,
                    routes=network.routes,
                    mtu=network.mtu,
                    mac=interface.mac,
                    interface=interface.name,
                )
            )
        self._taken |= {address.bare for address in found}
        return tuple(found)

    def _free(self, pool: str) -> str | None:
        first, last = parse_pool(pool)
        candidates = (str(first + step) for step in range(int(last) - int(first) + 1))
        return next((text for text in candidates if text not in self._taken), None)


def wasted(reasons: Mapping[str, str], limit: int = 5) -> str:
    """``node1: why; node2: why; and 3 more``."""
    shown = [f"{name}: {why}" for name, why in sorted(reasons.items(), key=lambda item: natural(item[0]))]
    rest = [f"and {len(shown) - limit} more"] if len(shown) > limit else []
    return "; ".join(shown[:limit] + rest)
