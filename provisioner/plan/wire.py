"""How a role's networks lie on a node's ports: bonds, bridges and VLANs by name. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from provisioner.model.deployment import Interface, InterfaceKind, Node
from provisioner.model.hardware import Port
from provisioner.model.role import PORT, Cloud, Role

VLAN_NAME = "vlan{}"


class Unwired(Exception):
    """Why a role's networks cannot lie on a node's ports."""


def wire(role: Role, node: Node, cloud: Cloud) -> tuple[dict[str, Interface], tuple[Interface, ...]]:
    """(network → the interface that carries it, all interfaces, those that others lie on first).

    Without ``network`` in the role, each network has a port of its own, in the order of both.

    :raises Unwired: the node lacks a port.
    """
    return _Wiring(role, node, cloud).result()


class _Wiring:
    def __init__(self, role: Role, node: Node, cloud: Cloud) -> None:
        self.role, self.ports, self.cloud = role, node.spec.ports, cloud
        self.found: dict[str, Interface] = {}
        self.carries: dict[str, str] = {}

    def result(self) -> tuple[dict[str, Interface], tuple[Interface, ...]]:
        for number, network in enumerate(self.role.networks):
            base = self._one(self.role.network.on.get(network, f"port{number}"))
            tag = self.cloud.networks[network].vlan
            self.carries[network] = self._vlan(base, tag) if tag else base
        self._set_mtus()
        return {network: self.found[name] for network, name in self.carries.items()}, tuple(self.found.values())

    def _one(self, name: str) -> str:
        """The interface that a role calls ``name``."""
        names = self._all(name)
        if len(names) != 1:
            raise Unwired(f"it has {len(names)} ports on the physical network {name}, one is wanted there")
        return names[0]

    def _all(self, name: str) -> list[str]:
        """What a role calls ``name``: one of its links, a port by number, or all ports on a physical network."""
        if name in self.role.network.links:
            return [self._link(name)]
        if PORT.match(name):
            number = int(name.removeprefix("port"))
            if number >= len(self.ports):
                raise Unwired(f"it has {len(self.ports)} ports, the role needs {number + 1}")
            return [self._port(number, self.ports[number])]
        chosen = [(number, port) for number, port in enumerate(self.ports) if port.network == name]
        if not chosen:
            raise Unwired(f"it has no port on the physical network {name}")
        return [self._port(number, port) for number, port in chosen]

    def _port(self, number: int, port: Port) -> str:
        name = f"port{number}"
        self.found.setdefault(name, Interface(name=name, kind=InterfaceKind.PORT, mac=port.mac))
        return name

    def _link(self, name: str) -> str:
        if name not in self.found:
            link = self.role.network.links[name]
            over = [member for word in link.over for member in self._all(word)]
            kind = InterfaceKind.BOND if link.bond else InterfaceKind.BRIDGE
            mac = self.found[over[0]].mac
            self.found[name] = Interface(name=name, kind=kind, mac=mac, over=tuple(over), mode=link.mode)
        return name

    def _vlan(self, base: str, tag: int) -> str:
        name = VLAN_NAME.format(tag)
        known = self.found.get(name)
        if known is not None and known.over != (base,):
            raise Unwired(f"the VLAN {tag} would lie on {known.over[0]} and on {base}")
        mac = self.found[base].mac
        self.found[name] = Interface(name=name, kind=InterfaceKind.VLAN, mac=mac, over=(base,), vlan=tag)
        return name

    def _set_mtus(self) -> None:
        """Each interface passes the largest frame of all that lies on it."""
        mtus = dict.fromkeys(self.found, 0)
        for network, name in self.carries.items():
            mtu = self.cloud.networks[network].mtu
            for below in _below(name, self.found):
                mtus[below] = max(mtus[below], mtu)
        for name, mtu in mtus.items():
            self.found[name] = self.found[name].model_copy(update={"mtu": mtu or 1500})


def _below(name: str, found: Mapping[str, Interface]) -> Iterator[str]:
    """The interface and all that it lies on."""
    yield name
    for member in found[name].over:
        yield from _below(member, found)


def ports_of(interfaces: Sequence[Interface]) -> list[str]:
    """MACs of the ports that are used."""
    return [interface.mac for interface in interfaces if interface.kind is InterfaceKind.PORT]
