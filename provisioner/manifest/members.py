"""Checks of what a cloud file says of single members: who goes, and whose node is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from provisioner.errors import Problem
from provisioner.manifest.layer import Layer
from provisioner.model.role import RoleUse


def check_members(uses: Mapping[str, RoleUse], layer: Layer) -> Iterator[Problem]:
    for name, use in uses.items():
        member = re.compile(rf"^{re.escape(name)}-(0|[1-9]\d*)$")
        for number, hostname in enumerate(use.remove):
            if not member.match(hostname):
                what = f"roles.{name}.remove: {hostname!r} is no member of {name}"
                yield Problem(layer.where(("roles", name, "remove", number)), what, f"write a host name, as {name}-1")
        left = [node for node in use.nodes if node not in use.lost]
        if use.nodes and len(left) < use.count <= len(use.nodes):
            what = f"roles.{name}.count is {use.count}, but of the nodes that are named {len(left)} are not lost"
            yield Problem(layer.where(("roles", name, "lost")), what, "name more nodes or lower the count")
