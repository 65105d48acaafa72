"""A cloud thought onto nodes that do not exist, for commands that need neither node nor service."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

from provisioner.errors import NotFound
from provisioner.model.deployment import Node, Placement
from provisioner.model.hardware import BmcAddress, Location, NodeSpec, Port, SecretRef
from provisioner.model.plan import Deploy, Observed
from provisioner.model.role import PORT, Desired, Role, RoleUse
from provisioner.model.states import NodeState
from provisioner.plan.build import build_plan

BMC = BmcAddress(address="192.0.2.1", username="none", password=SecretRef(env="NONE"))
"""Of nodes that only stand for some (RFC 5737, section 3)."""


def think_placements(desired: Desired, zone: str = "") -> list[Placement]:
    """Where ``plan`` would put each member, on nodes that match by construction. :param zone: of them all."""
    nodes: list[Node] = []
    images: dict[str, str] = {}
    uses: dict[str, RoleUse] = {}
    for role_name, use in desired.cloud.roles.items():
        images[role_name] = f"{role_name}-000000000000"
        named = [*use.nodes, *(f"{role_name}-node{index}" for index in range(len(use.nodes), use.count))]
        uses[role_name] = use.model_copy(update={"nodes": tuple(named)})
        role = desired.roles[role_name]
        nodes += [_think_node(name, role, number, zone) for number, name in enumerate(named, len(nodes))]
    told = [name for use in uses.values() for name in (*use.wipe, *use.accept)]
    # Nobody knows of which role these will be.
    for name in {*desired.cloud.nodes, *told} - {node.name for node in nodes}:
        spec = NodeSpec(name=name, bmc=BMC)
        nodes.append(Node(uuid=think_uuid(name), spec=spec, state=NodeState.ENROLLED))
    thought = desired.model_copy(update={"cloud": desired.cloud.model_copy(update={"roles": uses})})
    plan = build_plan(thought, Observed(nodes=tuple(nodes), images=images | {"ramdisk": "ramdisk-000000000000"}))
    return [action.placement for action in plan.actions if isinstance(action, Deploy)]


def find_placement(desired: Desired, members: Sequence[Placement], name: str) -> Placement:
    """The member of that host name or on that node, or the first of that role. :raises NotFound: there is none."""
    placement = next((p for p in members if name in (p.hostname, p.role, p.node)), None)
    if placement is None:
        names = ", ".join([*desired.cloud.roles, *(p.hostname for p in members)])
        raise NotFound("the cloud has no such member or role", where=name, hint=f"write one of: {names}")
    return placement


def _think_node(name: str, role: Role, number: int, zone: str) -> Node:
    properties = dict(role.match.properties)
    spec = NodeSpec(
        name=name,
        bmc=BMC,
        ports=tuple(_think_ports(role, number)),
        tags=role.match.tags,
        properties=properties,
        location=Location(zone=zone),
    )
    return Node(uuid=think_uuid(name), spec=spec, state=NodeState.AVAILABLE)


def _think_ports(role: Role, number: int) -> Iterator[Port]:
    """Those that the role calls by their place, then one on each physical network that it names."""
    links = role.network.links
    words = dict.fromkeys([*role.network.on.values(), *(word for link in links.values() for word in link.over)])
    places = [int(word.removeprefix("port")) for word in words if PORT.match(word)]
    count = max([len(role.networks), *(place + 1 for place in places)])
    physical = [word for word in words if not PORT.match(word) and word not in links]
    for at, network in enumerate([*[""] * count, *physical]):
        yield Port(mac=f"02:00:00:{at & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}", network=network)


def think_uuid(name: str) -> str:
    """The same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
