"""Firewalls of roles and the groups of a cloud: what is checked of them, and which rules a role has in a cloud."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping, Sequence

from provisioner.errors import Problem
from provisioner.manifest.check import dotted, suggest
from provisioner.manifest.layer import Layer, Path
from provisioner.model.firewall import Rule
from provisioner.model.role import Cloud, Desired, Role

TREE = "firewall"
"""The template tree that makes a file of the rules."""


def merge_rules(desired: Desired, role: str) -> tuple[Rule, ...] | None:
    """The role's own rules, then those of the groups that the cloud gives it, each once; None without a firewall."""
    firewall = desired.roles[role].firewall
    if firewall is None:
        return None
    groups = [desired.cloud.firewall[name] for name in desired.cloud.roles[role].firewall]
    rules: dict[str, Rule] = {}
    for rule in (*firewall.allow, *(rule for group in groups for rule in group)):
        rules.setdefault(str(rule), rule)
    return tuple(rules.values())


def describe_rules(desired: Desired, role: str) -> dict[str, str] | None:
    """Notes by rule, for a plan to tell what is let in from now on; None when the role manages no firewall."""
    rules = merge_rules(desired, role)
    return None if rules is None else {str(rule): rule.note for rule in rules}


def check_firewall(role: Role, layer: Layer) -> Iterator[Problem]:
    """What can be seen in one role file."""
    if role.firewall is None:
        return
    if TREE not in role.image.templates:
        what = f"image.templates has no {TREE}, so nothing would make a file of the role's firewall"
        hint = f"add {TREE} to {'' if role.image.disk else 'image.elements and '}image.templates"
        yield Problem(layer.where(("firewall",)), what, hint)
    yield from _check_rules(role.firewall.allow, ("firewall", "allow"), layer)


def check_sources(roles: Mapping[str, Role], layers: Mapping[str, Layer]) -> Iterator[Problem]:
    """That roles exist which roles let in."""
    for name, role in roles.items():
        if role.firewall is not None:
            yield from _check_roles(role.firewall.allow, ("firewall", "allow"), layers[name], roles)


def check_groups(cloud: Cloud, roles: Mapping[str, Role], layer: Layer) -> Iterator[Problem]:
    """The groups of a cloud, who uses them, and the networks that its roles let in."""
    for name, rules in cloud.firewall.items():
        path: Path = ("firewall", name)
        yield from _check_rules(rules, path, layer)
        yield from _check_roles(rules, path, layer, roles)
        for number, rule in enumerate(rules):
            network = rule.source.network
            if network is not None and network not in cloud.networks:
                where = layer.where((*path, number, "from"))
                yield Problem(where, f"there is no network {network!r}", suggest(network, cloud.networks))
    for name, use in cloud.roles.items():
        if name in roles:
            yield from _check_use(name, use.firewall, roles[name], cloud, layer)


def _check_use(name: str, groups: Sequence[str], role: Role, cloud: Cloud, layer: Layer) -> Iterator[Problem]:
    for number, group in enumerate(groups):
        where = layer.where(("roles", name, "firewall", number))
        if group not in cloud.firewall:
            instead = suggest(group, cloud.firewall) or f"write it: firewall: {{{group}: [...]}}"
            yield Problem(where, f"there is no group {group!r} of firewall rules", instead)
        if group in groups[:number]:
            yield Problem(where, f"roles.{name}.firewall names {group} twice", "remove one of them")
    if groups and role.firewall is None:
        what = f"the role {name} manages no firewall that rules could be added to"
        yield Problem(layer.where(("roles", name, "firewall")), what, "write firewall: {} in the role file")
    allowed = () if role.firewall is None else role.firewall.allow
    for network in sorted({rule.source.network for rule in allowed if rule.source.network} - cloud.networks.keys()):
        what = f"the firewall of the role {name} lets in a network {network!r}"
        yield Problem(layer.where(("networks",)), what, suggest(network, cloud.networks))


def _check_roles(rules: Sequence[Rule], path: Path, layer: Layer, roles: Collection[str]) -> Iterator[Problem]:
    for number, rule in enumerate(rules):
        if rule.source.role is not None and rule.source.role not in roles:
            where = layer.where((*path, number, "from"))
            yield Problem(where, f"there is no role {rule.source.role!r}", suggest(rule.source.role, roles))


def _check_rules(rules: Sequence[Rule], path: Path, layer: Layer) -> Iterator[Problem]:
    places: dict[str, str] = {}
    for number, rule in enumerate(rules):
        where = layer.where((*path, number))
        if str(rule) in places:
            yield Problem(where, f"{rule} is let in twice", f"see {places[str(rule)]}")
        places.setdefault(str(rule), where)
        if rule.source.cidr is not None:
            try:
                ipaddress.ip_network(rule.source.cidr)
            except ValueError as error:
                name = dotted((*path, number, "from", "cidr"))
                hint = "write it as 10.0.0.0/8 or fd00:1::/64"
                yield Problem(layer.where((*path, number, "from")), f"{name} is {rule.source.cidr!r}: {error}", hint)
