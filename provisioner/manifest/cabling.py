"""The bonds and bridges of a role: each of one kind, each part used once, nothing in a circle."""

from __future__ import annotations

from collections.abc import Iterator

from provisioner.errors import Problem
from provisioner.manifest.check import suggest
from provisioner.manifest.layer import Layer
from provisioner.model.role import INTERFACE, PORT, Role

RESERVED = ("lo", "vlan")


def check_cabling(role: Role, layer: Layer) -> Iterator[Problem]:
    """Whether the physical networks that it names exist, only a node can tell."""
    links, above = role.network.links, dict[str, str]()
    for name, link in links.items():
        where = layer.where(("network", "links", name))
        if not INTERFACE.match(name) or PORT.match(name) or name.startswith(RESERVED):
            what = f"network.links.{name}: not a name for an interface"
            yield Problem(where, what, "write one such as bond0, at most 15 characters, not port0 or vlan9")
        if bool(link.bond) == bool(link.bridge):
            yield Problem(
                where, f"network.links.{name} is to be either a bond or a bridge", "write bond: [port0, port1]"
            )
        for member in link.over:
            if member in above:
                what = f"network.links.{name}: {member} belongs to {above[member]} already"
                yield Problem(where, what, "everything may be part of one link only")
            above.setdefault(member, name)
    for name in links:
        seen, at = {name}, above.get(name)
        while at is not None and at not in seen:
            seen.add(at)
            at = above.get(at)
        if at == name:
            where = layer.where(("network", "links", name))
            yield Problem(where, f"network.links.{name} is made of itself", "take one member out of the circle")
            break
    for network, carrier in role.network.on.items():
        where = layer.where(("network", "on", network))
        if network not in role.networks:
            yield Problem(where, f"network.on: the role has no network {network!r}", suggest(network, role.networks))
        if carrier in above:
            what = f"network.on.{network}: {carrier} is part of {above[carrier]}, which has its addresses"
            yield Problem(where, what, f"write {above[carrier]}")
    for number, network in enumerate(role.networks):
        carrier = role.network.on.get(network, f"port{number}")
        if network not in role.network.on and carrier in above:
            what = f"network.on: {network} would lie on {carrier}, which is part of {above[carrier]}"
            yield Problem(layer.where(("network",)), what, f"write {network}: {above[carrier]}")
