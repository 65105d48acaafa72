"""Which disk gets the image: the node's root disk hints, and the guard over what a disk holds. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from typing import Any

from provisioner.errors import DeployError
from provisioner.model.hardware import Disk, HardwareReport

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


def esp_guid(deployment: str) -> str:
    return str(uuid.uuid5(IDS, f"{deployment}/esp"))


def root_guid(deployment: str) -> str:
    return str(uuid.uuid5(IDS, f"{deployment}/root"))


def choose_disk(
    node: str,
    hardware: HardwareReport,
    hints: Mapping[str, Any],
    *,
    root_min: int,
    esp_mib: int,
    wipe: bool,
    own_guids: Collection[str],
) -> Disk:
    """The disk to write.

    :param hints: ironic-lib's root device hints; without any, the smallest disk of 4 GiB or more that is large enough.
    :param root_min: bytes of the image's root file system.
    :param wipe: whether a disk that holds something may be overwritten.
    :param own_guids: GPT GUIDs that deployments of this node wrote which never became active.
    :raises DeployError: no disk matches, none is large enough, or the disk holds something.
    """
    if not hardware.disks:
        raise DeployError("the node has no disk", where=node, hint="check its controller and cables, then retry")
    needed = root_min + esp_mib * MIB + SLACK
    matching = _match(node, hardware, hints) if hints else [d for d in hardware.disks if d.size >= SMALLEST]
    enough = sorted((disk for disk in matching if disk.size >= needed), key=lambda disk: (disk.size, disk.name))
    if not enough:
        raise DeployError(
            "no disk matches the hints of the node" if hints and not matching else "no disk is large enough",
            where=node,
            cause=f"needed: {needed / GIB:.1f} GiB{f' and {dict(hints)}' if hints else ''}; found: {_list(hardware)}",
            hint=f"correct root_disk in the hardware file, enroll again, then: provisioner node retry {node}",
        )
    chosen = enough[0]
    ours = chosen.gpt_uuid is not None and chosen.gpt_uuid.lower() in own_guids
    if (chosen.signatures or chosen.gpt_uuid) and not wipe and not ours:
        raise DeployError(
            f"the disk {chosen.name} holds something and is not overwritten",
            where=node,
            cause=f"found on it: {', '.join(chosen.signatures) or f'GPT {chosen.gpt_uuid}'}",
            hint=f"if nothing on it is needed: provisioner node abort {node}, name it under wipe: in the cloud file, "
            "then provisioner apply",
        )
    return chosen


def _match(node: str, hardware: HardwareReport, hints: Mapping[str, Any]) -> list[Disk]:
    from ironic_lib.utils import find_devices_by_hints  # only here: its import costs 0.3 s

    devices = [_device(disk) for disk in hardware.disks]
    try:
        names = {device["name"] for device in find_devices_by_hints(devices, dict(hints))}
    except ValueError as error:
        raise DeployError(
            "the root disk hints of the node cannot be understood",
            where=node,
            cause=str(error),
            hint=f"correct root_disk in the hardware file, enroll again, then: provisioner node retry {node}",
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
