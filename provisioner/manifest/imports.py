"""Nodes as other programs list them: TripleO's ``instackenv.json`` and ``nodes.yaml``, and CSV. Pure.

Fields are those that TripleO's registration read (tripleo-common, ``utils/nodes.py``); what this product has no place
for is named, never dropped in silence.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner.errors import ManifestError, Problem
from provisioner.manifest.check import suggest
from provisioner.manifest.layer import Layer, parse_layer
from provisioner.model.hardware import NAME, parse_mac

DRIVERS = {
    "ipmi": "ipmi", "pxe_ipmitool": "ipmi", "pxe_ipminative": "ipmi", "agent_ipmitool": "ipmi",
    "redfish": "redfish", "idrac": "redfish", "pxe_drac": "redfish", "ilo": "redfish", "pxe_ilo": "redfish",
    "irmc": "redfish", "pxe_irmc": "redfish", "xclarity": "redfish",
}  # fmt: skip
"""The driver for each ``pm_type``. Vendors' own protocols give way to Redfish, which their controllers speak too."""
NO_DRIVER = ("manual-management", "staging-ovirt", "staging-iboot", "staging-wol", "staging-amt", "fake_pxe")
CREDENTIALS = frozenset({"pm_type", "pm_addr", "pm_user", "pm_password", "pm_port", "pm_system_id"})
PROPERTIES = {"cpu": "cpus", "memory": "memory_mib", "disk": "disk_gib", "arch": "arch", "platform": "platform"}
NUMBERS = frozenset({"cpu", "memory", "disk"})
KNOWN = CREDENTIALS | set(PROPERTIES) | {
    "name", "uuid", "ports", "mac", "root_device", "capabilities", "profile", "resource_class",
}  # fmt: skip
IGNORED = frozenset({"kernel_id", "ramdisk_id", "conductor_group", "_comment"})
COLUMNS = {
    "address": "pm_addr", "bmc": "pm_addr", "driver": "pm_type", "username": "pm_user", "user": "pm_user",
    "password": "pm_password", "port": "pm_port", "system": "pm_system_id", "cpus": "cpu", "memory_mib": "memory",
    "disk_gib": "disk", "macs": "mac",
}  # fmt: skip
"""Names of CSV columns besides TripleO's own."""
PLACES = ("zone", "rack", "unit")


@dataclass(frozen=True)
class Imported:
    """``nodes`` as a hardware file has them, but for their passwords: ``passwords`` by node, kept apart.

    ``notes``: what was left out or changed, a line each.
    """

    nodes: list[dict[str, Any]] = field(default_factory=list)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    notes: list[str] = field(default_factory=list)


def parse_import(path: str, text: str) -> Imported:
    """The nodes of a file; CSV when its name ends so.

    :raises ManifestError: with every problem in it; nothing is taken then.
    """
    problems: list[Problem] = []
    found = Imported()
    entries = _rows(path, text, problems) if path.lower().endswith(".csv") else _entries(path, text, problems)
    for number, entry in enumerate(entries, start=1):
        _Node(entry, number, found, problems).take()
    if not problems and not found.nodes:
        problems.append(Problem(path, "no node is listed there"))
    if problems:
        raise ManifestError(problems)
    return found


def _entries(path: str, text: str, problems: list[Problem]) -> Iterator[Layer]:
    layer = parse_layer(path, text)
    if isinstance(layer.data, dict) and isinstance(layer.data.get("nodes"), list):
        layer = layer.under("nodes")
    if not isinstance(layer.data, list):
        problems.append(Problem(layer.where(()), "not a list of nodes", "write a list, or a map with the key nodes"))
        return
    for number, data in enumerate(layer.data):
        entry = layer.under(number)
        if isinstance(data, dict):
            yield entry
        else:
            problems.append(Problem(entry.where(()), f"node #{number + 1} is not a map"))


def _rows(path: str, text: str, problems: list[Problem]) -> Iterator[Layer]:
    reader = csv.reader(io.StringIO(text))
    header = [name.strip().lower() for name in next(reader, [])]
    names = [COLUMNS.get(name, name) for name in header]
    if unknown := [name for name in names if name not in KNOWN | IGNORED | set(PLACES)]:
        choice = sorted(set(COLUMNS) | KNOWN | set(PLACES))
        problems += [Problem(f"{path}:1", f"unknown column {name!r}", suggest(name, choice)) for name in unknown]
        return
    for row in reader:
        place = f"{path}:{reader.line_num}"
        if not any(cell.strip() for cell in row) or row[0].startswith("#"):
            continue
        if len(row) > len(names):
            problems.append(Problem(place, f"{len(row)} cells, but the first line names {len(names)} columns"))
            continue
        cells: dict[str, Any] = {name: cell.strip() for name, cell in zip(names, row, strict=False) if cell.strip()}
        if "mac" in cells:
            cells["mac"] = re.split(r"[\s;|]+", cells["mac"])
        yield Layer(cells, {(): place})


class _Node:
    """One entry of a foreign file on its way to an entry of ours."""

    def __init__(self, entry: Layer, number: int, found: Imported, problems: list[Problem]) -> None:
        self._entry = entry
        self._data: Mapping[str, Any] = entry.data
        self._number = number
        self._found = found
        self._problems = problems
        self._name = self._choose_name()

    def take(self) -> None:
        before = len(self._problems)
        node: dict[str, Any] = {"name": self._name, "bmc": self._bmc(), "ports": self._ports()}
        node |= self._properties()
        for key in self._data:
            if key in IGNORED or key.endswith("_interface"):
                if key != "_comment":
                    self._note(f"{key} has no place here and is left out")
            elif key not in KNOWN | set(PLACES):
                self._wrong(key, f"unknown field {key!r}", suggest(key, KNOWN))
        if len(self._problems) > before:
            return
        self._found.nodes.append(node)
        if "pm_password" in self._data:
            self._found.passwords[self._name] = str(self._data["pm_password"])

    def _choose_name(self) -> str:
        name = str(self._data.get("name") or "").lower()
        if name and not NAME.match(name):
            self._wrong("name", f"{name!r} is not a host name", "write letters, digits and dashes, at most 63")
        return name or f"node-{self._number:03d}"

    def _bmc(self) -> dict[str, Any]:
        kind = str(self._data.get("pm_type", ""))
        if not kind:
            self._wrong("pm_type", "pm_type is missing", "write ipmi or redfish")
        elif kind not in DRIVERS:
            none = f"there is no driver for {kind}" if kind in NO_DRIVER else f"pm_type {kind!r} is unknown"
            self._wrong("pm_type", none, suggest(kind, DRIVERS))
        elif kind != DRIVERS[kind]:
            self._note(f"pm_type {kind} is now {DRIVERS[kind]}")
        bmc: dict[str, Any] = {"driver": DRIVERS.get(kind, "ipmi"), "address": self._data.get("pm_addr", "")}
        if not bmc["address"]:
            self._wrong("pm_addr", "pm_addr is missing", "write the controller's address")
        address = str(bmc["address"])
        if "://" in address:
            scheme, _, address = address.partition("://")
            self._note(f"the scheme {scheme}:// of pm_addr is left out")
        bmc["address"] = address.rstrip("/")
        if "pm_user" in self._data:
            bmc["username"] = str(self._data["pm_user"])
        if "pm_port" in self._data:
            bmc["port"] = self._number_of("pm_port")
        if "pm_system_id" in self._data:
            bmc["system"] = str(self._data["pm_system_id"])
        return bmc

    def _ports(self) -> list[dict[str, Any]]:
        ports: list[dict[str, Any]] = []
        listed = self._data.get("ports") or [{"address": mac} for mac in self._data.get("mac") or ()]
        for port in listed if isinstance(listed, list) else [listed]:
            given: Mapping[str, Any] = port if isinstance(port, dict) else {"address": port}
            key = "ports" if "ports" in self._data else "mac"
            try:
                ours: dict[str, Any] = {"mac": parse_mac(str(given.get("address", "")))}
            except ValueError as error:
                self._wrong(key, f"{given.get('address')!r} is {str(error).partition(';')[0]}")
                continue
            if network := given.get("physical_network"):
                ours["network"] = str(network)
            if link := given.get("local_link_connection"):
                ours["plugged"] = {
                    "switch": str(link.get("switch_info") or link.get("switch_id") or ""),
                    "port": str(link.get("port_id") or ""),
                }
            ports.append(ours)
        if not ports:
            self._wrong("ports", "no MAC address is listed", "write ports with an address each")
        return ports

    def _properties(self) -> dict[str, Any]:
        more: dict[str, Any] = {}
        properties: dict[str, Any] = {}
        for theirs, ours in PROPERTIES.items():
            if self._data.get(theirs) not in (None, ""):
                properties[ours] = self._number_of(theirs) if theirs in NUMBERS else str(self._data[theirs])
        tags = [f"profile-{self._data['profile']}"] if self._data.get("profile") else []
        for name, value in self._capabilities().items():
            if name == "boot_mode":
                more["firmware"] = "bios" if value == "bios" else "uefi"
            elif name == "profile":
                tags.append(f"profile-{value}")
            else:
                properties[name] = value
        if self._data.get("resource_class"):
            properties["resource_class"] = str(self._data["resource_class"])
        if self._data.get("uuid"):
            properties["former_uuid"] = str(self._data["uuid"])
        hints = self._data.get("root_device") or {}
        if not isinstance(hints, dict):
            self._wrong("root_device", "root_device is not a map", "write hints such as {serial: ABC}")
            hints = {}
        place = {key: self._data[key] for key in PLACES if self._data.get(key)}
        if "unit" in place:
            place["unit"] = self._number_of("unit")
        extras = {"tags": sorted(set(tags)), "properties": properties, "root_disk": dict(hints), "location": place}
        return more | {key: value for key, value in extras.items() if value}

    def _capabilities(self) -> dict[str, str]:
        given = self._data.get("capabilities") or {}
        if isinstance(given, dict):
            return {str(name): str(value) for name, value in given.items()}
        pairs = [part.partition(":") for part in str(given).split(",") if part.strip()]
        if any(not colon for _, colon, _ in pairs):
            self._wrong("capabilities", f"capabilities is {given!r}", "write name:value,name:value or a map")
        return {name.strip(): value.strip() for name, _, value in pairs}

    def _number_of(self, key: str) -> int:
        try:
            return int(self._data[key])
        except (TypeError, ValueError):
            self._wrong(key, f"{key} is {self._data[key]!r}, not a whole number")
            return 0

    def _note(self, text: str) -> None:
        self._found.notes.append(f"{self._entry.where(())}: node {self._name}: {text}")

    def _wrong(self, key: str, what: str, instead: str | None = None) -> None:
        name = getattr(self, "_name", self._data.get("name") or f"#{self._number}")
        self._problems.append(Problem(self._entry.where((key,)), f"node {name}: {what}", instead))
