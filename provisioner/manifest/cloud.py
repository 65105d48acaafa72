"""Role files and cloud files, checked against each other."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from provisioner.errors import ManifestError, Problem
from provisioner.manifest.cabling import check_cabling
from provisioner.manifest.check import M, dotted, parse_value, suggest
from provisioner.manifest.elements import Element, ElementText, chain_elements, line_of, parse_elements
from provisioner.manifest.firewall import check_firewall, check_groups, check_sources
from provisioner.manifest.given import Known, check_common_values, check_role_values, check_use_values, find_known
from provisioner.manifest.image import check_image
from provisioner.manifest.layer import Layer, Path, parse_layer
from provisioner.manifest.members import check_members
from provisioner.manifest.policy import check_order, check_policy
from provisioner.manifest.storage import check_storage
from provisioner.manifest.values import CLOUD, layer_name, with_defaults
from provisioner.model.role import Cloud, Desired, Network, Role, RoleUse
from provisioner.model.values import Origin, Zone

SERVER = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$")
PLACES_DEPTH = 4
"""Paths as deep as ``roles.galera.nodes[0]`` keep their place for errors that only the records can show."""
VALUES = "values"
NO_FILES: Mapping[str, str] = {}
NO_ELEMENTS: Mapping[str, ElementText] = {}


@dataclass(frozen=True)
class _Role:
    """A role with its file and what is known of its values."""

    role: Role
    layer: Layer
    known: Known


def parse_roles(files: Mapping[str, str], elements: Mapping[str, ElementText] = NO_ELEMENTS) -> dict[str, Role]:
    """Roles by name, whose values hold the defaults of their elements.

    :param files: text by path. :param elements: what our folders of elements have, by name.
    :raises ManifestError: with every problem in all of them.
    """
    problems: list[Problem] = []
    roles = _parse_roles(files, elements, problems)
    if problems:
        raise ManifestError(list(dict.fromkeys(problems)))
    return {
        name: with_defaults(found.role, {own: element.schema for own, element in found.known.elements.items()})
        for name, found in roles.items()
    }


def parse_desired(
    path: str,
    files: Mapping[str, str],
    *,
    zones: Mapping[str, str] = NO_FILES,
    elements: Mapping[str, ElementText] = NO_ELEMENTS,
) -> Desired:
    """A cloud file with the roles it uses.

    :param path: which of ``files`` is the cloud file; the others are role files. :param files: text by path.
    :param zones: text of the zone files by path. :param elements: what our folders of elements have, by name.
    :raises ManifestError: with every problem in all of them.
    """
    problems: list[Problem] = []
    roles = _parse_roles({name: text for name, text in files.items() if name != path}, elements, problems)
    areas = _parse_zones(zones, [found.known for found in roles.values()], problems)
    try:
        layer = parse_layer(path, files[path])
    except ManifestError as error:
        raise ManifestError([*error.problems, *problems]) from error
    problems += _check_names(layer, roles)
    cloud = parse_value(Cloud, layer, problems)
    if cloud is not None:
        problems += _check_cloud(cloud, roles, layer)
    if problems or cloud is None:
        raise ManifestError(list(dict.fromkeys(problems)))
    used = {name: roles[name] for name in cloud.roles}
    own = {name: element for found in used.values() for name, element in found.known.elements.items()}
    return Desired(
        cloud=cloud,
        roles={name: found.role for name, found in used.items()},
        places={dotted(found): place for found, place in layer.places.items() if _keeps_place(found)},
        schemas={name: element.schema for name, element in own.items()},
        elements={name: tuple(found.known.elements) for name, found in used.items()},
        zones={name: zone for name, (zone, _) in areas.items()},
        origins=dict(_origins(cloud, layer, used, own, areas)),
    )


def _keeps_place(path: Path) -> bool:
    """Not of values: these are in the origins, and there may be many."""
    return 0 < len(path) <= PLACES_DEPTH and "values" not in path[:-1]


def _origins(
    cloud: Cloud,
    layer: Layer,
    roles: Mapping[str, _Role],
    elements: Mapping[str, Element],
    zones: Mapping[str, tuple[Zone, Layer]],
) -> Iterator[tuple[str, Origin]]:
    """Where the values of each layer stand, by the layer's name."""
    for name, element in elements.items():
        yield layer_name("element", name), Origin(file=element.file, lines=dict(element.lines))
    found: list[tuple[str, Layer, Path]] = [(CLOUD, layer, ("values",))]
    found += [(layer_name("role", name), role.layer, ("config", "values")) for name, role in roles.items()]
    found += [(layer_name("zone", name), own, ("values",)) for name, (_, own) in zones.items()]
    found += [(layer_name("cloud, role", name), layer, ("roles", name, "values")) for name in roles]
    found += [(layer_name("node", name), layer, ("nodes", name, "values")) for name in cloud.nodes]
    tops: dict[str, dict[Path, list[Path]]] = {}
    for name, own, top in found:
        file = own.where(()).rpartition(":")[0]
        if file not in tops:
            tops[file] = _below_values(own)
        lines = {dotted(path[len(top) :]): line_of(own.places[path]) for path in tops[file].get(top, ())}
        if lines:
            yield name, Origin(file=file, lines=lines)


def _below_values(layer: Layer) -> dict[Path, list[Path]]:
    """The paths of a document below its first key ``values``, by where that is; items of lists have no place."""
    found: dict[Path, list[Path]] = {}
    for path in layer.places:
        if VALUES in path[:-1] and all(isinstance(key, str) for key in path):
            found.setdefault(path[: path.index(VALUES) + 1], []).append(path)
    return found


def _parse_zones(
    files: Mapping[str, str], roles: Sequence[Known], problems: list[Problem]
) -> dict[str, tuple[Zone, Layer]]:
    zones: dict[str, tuple[Zone, Layer]] = {}
    for zone, layer in _parse_named(Zone, "zone", files, problems):
        problems += check_common_values(zone.values, roles, ("values",), layer)
        zones[zone.zone] = (zone, layer)
    return zones


def _parse_named(
    kind: type[M], key: str, files: Mapping[str, str], problems: list[Problem]
) -> Iterator[tuple[M, Layer]]:
    """The value of each file; a name that stands in two files is a problem. :param key: of the name."""
    named: dict[str, Layer] = {}
    for path, text in files.items():
        try:
            layer = parse_layer(path, text)
        except ManifestError as error:
            problems += error.problems
            continue
        value = parse_value(kind, layer, problems)
        if value is None:
            continue
        name = getattr(value, key)
        if name in named:
            where, other = (one.where((key,)) for one in (layer, named[name]))
            problems.append(Problem(where, f"the {key} {name} exists already", f"see {other}"))
            continue
        named[name] = layer
        yield value, layer


def _parse_roles(
    files: Mapping[str, str], texts: Mapping[str, ElementText], problems: list[Problem]
) -> dict[str, _Role]:
    """:raises ManifestError: an element that a role has is wrong, so nothing can be said of anybody's values."""
    found = {role.role: (role, layer) for role, layer in _parse_named(Role, "role", files, problems)}
    used = chain_elements((name for role, _ in found.values() for name in role.image.elements), texts)
    wrong: list[Problem] = []
    elements = parse_elements({name: texts[name] for name in used}, wrong)
    if wrong:
        raise ManifestError(list(dict.fromkeys([*wrong, *problems])))
    roles = {name: _Role(role, layer, find_known(role, elements, texts)) for name, (role, layer) in found.items()}
    for one in roles.values():
        problems += check_image(one.role, one.layer)
        problems += check_cabling(one.role, one.layer)
        problems += check_storage(one.role, one.layer)
        problems += check_role_values(one.role, one.known, one.layer)
        problems += check_policy(one.role, one.layer)
        problems += check_firewall(one.role, one.layer)
    plain, layers = {name: one.role for name, one in roles.items()}, {name: one.layer for name, one in roles.items()}
    problems += _check_order(roles)
    problems += check_order(plain, layers)
    problems += check_sources(plain, layers)
    return roles


def _check_names(layer: Layer, roles: Mapping[str, _Role]) -> Iterator[Problem]:
    """Before the shape, so that a wrong name is said even when something else is wrong too."""
    uses = layer.data.get("roles") if isinstance(layer.data, dict) else None
    for name in uses if isinstance(uses, dict) else ():
        if name not in roles:
            yield Problem(layer.where(("roles", name)), f"there is no role {name!r}", suggest(name, roles))


def _check_order(roles: Mapping[str, _Role]) -> Iterator[Problem]:
    """What ``after`` names exists, and no role waits for itself."""
    for name, found in roles.items():
        where = found.layer.where(("role",))
        for other in found.role.after:
            if other not in roles:
                yield Problem(where, f"{name} waits for a role {other!r}", suggest(other, roles))
        ahead, seen = list(found.role.after), set[str]()
        while ahead:
            other = ahead.pop()
            if other == name:
                yield Problem(where, f"{name} waits for itself", "take one after out of the circle")
                break
            if other in roles and other not in seen:
                seen.add(other)
                ahead += roles[other].role.after


def _check_cloud(cloud: Cloud, roles: Mapping[str, _Role], layer: Layer) -> Iterator[Problem]:
    for name, network in cloud.networks.items():
        yield from _check_network(name, network, layer)
    for name, use in cloud.roles.items():
        found = roles.get(name)
        if found is None:
            continue
        for network_name in found.role.networks:
            if network_name not in cloud.networks:
                what = f"the role {name} needs a network {network_name!r}"
                yield Problem(layer.where(("networks",)), what, suggest(network_name, cloud.networks))
        yield from check_use_values(use.values, found.known, ("roles", name, "values"), layer)
    used = [roles[name].known for name in cloud.roles if name in roles]
    yield from check_common_values(cloud.values, used, ("values",), layer)
    for name, node in cloud.nodes.items():
        yield from check_common_values(node.values, used, ("nodes", name, "values"), layer)
    yield from _check_nodes(cloud.roles, layer)
    yield from check_members(cloud.roles, layer)
    yield from _check_pools(cloud, roles, layer)
    yield from check_groups(cloud, {name: found.role for name, found in roles.items()}, layer)


def _check_nodes(uses: Mapping[str, RoleUse], layer: Layer) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for name, use in uses.items():
        if use.nodes and use.count > len(use.nodes):
            what = f"roles.{name}.count is {use.count}, but {len(use.nodes)} nodes are named"
            yield Problem(layer.where(("roles", name, "count")), what, "name more nodes or lower the count")
        for number, node in enumerate(use.nodes):
            where = layer.where(("roles", name, "nodes", number))
            if node in taken:
                yield Problem(where, f"the node {node} is named twice", f"see {taken[node]}")
            taken.setdefault(node, where)
        named: list[tuple[Path, str]] = [(("wipe", number), node) for number, node in enumerate(use.wipe)]
        for path, node in [*named, *((("accept", node), node) for node in use.accept)]:
            if use.nodes and node not in use.nodes:
                where = layer.where(("roles", name, *path))
                yield Problem(where, f"the role {name} does not take the node {node}", suggest(node, use.nodes))


def _check_network(name: str, network: Network, layer: Layer) -> Iterator[Problem]:
    def at(key: str) -> str:
        return layer.where(("networks", name, key))

    try:
        cidr = ipaddress.ip_network(network.cidr)
    except ValueError as error:
        yield Problem(
            at("cidr"), f"networks.{name}.cidr is {network.cidr!r}: {error}", "write it as 10.0.0.0/24 or fd00:1::/64"
        )
        return
    try:
        first, last = parse_pool(network.pool)
    except ValueError:
        yield Problem(at("pool"), f"networks.{name}.pool is {network.pool!r}", "write it as 10.0.0.20-10.0.0.60")
        return
    if first.version != last.version or first.version != cidr.version:
        yield Problem(at("pool"), f"networks.{name}.pool {network.pool} and {cidr} are not of one kind")
        return
    if int(first) > int(last):
        yield Problem(at("pool"), f"networks.{name}.pool ends before it begins", f"write {last}-{first}")
    if first not in cidr or last not in cidr:
        yield Problem(at("pool"), f"networks.{name}.pool {network.pool} is not inside {cidr}")
    if network.gateway is not None:
        gateway = _address(network.gateway)
        if gateway is None or gateway not in cidr:
            yield Problem(at("gateway"), f"networks.{name}.gateway {network.gateway} is not an address of {cidr}")
        elif int(first) <= int(gateway) <= int(last):
            yield Problem(at("gateway"), f"networks.{name}.gateway {gateway} lies in the pool {network.pool}")
    for server in network.dns:
        if _address(server) is None:
            yield Problem(at("dns"), f"networks.{name}.dns: {server!r} is not an IP address")
    for server in network.ntp:
        if not SERVER.match(server):
            yield Problem(at("ntp"), f"networks.{name}.ntp: {server!r} is neither an address nor a host name")
    for number, route in enumerate(network.routes):
        where = layer.where(("networks", name, "routes", number))
        via = _address(route.via)
        if via is None or via not in cidr:
            yield Problem(where, f"networks.{name}.routes: {route.via} is not an address of {cidr}")
        try:
            ipaddress.ip_network(route.to)
        except ValueError as error:
            yield Problem(where, f"networks.{name}.routes: {error}", "write it as 10.9.0.0/16")


def _check_pools(cloud: Cloud, roles: Mapping[str, _Role], layer: Layer) -> Iterator[Problem]:
    for name, network in cloud.networks.items():
        wanted = sum(
            use.count for role, use in cloud.roles.items() if role in roles and name in roles[role].role.networks
        )
        try:
            first, last = parse_pool(network.pool)
        except ValueError:
            continue
        size = int(last) - int(first) + 1
        if 0 < size < wanted:
            what = f"networks.{name}.pool has {size} addresses, the roles need {wanted}"
            yield Problem(layer.where(("networks", name, "pool")), what, "make the pool larger")


Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_pool(pool: str) -> tuple[Ip, Ip]:
    """``FIRST-LAST`` → both addresses.

    :raises ValueError: it has another form.
    """
    first, _, last = pool.partition("-")
    return ipaddress.ip_address(first.strip()), ipaddress.ip_address(last.strip())


def _address(text: str) -> Ip | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
