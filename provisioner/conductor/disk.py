"""Which disk gets the image: the node's root disk hints, and the guard over what a disk holds. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from typing import Any

from provisioner.errors import DeployError
from provisioner.model.hardware import Disk, HardwareReport
from provisioner.model.storage import ROOT_DISK, Storage

GIB = 1 << 30
MIB = 1 << 20
SMALLEST = 4 * GIB
"""Bytes. Without hints, smaller disks (card readers, boot modules) are not taken."""
SLACK = 8 * MIB
"""Bytes for the partition tables at both ends, the BIOS boot partition and alignment."""
IDS = uuid.UUID("5f0e6b0e-0a43-5d7c-9a50-7c3a1f7f2f11")
"""Name space of the GUIDs below (RFC 9562, version 5): the same deployment always writes the same ones."""


def disk_guid(deployment: str) -> str:
    return str(uuid.uuid5(IDS, f"{deployment}/disk"))


def guid_of_disk(deployment: str, name: str) -> str:
    """Of the table on a disk, by the role's name for it."""
    return disk_guid(deployment) if name == ROOT_DISK else str(uuid.uuid5(IDS, f"{deployment}/disk-{name}"))


def mbr_of_disk(deployment: str, name: str) -> str:
    """The same for an MBR, which has room for 32 bits: 8 hex digits."""
    return str(uuid.uuid5(IDS, f"{deployment}/mbr-{name}"))[:8]


def esp_guid(deployment: str) -> str:
    return str(uuid.uuid5(IDS, f"{deployment}/esp"))


def root_guid(deployment: str) -> str:
    return str(uuid.uuid5(IDS, f"{deployment}/root"))


def choose_disks(
    node: str,
    hardware: HardwareReport,
    root_hints: Mapping[str, Any],
    storage: Storage,
    *,
    root_min: int,
    sector: int = 0,
    wipe: bool,
    own_tables: Collection[str],
) -> dict[str, Disk]:
    """The disks to write, by the role's names for them, none for two names.

    A root disk without hints is chosen last, so that it leaves alone what the role names.

    :param root_hints: of the node. :param root_min: bytes of the image's root file system, or of its whole disk.
    :param sector: bytes of the sectors that the root disk must have; 0 for any.
    :param wipe: whether disks that hold something may be overwritten.
    :param own_tables: what the tables call themselves that deployments of this node wrote which never became active:
        what such a disk holds is nobody's.
    :raises DeployError: no disk matches, none is large enough, or one holds something.
    """
    chosen: dict[str, Disk] = {}
    for name in (ROOT_DISK, *storage.disks) if root_hints else (*storage.disks, ROOT_DISK):
        left = tuple(disk for disk in hardware.disks if disk not in chosen.values())
        chosen[name] = choose_disk(
            node,
            hardware.model_copy(update={"disks": left}),
            root_hints if name == ROOT_DISK else storage.disks[name],
            name=name,
            needed=needed_bytes(storage, name, root_min),
            sector=sector if name == ROOT_DISK else 0,
            wipe=wipe,
            own_tables=own_tables,
        )
    return chosen


def needed_bytes(storage: Storage, disk: str, root_min: int) -> int:
    """How large a disk of a role must be at least. :param root_min: bytes of the image's root file system."""
    sizes = [(volume.size_mib or 0) * MIB for volume in storage.layout if volume.disk == disk]
    boots = disk in storage.disks_of(storage.root)
    root = root_min if boots and any(volume.size is None for volume in storage.layout if volume.disk == disk) else 0
    return sum(sizes) + root + (storage.esp_mib * MIB if boots else 0) + SLACK


def choose_disk(
    node: str,
    hardware: HardwareReport,
    hints: Mapping[str, Any],
    *,
    name: str = ROOT_DISK,
    needed: int,
    sector: int = 0,
    wipe: bool,
    own_tables: Collection[str],
) -> Disk:
    """One of the disks to write.

    :param hints: ironic-lib's root device hints; without any, the smallest disk of 4 GiB or more that is large enough.
    :param name: how the role calls it. :param needed: bytes. :param sector: :param own_tables: see above.
    :raises DeployError: no disk matches, none is large enough, or the disk holds something.
    """
    if not hardware.disks:
        what = "the node has no disk" + ("" if name == ROOT_DISK else f" left for {name}")
        raise DeployError(what, where=node, hint="check its controller and cables, then retry")
    correct = "root_disk in the hardware file, enroll again"
    if name != ROOT_DISK:
        correct = f"storage.disks.{name} in the role"
    matching = _match(node, hardware, hints, correct) if hints else [d for d in hardware.disks if d.size >= SMALLEST]
    enough = sorted((disk for disk in matching if disk.size >= needed), key=lambda disk: (disk.size, disk.name))
    if not enough:
        raise DeployError(
            ("no disk matches the hints" if hints and not matching else "no disk is large enough") + f" for {name}",
            where=node,
            cause=f"needed: {needed / GIB:.1f} GiB{f' and {dict(hints)}' if hints else ''}; found: {_list(hardware)}",
            hint=f"correct {correct}, then: provisioner node retry {node}",
        )
    fitting = [disk for disk in enough if sector in (0, disk.sector)]
    if not fitting:
        raise DeployError(
            f"the image was made for a disk with sectors of {sector} bytes",
            where=node,
            cause=f"{', '.join(f'{disk.name} has {disk.sector}' for disk in enough)}; its table would be void there",
            hint="bring an image that was made for such a disk, or one that is a file system",
        )
    chosen = fitting[0]
    ours = chosen.table is not None and chosen.table.lower() in own_tables
    if (chosen.signatures or chosen.table) and not wipe and not ours:
        raise DeployError(
            f"the disk {chosen.name} holds something and is not overwritten",
            where=node,
            cause=f"found on it: {', '.join(chosen.signatures) or f'table {chosen.table}'}",
            hint=f"if nothing on it is needed: name {node} under wipe: in the cloud file, then provisioner apply",
        )
    return chosen


def _match(node: str, hardware: HardwareReport, hints: Mapping[str, Any], correct: str) -> list[Disk]:
    from ironic_lib.utils import find_devices_by_hints  # only here: its import costs 0.3 s

    devices = [_device(disk) for disk in hardware.disks]
    try:
        names = {device["name"] for device in find_devices_by_hints(devices, dict(hints))}
    except ValueError as error:
        raise DeployError(
            "the hints of a disk cannot be understood",
            where=node,
            cause=str(error),
            hint=f"correct {correct}, then: provisioner node retry {node}",
        ) from error
    return [disk for disk in hardware.disks if _path(disk) in names]


def _device(disk: Disk) -> dict[str, Any]:
    """A disk in the words of ironic-lib; what is not known is left out, so that no hint matches it."""
    texts = {"model": disk.model, "serial": disk.serial, "wwn": disk.wwn, "vendor": disk.vendor}
    known = {key: value for key, value in (texts | {"by_path": disk.by_path}).items() if value}
    return known | {"name": _path(disk), "size": disk.size, "rotational": disk.rotational}


def _path(disk: Disk) -> str:
    return disk.name if disk.name.startswith("/") else f"/dev/{disk.name}"


def _list(hardware: HardwareReport) -> str:
    return "; ".join(
        f"{disk.name} {disk.size / GIB:.1f} GiB {disk.model or 'no model'}".strip() for disk in hardware.disks
    )
