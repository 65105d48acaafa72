"""The orders for an image that is a whole disk: it has its own table, loader and cloud-init, and only a seed is added.

The seed is a small FAT volume at the end of the disk, named as cloud-init's data source NoCloud looks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner_agent.ramdisk.disks import (
    Partition,
    device_size,
    disk_path,
    flush,
    mounted,
    opened,
    read_partitions,
)
from provisioner_agent.ramdisk.host import Host, run_checked
from provisioner_agent.ramdisk.loader import drop_entries
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.seed import write_below
from provisioner_agent.ramdisk.stack import close_stacks
from provisioner_agent.ramdisk.storage import ENDS_MIB, MIB, TYPES, old_partitions, wait_for_devices, wipe_disk

SEED_MIB = 8
SEED_LABEL = "CIDATA"
SEED_TYPES = {"gpt": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", "dos": "0c"}
"""Of a partition with a FAT file system."""
FALLBACK_LOADER = "/EFI/BOOT/BOOTX64.EFI"
"""Where firmware looks that remembers nothing of a disk (UEFI 2.10, 3.5.1.1)."""
BOOT_CODE = 440
"""Bytes of a disk's first sector that a BIOS runs."""


def do_clear_disk(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """Make a disk empty.

    :returns: as the order ``storage``; the whole disk is the root. :raises OrderFailed: it is in use.
    """
    close_stacks(host)
    path = disk_path(str(order["disk"]))
    gone = sorted(partition.uuid for partition in old_partitions(host, path))
    wipe_disk(host, path, set())
    return {"devices": {"root": path}, "made": [], "root_bytes": device_size(host, path), "gone": gone}


def do_seed_disk(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """Let the table reach to the end of the disk and put the seed there.

    :raises OrderFailed: the table cannot be read here, or has no room for one more partition.
    """
    path = disk_path(str(order["disk"]))
    kind = run_checked(host, ["blkid", "-p", "-s", "PTTYPE", "-o", "value", path], f"{path} has no partition table")
    if kind.strip() not in SEED_TYPES:
        raise OrderFailed(f"{path} has a partition table of the kind {kind.strip()!r}", "GPT and MBR are understood")
    if kind.strip() == "gpt":
        relocate = ["sfdisk", "--quiet", "--relocate", "gpt-bak-std", path]
        run_checked(host, relocate, f"the table of {path} cannot be moved to the end of the disk")
    start = device_size(host, path) // MIB - ENDS_MIB - SEED_MIB
    seed = _find_seed(host, path, start)
    if seed is None:
        script = f"start={start}MiB, size={SEED_MIB}MiB, type={SEED_TYPES[kind.strip()]}\n"
        added = host.run(["sfdisk", "--quiet", "--append", "--wipe-partitions", "never", path], stdin=script)
        seed = _find_seed(host, path, start)
        if seed is None:
            raise OrderFailed(
                f"{path} has no room for the seed of cloud-init", added.said or "all partitions are taken"
            )
    wait_for_devices(host, path, [seed.path])
    run_checked(host, ["mkfs.fat", "-n", SEED_LABEL, seed.path], f"no seed can be made on {seed.path}")
    with mounted(host, seed.path, "vfat") as folder:
        for file in order["files"]:
            write_below(host, folder, str(file["path"]), str(file["content"]).encode(), int(file["mode"]))
    flush(host, path)
    host.say(f"{seed.path}: the seed of cloud-init, {len(order['files'])} files")
    return {"seed": seed.path, "files": len(order["files"])}


def _find_seed(host: Host, path: str, start: int) -> Partition | None:
    """:param start: MiB."""
    return next((found for found in read_partitions(host, path) if found.start == start * MIB), None)


def do_check_disk(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """What the image brings to be booted with. :raises OrderFailed: this node's firmware cannot boot it."""
    path, firmware = disk_path(str(order["disk"])), str(order["firmware"])
    partitions = read_partitions(host, path)
    if firmware == "uefi":
        types = {kind.lower() for kind in TYPES["esp"]}
        esp = next((partition for partition in partitions if partition.type in types), None)
        if esp is None:
            raise OrderFailed("the image cannot boot on UEFI", "it has no EFI system partition")
        with mounted(host, esp.path, "vfat", read_only=True) as folder:
            if not host.exists(folder + FALLBACK_LOADER):
                raise OrderFailed("the image cannot boot on UEFI", f"there is no {FALLBACK_LOADER} on {esp.path}")
        drop_entries(host, order["gone"])
    elif not _has_boot_code(host, path):
        raise OrderFailed("the image cannot boot on BIOS", f"the first sector of {path} holds no program")
    host.say(f"{path}: the image has a boot loader ({firmware})")
    return {"firmware": firmware, "partitions": [partition.uuid for partition in partitions]}


def _has_boot_code(host: Host, path: str) -> bool:
    sector = memoryview(bytearray(BOOT_CODE))
    with opened(host, path, f"{path} cannot be read") as blocks:
        return blocks.read_into(0, sector) == BOOT_CODE and any(sector)
