"""What is wrong with values once all layers of them are together; what differs from what an instance was told. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from provisioner.errors import Problem
from provisioner.manifest.certificates import check_names
from provisioner.manifest.check import dotted, suggest
from provisioner.manifest.cloud import parse_pool
from provisioner.manifest.explain import find_place
from provisioner.manifest.layer import Path
from provisioner.manifest.merge import find_lonely, find_unpooled
from provisioner.manifest.values import Mixture, Values
from provisioner.model.plan import Change
from provisioner.model.role import Desired
from provisioner.model.values import secret_name

LIKE_AN_ADDRESS = re.compile(r"[0-9./]+|.*:.*")
"""What is no host name."""


def check_values(
    desired: Desired,
    values: Values,
    mixtures: Collection[Mixture],
    strays: Mapping[str, Sequence[str]],
    secrets: Collection[str] | None,
) -> list[Problem]:
    """What only shows when all layers are together: secrets that do not exist, values that nobody gives, or that do not
    go with the cloud's networks and counts.

    :param strays: nodes by the zone that their hardware file names, and that has no file.
    :param secrets: names of those that the cloud has; None when nobody looked.
    """
    found = _Check(desired, values, secrets)
    for zone, names in strays.items():
        more = f", and {len(names) - 1} more nodes are in it" if len(names) > 1 else ""
        what = f"there is no file of its zone {zone!r}{more}"
        instead = f"{suggest(zone, desired.zones)} Correct location.zone in the hardware file and enroll again"
        found.problems.append(Problem(f"node {names[0]}", what, instead))
    for mixture in mixtures:
        found.look(mixture)
    return list(dict.fromkeys(found.problems))


class _Check:
    def __init__(self, desired: Desired, values: Values, secrets: Collection[str] | None) -> None:
        self.desired = desired
        self.values = values
        self.declared = {name for role in desired.roles.values() for name in role.secrets}
        self.secrets = None if secrets is None else self.declared | set(secrets)
        self.pools = [(name, *parse_pool(network.pool)) for name, network in desired.cloud.networks.items()]
        self.problems: list[Problem] = []

    def look(self, mixture: Mixture) -> None:
        role, use = mixture.role, self.desired.cloud.roles.get(mixture.role)
        layers, rule = self.values.layers(*mixture.key), self.values.rule(role)

        def wrong(path: Path, what: str, instead: str | None = None) -> None:
            where = find_place(self.desired, layers, rule, path) or role
            self.problems.append(Problem(where, what, instead))

        for path, name in mixture.references:
            if self.secrets is not None and name not in self.secrets:
                store = f"provisioner cloud secret {self.desired.cloud.cloud} {name} --set-file FILE"
                known = suggest(name, self.secrets)
                instead = f"store it: {store}" if known is None else f"{known} Or store it: {store}"
                wrong(path, f"{dotted(path)} refers to no secret {name!r}", instead)
        for path, what in check_names(self.desired.roles[role], mixture):
            wrong(path, what)
        for path, value in find_unpooled(mixture.values, rule):
            try:
                address = ipaddress.ip_address(value)
            except ValueError:
                if LIKE_AN_ADDRESS.fullmatch(value):
                    wrong(
                        path,
                        f"{dotted(path)} is {value!r}, which is no address",
                        "write one of IPv4 or IPv6, or a name",
                    )
                continue
            for network in self._pools_with(address):
                pool = self.desired.cloud.networks[network].pool
                what = f"{dotted(path)} is {value}, which the network {network} may give to a node"
                wrong(path, what, f"write an address outside of its pool {pool}")
        where = self.desired.place(f"roles.{role}")
        for path in mixture.missing:
            instead = f"write it under roles.{role}.values"
            self.problems.append(Problem(where, f"{role} needs a value {dotted(path)}", instead))
        count = 0 if use is None else use.count
        where = self.desired.place(f"roles.{role}.count")
        for path, value in find_lonely(mixture.values, rule) if count > 1 else ():
            what = f"{role} has {count} members, and {dotted(path)} is {json.dumps(value)}, which is for one"
            instead = f"write another under roles.{role}.values, or count: 1"
            self.problems.append(Problem(where, what, instead))

    def _pools_with(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Iterator[str]:
        """Networks whose pool has an address."""
        for name, first, last in self.pools:
            if address.version == first.version and int(first) <= int(address) <= int(last):
                yield name


Place = Callable[[Path], str | None]
"""Where a value comes from, by its path."""


def _nowhere(path: Path) -> None:
    """Nobody kept it."""


def diff_shared(old: dict[str, Any], new: dict[str, Any], place: Place = _nowhere) -> tuple[Change, ...]:
    """What differs between two results of :func:`~provisioner.manifest.values.build_shared`, values first.

    The number of members is left out: it changes with the deployments and releases that the plan shows.
    """
    rest = [diff_values({key: _but_count(old.get(key))}, {key: _but_count(new.get(key))}) for key in ("role", "health")]
    values = diff_values(old.get("values", {}), new["values"], place)
    return values + tuple(change for found in rest for change in found)


def _but_count(part: Any) -> dict[str, Any]:
    return {key: value for key, value in (part or {}).items() if key != "count"}


def diff_values(old: Mapping[str, Any], new: Mapping[str, Any], place: Place = _nowhere) -> tuple[Change, ...]:
    """What differs, by dotted path; ``None`` stands for absent. A reference to a secret is one value."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return tuple(
        Change(path=".".join(map(str, path)), old=before.get(path), new=after.get(path), place=place(path))
        for path in sorted(before.keys() | after.keys(), key=str)
        if path and _text(before.get(path)) != _text(after.get(path))
    )


def _text(value: Any) -> str:
    """To a template true is not 1, and 1 is not 1.0."""
    return json.dumps(value, sort_keys=True)


def _leaves(data: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every part that is not a mapping with something in it."""
    if isinstance(data, Mapping) and data and secret_name(data) is None:
        for key, value in data.items():
            yield from _leaves(value, (*path, key))
    else:
        yield path, data
