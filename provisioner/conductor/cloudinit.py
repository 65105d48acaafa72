"""The seed that makes a whole disk one particular instance, as cloud-init's data source NoCloud reads it. Pure.

JSON is YAML, so all three files are written as JSON.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provisioner.conductor.network import LACP, MONITOR_MS
from provisioner.model.deployment import Address, Interface, InterfaceKind, Placement

VISITOR, VISITOR_CONFIG = "/run/provisioner-visitor.pyz", "/run/provisioner-visitor.json"
"""Gone with the first boot: the agent runs once."""
START = (
    f"for python in python3 /usr/libexec/platform-python; do command -v $python >/dev/null && "
    f"exec $python {VISITOR} {VISITOR_CONFIG}; done; echo 'provisioner: there is no Python' >&2; exit 1"
)


def build_seed(
    placement: Placement, values: Mapping[str, Any], ident: str, visitor: bytes, agent: Mapping[str, str]
) -> list[dict[str, Any]]:
    """``[{"path", "mode", "content"}]`` for the order ``seed-disk``.

    :param values: cloud-config of the role and the cloud; what it says of files and commands comes before ours.
    :param ident: of the deployment: cloud-init does its work anew for each. :param visitor: the agent, one file.
    :param agent: what the agent must know of the service.
    """
    meta = {"instance-id": ident, "local-hostname": placement.hostname}
    config = json.dumps(agent)
    packed = base64.b64encode(visitor).decode()
    files = [
        {"path": VISITOR, "permissions": "0600", "encoding": "b64", "content": packed},
        {"path": VISITOR_CONFIG, "permissions": "0600", "content": config},
    ]
    user = dict(values) | {
        "write_files": [*values.get("write_files", ()), *files],
        "runcmd": [*values.get("runcmd", ()), ["sh", "-c", START]],
    }
    servers = list(dict.fromkeys(server for address in placement.addresses for server in address.ntp))
    if servers:
        user.setdefault("ntp", {"enabled": True, "servers": servers})
    texts = {
        "/meta-data": json.dumps(meta),
        "/user-data": f"#cloud-config\n{json.dumps(user)}",
        "/network-config": json.dumps(build_network(placement), indent=1),
    }
    return [{"path": path, "mode": 0o600, "content": f"{text}\n"} for path, text in texts.items()]


def build_network(placement: Placement) -> dict[str, Any]:
    """Network Config Version 2 of cloud-init.

    Ports are found by their MAC address and renamed, since some of its renderers know interfaces by name only.
    """
    config: dict[str, Any] = {"version": 2}
    for interface in placement.interfaces:
        kind, entry = _entry(interface)
        own = [address for address in placement.addresses if address.interface == interface.name]
        config.setdefault(kind, {})[interface.name] = entry | dict(_addresses(own))
    return config


def _entry(interface: Interface) -> tuple[str, dict[str, Any]]:
    """Its section and what it is, without addresses."""
    entry: dict[str, Any] = {"mtu": interface.mtu, "dhcp4": False, "dhcp6": False}
    if interface.kind is InterfaceKind.PORT:
        return "ethernets", entry | {"match": {"macaddress": interface.mac}, "set-name": interface.name}
    if interface.kind is InterfaceKind.VLAN:
        return "vlans", entry | {"id": interface.vlan, "link": interface.over[0]}
    entry |= {"interfaces": list(interface.over), "macaddress": interface.mac}
    if interface.kind is InterfaceKind.BRIDGE:
        return "bridges", entry | {"parameters": {"stp": False, "forward-delay": 0}}
    parameters = {"mode": interface.mode, "mii-monitor-interval": MONITOR_MS}
    if interface.mode == LACP:
        parameters |= {"lacp-rate": "fast", "transmit-hash-policy": "layer3+4"}
    return "bonds", entry | {"parameters": parameters}


def _addresses(addresses: Sequence[Address]) -> Iterator[tuple[str, Any]]:
    if not addresses:
        return
    yield "addresses", [address.address for address in addresses]
    routes = [
        {"to": "::/0" if ipaddress.ip_address(address.gateway).version == 6 else "0.0.0.0/0", "via": address.gateway}
        for address in addresses
        if address.gateway
    ]
    routes += [{"to": route.to, "via": route.via} for address in addresses for route in address.routes]
    if routes:
        yield "routes", routes
    servers = list(dict.fromkeys(server for address in addresses for server in address.dns))
    if servers:
        yield "nameservers", {"addresses": servers}
