"""What the instances of a cloud would load, from its files to the text for nft(8); nothing is planned or deployed."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provisioner.manifest.cloud import parse_desired, parse_pool
from provisioner.metadata.build import build_metadata
from provisioner.model.deployment import Address, Placement
from provisioner.model.role import Desired
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

TREE = Path(__file__).resolve().parents[2] / "templates" / "firewall"
PATH = "/etc/nftables.conf"


def think_members(desired: Desired) -> list[Placement]:
    """Each role's members, one after the other, with the first addresses of the pools."""
    members: list[Placement] = []
    for role, use in desired.cloud.roles.items():
        for index in range(use.count):
            addresses = tuple(
                Address(network=name, address=_address(desired, name, len(members)), mac="52:54:00:00:00:01")
                for name in desired.roles[role].networks
            )
            place = {"cloud": "lab", "role": role, "index": index, "hostname": f"{role}-{index}", "image": ""}
            members.append(Placement.model_validate({**place, "node": f"n-{role}-{index}", "addresses": addresses}))
    return members


def _address(desired: Desired, network: str, number: int) -> str:
    prefix = ipaddress.ip_network(desired.cloud.networks[network].cidr).prefixlen
    return f"{parse_pool(desired.cloud.networks[network].pool)[0] + number}/{prefix}"


def build_document(desired: Desired, role: str, members: list[Placement] | None = None) -> dict[str, Any]:
    """The metadata of a role's first member. :param members: of the whole cloud; those that it should have if None."""
    known = think_members(desired) if members is None else members
    own = next(member for member in think_members(desired) if member.role == role)
    return build_metadata(desired, own, known, "u", {}, 1)


def render_firewall(document: Mapping[str, Any]) -> RenderedFile:
    texts = {str(path.relative_to(TREE)): path.read_text() for path in TREE.rglob("*") if path.is_file()}
    return render_tree(*split_tree(texts), build_data(document))[PATH]


def parse(files: Mapping[str, str]) -> Desired:
    return parse_desired("cloud.yaml", files)
