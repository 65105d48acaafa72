"""The document from which an instance configures itself. Pure: the same arguments give the same document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provisioner.manifest.values import build_shared
from provisioner.metadata.firewall import build_firewall
from provisioner.model.deployment import Placement
from provisioner.model.role import Desired
from provisioner_agent.protocol.parts import PARTS, join_parts


def build_metadata(
    desired: Desired,
    placement: Placement,
    members: Sequence[Placement],
    node_uuid: str,
    secrets: Mapping[str, str],
    generation: int,
) -> dict[str, Any]:
    """One generation of an instance's metadata, whole.

    :param placement: of the instance. :param members: of the whole cloud, the instance's own among them.
    :param secrets: those of the role, by name. :param generation: grows with each document that differs.
    :returns: ``cloud role node members values secrets firewall`` are what templates see (``values`` at the top level);
        ``health`` are the probes that the agent runs, ``permit`` says that it asks before it switches.
    """
    own = build_own(placement, node_uuid, secrets, generation)
    return join_parts(own, (build_role(desired, placement.role, members), build_members(desired, members)))


def build_own(
    placement: Placement, node_uuid: str, secrets: Mapping[str, str], generation: int, parts: Sequence[str] = ()
) -> dict[str, Any]:
    """What an instance shares with no other, and the ids of the parts that it shares."""
    return {
        "generation": generation,
        "node": {
            "name": placement.node,
            "uuid": node_uuid,
            "hostname": placement.hostname,
            "index": placement.index,
            "address": placement.addresses[0].bare,
            "addresses": [address.model_dump(mode="json") for address in placement.addresses],
            "interfaces": [interface.model_dump(mode="json") for interface in placement.interfaces],
        },
        "secrets": dict(sorted(secrets.items())),
        "permit": True,
        PARTS: list(parts),
    }


def build_role(desired: Desired, role: str, members: Sequence[Placement]) -> dict[str, Any]:
    """The same for all members of a role. :param members: of the whole cloud."""
    firewall = build_firewall(desired, role, members)
    shared = {"cloud": {"name": desired.cloud.cloud}, **build_shared(desired, role)}
    return shared if firewall is None else {**shared, "firewall": firewall}


def build_members(desired: Desired, members: Sequence[Placement]) -> dict[str, Any]:
    """The same for all members of a cloud: each role's by index; also roles without one yet, for templates to ask."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in desired.cloud.roles}
    for member in sorted(members, key=lambda member: (member.role, member.index)):
        found.setdefault(member.role, []).append(
            {
                "hostname": member.hostname,
                "node": member.node,
                "index": member.index,
                "address": member.addresses[0].bare,
            }
        )
    return {"members": found}
