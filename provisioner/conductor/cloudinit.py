"""The seed that makes a whole disk one particular instance, as cloud-init's data source NoCloud reads it. Pure.

JSON is YAML, so all three files are written as JSON.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provisioner.conductor.instance import build_hosts
from provisioner.conductor.network import LACP, MONITOR_MS
from provisioner.errors import DeployError
from provisioner.model.deployment import Address, Interface, InterfaceKind, Placement

APP, CONFIG = "/usr/local/lib/provisioner-agent/agent.pyz", "/usr/local/lib/provisioner-agent/agent.json"
"""The agent, and its configuration until it is installed."""
PYTHONS = ("python3", *(f"python3.{minor}" for minor in range(14, 8, -1)), "/usr/libexec/platform-python")
START = (
    f"for python in {' '.join(PYTHONS)}; do command -v $python >/dev/null || continue; found=$python; "
    "$python -c 'import sys; sys.exit(sys.version_info < (3, 9))' && break; done; "
    f'[ -z "$found" ] || exec $found {APP} install; '
    "echo 'provisioner: there is no Python for the config agent' >&2; exit 1"
)
"""The first Python that is new enough installs the agent; one that is not says why it cannot."""
HOSTS = "manage_etc_hosts"
MOST = 7 * 1024 * 1024
"""Bytes of a seed: its volume has 8 MiB."""


def build_seed(
    placement: Placement,
    config: Mapping[str, Any],
    ident: str,
    app: bytes,
    agent: Mapping[str, str],
    members: Sequence[Placement],
) -> list[dict[str, Any]]:
    """``[{"path", "mode", "content"}]`` for the order ``seed-disk``.

    :param config: cloud-config of the role and the cloud; what it says of files and commands comes before ours.
    :param ident: of the deployment: cloud-init does its work anew for each. :param app: the config agent, one file.
    :param agent: what it must know of the service. :param members: of the whole cloud: their names resolve before
        anything is configured, unless cloud-config says how cloud-init is to manage them.
    :raises DeployError: all of it is too large.
    """
    meta = {"instance-id": ident, "local-hostname": placement.hostname}
    known = {**agent, "node": placement.node, "hostname": placement.hostname, "whole_disk": True}
    files = [
        {"path": APP, "permissions": "0644", "encoding": "b64", "content": base64.b64encode(app).decode()},
        {"path": CONFIG, "permissions": "0600", "content": json.dumps(known, indent=1) + "\n"},
    ]
    hosts = {"path": "/etc/hosts", "content": build_hosts(placement, members)}
    names = [] if HOSTS in config else [hosts]
    user = (
        {HOSTS: False}
        | dict(config)
        | {
            "write_files": [*names, *config.get("write_files", ()), *files],
            "runcmd": [*config.get("runcmd", ()), ["sh", "-c", START]],
        }
    )
    servers = list(dict.fromkeys(server for address in placement.addresses for server in address.ntp))
    if servers:
        user.setdefault("ntp", {"enabled": True, "servers": servers})
    texts = {
        "/meta-data": json.dumps(meta),
        "/user-data": f"#cloud-config\n{json.dumps(user)}",
        "/network-config": json.dumps(build_network(placement), indent=1),
    }
    size = sum(map(len, texts.values()))
    if size > MOST:
        raise DeployError(
            "what cloud-init is to read does not fit in its volume",
            where=placement.node,
            cause=f"templates, phase scripts and cloud_config make {size} bytes; {MOST} fit",
            hint=f"make those of {placement.role} smaller, then provisioner node retry {placement.node}",
        )
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
    entry: dict[str, Any] = {"mtu": interface.mtu, "dhcp4": False, "dhcp6": False, "accept-ra": False}
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
