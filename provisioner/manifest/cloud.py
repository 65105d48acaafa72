"""Role files and cloud files, checked against each other."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from provisioner.errors import ManifestError, Problem
from provisioner.manifest.cabling import check_cabling
from provisioner.manifest.check import dotted, parse_value, suggest
from provisioner.manifest.firewall import check_firewall, check_groups, check_sources
from provisioner.manifest.image import check_image
from provisioner.manifest.layer import Layer, Path, parse_layer
from provisioner.manifest.policy import check_order, check_policy
from provisioner.manifest.storage import check_storage
from provisioner.manifest.values import RESERVED
from provisioner.model.role import Cloud, Desired, Network, Role, RoleUse

SERVER = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$")
PLACES_DEPTH = 4
"""Paths as deep as ``roles.galera.nodes[0]`` keep their place for errors that only the records can show."""


def parse_roles(files: Mapping[str, str]) -> dict[str, Role]:
    """Roles by name.

    :param files: text by path.
    :raises ManifestError: with every problem in all of them.
    """
    problems: list[Problem] = []
    roles = _parse_roles(files, problems)
    if problems:
        raise ManifestError(problems)
    return roles


def parse_desired(path: str, files: Mapping[str, str]) -> Desired:
    """A cloud file with the roles it uses.

    :param path: which of ``files`` is the cloud file; the others are role files. :param files: text by path.
    :raises ManifestError: with every problem in all of them.
    """
    problems: list[Problem] = []
    roles = _parse_roles({name: text for name, text in files.items() if name != path}, problems)
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
    places = {dotted(found): place for found, place in layer.places.items() if 0 < len(found) <= PLACES_DEPTH}
    return Desired(cloud=cloud, roles={name: roles[name] for name in cloud.roles}, places=places)


def _parse_roles(files: Mapping[str, str], problems: list[Problem]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    places: dict[str, str] = {}
    layers: dict[str, Layer] = {}
    for path, text in files.items():
        try:
            layer = parse_layer(path, text)
        except ManifestError as error:
            problems += error.problems
            continue
        role = parse_value(Role, layer, problems)
        if role is None:
            continue
        where = layer.where(("role",))
        if role.role in roles:
            problems.append(Problem(where, f"the role {role.role} exists already", f"see {places[role.role]}"))
            continue
        problems += check_image(role, layer)
        problems += check_cabling(role, layer)
        problems += check_storage(role, layer)
        problems += check_policy(role, layer)
        problems += check_firewall(role, layer)
        for key in sorted(RESERVED & role.config.values.keys()):
            place = layer.where(("config", "values", key))
            problems.append(Problem(place, f"{key!r} is a name of the metadata itself", "give the value another name"))
        roles[role.role] = role
        places[role.role] = where
        layers[role.role] = layer
    problems += _check_order(roles, places)
    problems += check_order(roles, layers)
    problems += check_sources(roles, layers)
    return roles


def _check_names(layer: Layer, roles: Mapping[str, Role]) -> Iterator[Problem]:
    """Before the shape, so that a wrong name is said even when something else is wrong too."""
    uses = layer.data.get("roles") if isinstance(layer.data, dict) else None
    for name in uses if isinstance(uses, dict) else ():
        if name not in roles:
            yield Problem(layer.where(("roles", name)), f"there is no role {name!r}", suggest(name, roles))


def _check_order(roles: Mapping[str, Role], places: Mapping[str, str]) -> Iterator[Problem]:
    """What ``after`` names exists, and no role waits for itself."""
    for name, role in roles.items():
        for other in role.after:
            if other not in roles:
                yield Problem(places[name], f"{name} waits for a role {other!r}", suggest(other, roles))
        ahead, seen = list(role.after), set[str]()
        while ahead:
            other = ahead.pop()
            if other == name:
                yield Problem(places[name], f"{name} waits for itself", "take one after out of the circle")
                break
            if other in roles and other not in seen:
                seen.add(other)
                ahead += roles[other].after


def _check_cloud(cloud: Cloud, roles: Mapping[str, Role], layer: Layer) -> Iterator[Problem]:
    for name, network in cloud.networks.items():
        yield from _check_network(name, network, layer)
    for name, use in cloud.roles.items():
        role = roles.get(name)
        if role is None:
            continue
        for network_name in role.networks:
            if network_name not in cloud.networks:
                what = f"the role {name} needs a network {network_name!r}"
                yield Problem(layer.where(("networks",)), what, suggest(network_name, cloud.networks))
        yield from _check_values(use.values, role.config.values, ("roles", name, "values"), layer)
    yield from _check_nodes(cloud.roles, layer)
    yield from _check_pools(cloud, roles, layer)
    yield from check_groups(cloud, roles, layer)


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


def _check_values(given: Any, known: Any, path: Path, layer: Layer) -> Iterator[Problem]:
    """A cloud may override what the role has, with the same kind of value, and add nothing."""
    if isinstance(known, dict) and known and isinstance(given, dict):
        for key, value in given.items():
            if key in known:
                yield from _check_values(value, known[key], (*path, key), layer)
            else:
                what = f"the role has no value {dotted((*path[3:], key))!r}"
                yield Problem(layer.where((*path, key)), what, suggest(key, known))
    elif known is not None and not _same_kind(given, known):
        what = f"{dotted(path)} is {given!r}, not {_kind(known)}"
        yield Problem(layer.where(path), what, f"the role's own value is {known!r}")


def _same_kind(given: Any, known: Any) -> bool:
    if isinstance(known, bool) or isinstance(given, bool):
        return isinstance(known, bool) and isinstance(given, bool)
    if isinstance(known, float):
        return isinstance(given, int | float)
    return isinstance(given, type(known))


def _kind(known: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a map",
    }
    return names.get(type(known), type(known).__name__)


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


def _check_pools(cloud: Cloud, roles: Mapping[str, Role], layer: Layer) -> Iterator[Problem]:
    for name, network in cloud.networks.items():
        wanted = sum(use.count for role, use in cloud.roles.items() if role in roles and name in roles[role].networks)
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
