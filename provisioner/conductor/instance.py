"""The files that make an image one particular instance. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from provisioner.conductor.network import build_networks
from provisioner.model.deployment import Address, Placement
from provisioner_agent.protocol.messages import AGENT_CONFIG


def build_files(
    placement: Placement,
    members: Sequence[Placement],
    *,
    fstab: str,
    agent: Mapping[str, str],
) -> list[dict[str, Any]]:
    """``[{"path", "mode", "content"}]`` for the order ``seed-instance``.

    :param members: of the whole cloud: their names resolve before anything is configured.
    :param agent: what the config agent must know of the service.
    """
    config = {**agent, "node": placement.node, "hostname": placement.hostname}
    files = [
        _file("/etc/hostname", f"{placement.hostname}\n"),
        _file("/etc/hosts", build_hosts(placement, members)),
        _file("/etc/machine-id", "", 0o444),
        _file("/etc/fstab", fstab),
        _file("/etc/resolv.conf", _resolv(placement.addresses)),
        _file(AGENT_CONFIG, json.dumps(config, indent=1) + "\n", 0o600),
    ]
    return files + [_file(path, text) for path, text in build_networks(placement).items()]


def build_hosts(placement: Placement, members: Sequence[Placement]) -> str:
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    for member in sorted(members, key=lambda member: member.hostname):
        if member.addresses:
            lines.append(f"{member.addresses[0].bare} {member.hostname}")
    if placement.hostname not in {member.hostname for member in members} and placement.addresses:
        lines.append(f"{placement.addresses[0].bare} {placement.hostname}")
    return "\n".join(lines) + "\n"


def _resolv(addresses: Sequence[Address]) -> str:
    servers = list(dict.fromkeys(server for address in addresses for server in address.dns))
    return "".join(f"nameserver {server}\n" for server in servers)


def _file(path: str, content: str, mode: int = 0o644) -> dict[str, Any]:
    return {"path": path, "mode": mode, "content": content}
