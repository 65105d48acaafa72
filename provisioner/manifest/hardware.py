"""Hardware files: the nodes, their ports and BMCs.

A file is a map with ``nodes``, a list of :class:`~provisioner.model.hardware.NodeSpec`, and ``defaults``, a part of a
node that each of them starts from. An entry may stand for many nodes, see :mod:`~provisioner.manifest.ranges`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from provisioner.errors import ManifestError, Problem
from provisioner.manifest.check import parse_value, suggest
from provisioner.manifest.layer import Layer, Path, merge_layers, parse_layer
from provisioner.manifest.ranges import expand_ranges
from provisioner.model.hardware import NodeSpec

HOST = re.compile(r"^(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$")
"""RFC 1123, section 2.1."""
HINTS = (
    "by_path", "hctl", "model", "name", "rotational", "serial", "size",
    "vendor", "wwn", "wwn_vendor_extension", "wwn_with_extension",
)  # fmt: skip
"""Root device hints of ironic-lib (``ironic_lib.utils.VALID_ROOT_DEVICE_HINTS``)."""


def parse_hardware(files: Mapping[str, str]) -> list[NodeSpec]:
    """The nodes of hardware files, in their order.

    :param files: text by path.
    :raises ManifestError: with every problem in all of them.
    """
    problems: list[Problem] = []
    nodes: list[tuple[NodeSpec, Layer]] = []
    for path, text in files.items():
        try:
            nodes += _parse_file(parse_layer(path, text), problems)
        except ManifestError as error:
            problems += error.problems
    problems += _twins(nodes)
    if problems:
        raise ManifestError(list(dict.fromkeys(problems)))
    return [spec for spec, _ in nodes]


def _parse_file(layer: Layer, problems: list[Problem]) -> list[tuple[NodeSpec, Layer]]:
    if not isinstance(layer.data, dict):
        problems.append(Problem(layer.where(()), "not a hardware file", "write a map with the keys defaults and nodes"))
        return []
    for key in layer.data.keys() - {"defaults", "nodes"}:
        instead = suggest(key, ("defaults", "nodes"))
        problems.append(Problem(layer.where((key,)), f"unknown key {key!r}", instead))
    items = layer.data.get("nodes")
    if not isinstance(items, list) or not items:
        problems.append(Problem(layer.where(("nodes",)), "nodes is not a list of nodes", "write at least one node"))
        return []
    defaults = layer.under("defaults") if layer.data.get("defaults") is not None else Layer({})
    if not isinstance(defaults.data, dict):
        problems.append(Problem(defaults.where(()), "defaults is not a map", "write what nodes have in common"))
        return []
    found = []
    for number in range(len(items)):
        own = layer.under("nodes", number)
        if not isinstance(own.data, dict):
            problems.append(Problem(own.where(()), f"nodes[{number}] is not a map", "write name, bmc and ports"))
            continue
        for one in expand_ranges(merge_layers(defaults, own), problems):
            spec = parse_value(NodeSpec, one, problems, _name(one, number))
            if spec is not None:
                problems += _check(spec, one)
                found.append((spec, one))
    return found


def _name(layer: Layer, number: int) -> Path:
    name = layer.data.get("name")
    return (f"node {name}",) if isinstance(name, str) else ("nodes", number)


def _check(spec: NodeSpec, layer: Layer) -> list[Problem]:
    """What the shape alone does not say."""
    problems = []
    ref = spec.bmc.password
    if [ref.file is not None, ref.env is not None, ref.stored].count(True) != 1:
        where = layer.where(("bmc", "password"))
        what = f"node {spec.name}: the password is to come from exactly one place"
        problems.append(Problem(where, what, "write {file: /absolute/path}, {env: NAME} or {stored: true}"))
    try:
        ipaddress.ip_address(spec.bmc.address)
    except ValueError:
        if not HOST.match(spec.bmc.address) or spec.bmc.address.replace(".", "").isdigit():
            where = layer.where(("bmc", "address"))
            what = f"node {spec.name}: {spec.bmc.address!r} is neither an IP address nor a host name"
            problems.append(Problem(where, what, "write it without scheme and port; the port has its own key"))
    for hint in spec.root_disk:
        if hint not in HINTS:
            where = layer.where(("root_disk", hint))
            problems.append(Problem(where, f"node {spec.name}: unknown root disk hint {hint!r}", suggest(hint, HINTS)))
    return problems


def _twins(nodes: list[tuple[NodeSpec, Layer]]) -> list[Problem]:
    """Names, MAC addresses and BMCs that stand twice."""
    seen: dict[tuple[str, str], str] = {}
    problems = []
    for spec, layer in nodes:
        bmc = f"{spec.bmc.address} port {spec.bmc.port}"
        claims: list[tuple[str, str, Path]] = [("name", spec.name, ("name",)), ("BMC", bmc, ("bmc", "address"))]
        claims += [("MAC address", port.mac, ("ports", number, "mac")) for number, port in enumerate(spec.ports)]
        for kind, value, path in claims:
            where = layer.where(path)
            if (kind, value) in seen:
                first = seen[kind, value]
                problems.append(Problem(where, f"node {spec.name}: the {kind} {value} is taken", f"see {first}"))
            seen.setdefault((kind, value), where)
    return problems
