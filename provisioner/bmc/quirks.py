"""What vendors do otherwise, as data: ``hardware/quirks/*.yaml`` says which controllers need what.

A quirk is a name that a driver knows; a driver never asks who made the controller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from provisioner.errors import ManifestError, Problem
from provisioner.manifest.check import parse_value
from provisioner.manifest.layer import parse_layer
from provisioner.model.value import Value


class Quirk(StrEnum):
    """What can be done about a controller.

    ``BOOT_LIFETIME_UNKNOWN``: what it says of once and for ever is not compared. ``UEFI_DISK_IS_REMOTE_DISK``: the disk
    has the device code 9 of table 28-14 with UEFI. ``NO_BOOT_TIMER``: the boot flags' timer is left alone.
    """

    BOOT_LIFETIME_UNKNOWN = "boot-lifetime-unknown"
    UEFI_DISK_IS_REMOTE_DISK = "uefi-disk-is-remote-disk"
    NO_BOOT_TIMER = "no-boot-timer"


class QuirkEntry(Value):
    """One entry of a quirks file. ``match``: ``driver``, and facts as the driver's ``identity`` names them."""

    match: dict[str, str | int]
    does: Quirk
    why: str
    source: str


def parse_quirks(path: str, text: str) -> list[QuirkEntry]:
    """:raises ManifestError: with every problem in the file."""
    layer = parse_layer(path, text)
    items = layer.data.get("quirks") if isinstance(layer.data, dict) else None
    if not isinstance(items, list):
        raise ManifestError([Problem(layer.where(()), "not a file of quirks", "write a map with the list quirks")])
    problems: list[Problem] = []
    found = [parse_value(QuirkEntry, layer.under("quirks", n), problems, ("quirks", n)) for n in range(len(items))]
    if problems:
        raise ManifestError(problems)
    return [entry for entry in found if entry is not None]


def read_quirks(folder: Path) -> list[QuirkEntry]:
    """Those of all files in a folder; none when it is not there.

    :raises ManifestError: a file is wrong.
    """
    return [entry for path in sorted(folder.glob("*.yaml")) for entry in parse_quirks(str(path), path.read_text())]


def match_quirks(entries: Sequence[QuirkEntry], driver: str, identity: Mapping[str, Any]) -> frozenset[Quirk]:
    """What to do about a controller that says ``identity`` of itself."""
    facts = {"driver": driver, **identity}
    return frozenset(e.does for e in entries if all(facts.get(key) == value for key, value in e.match.items()))
