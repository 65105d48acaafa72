"""A role's firewall as its template sees it: sets of addresses, and what is let in, in one order. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any

from provisioner.manifest.firewall import merge_rules
from provisioner.model.deployment import Placement
from provisioner.model.firewall import Rule, join_ports
from provisioner.model.role import Desired

FAMILIES = {4: "ip", 6: "ip6"}
"""How nft(8) calls what a packet's addresses are of."""
ICMP = {4: "icmp", 6: "ipv6-icmp"}
NUMBERS = {"vrrp": "112"}
"""Protocols (IANA, protocol numbers) that nft(8) knows by name only where /etc/protocols lists them."""


def build_firewall(desired: Desired, role: str, members: Sequence[Placement]) -> dict[str, Any] | None:
    """What all members of a role have in common; None when it manages no firewall.

    :param members: of the whole cloud. :returns: ``sets``: the addresses of the members of each role that is let in,
        ``[{"name", "type", "elements"}]``, and ``allow``: ``[{"match", "note"}]``, both as nft(8) writes them.
    """
    rules = merge_rules(desired, role)
    if rules is None:
        return None
    roles = sorted({rule.source.role for rule in rules if rule.source.role is not None})
    return {
        "sets": [_set(name, version, members) for name in roles for version in FAMILIES],
        "allow": [
            {"match": match, "note": rule.note} for rule in rules for match in _matches(rule, _sources(rule, desired))
        ],
    }


def _set(role: str, version: int, members: Sequence[Placement]) -> dict[str, str]:
    found = {
        address
        for member in members
        if member.role == role
        for address in (ipaddress.ip_address(known.bare) for known in member.addresses)
        if address.version == version
    }
    addresses = ", ".join(map(str, sorted(found, key=int)))
    return {"name": _set_name(role, version), "type": f"ipv{version}_addr", "elements": addresses}


def _set_name(role: str, version: int) -> str:
    return f"role-{role}-ipv{version}"


def _sources(rule: Rule, desired: Desired) -> list[tuple[int | None, str]]:
    """(version, what is said of the source address); a network that the cloud does not have lets nobody in."""
    source = rule.source
    if source.role is not None:
        return [(version, f"{FAMILIES[version]} saddr @{_set_name(source.role, version)} ") for version in FAMILIES]
    if source.network is not None:
        network = desired.cloud.networks.get(source.network)
        cidrs = [] if network is None else [network.cidr]
    elif source.cidr is not None:
        cidrs = [source.cidr]
    else:
        return [(None, "")]
    parsed = [ipaddress.ip_network(cidr) for cidr in cidrs]
    return [(found.version, f"{FAMILIES[found.version]} saddr {found} ") for found in parsed]


def _matches(rule: Rule, sources: Sequence[tuple[int | None, str]]) -> Iterator[str]:
    for version, saddr in sources:
        if rule.protocol == "any":
            yield saddr
        elif rule.protocol == "icmp":
            kinds = [ICMP[version]] if version is not None else list(ICMP.values())
            yield f"{saddr}meta l4proto {{ {', '.join(kinds)} }} "
        elif rule.ports:
            yield f"{saddr}{rule.protocol} dport {{ {', '.join(join_ports(rule.ports))} }} "
        else:
            yield f"{saddr}meta l4proto {NUMBERS.get(rule.protocol, rule.protocol)} "
