"""The order ``storage``: an empty GPT with a boot partition and a root partition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner_agent.ramdisk.disks import disk_path, read_partitions, unmount_all
from provisioner_agent.ramdisk.host import Host, run_checked
from provisioner_agent.ramdisk.problem import OrderFailed

ESP_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
BIOS_BOOT_TYPE = "21686148-6449-6E6F-744E-656564454649"
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
"""Partition types: UEFI 2.10 table 5.7; GNU GRUB; Discoverable Partitions Specification (root, x86-64)."""
MIB = 1 << 20
TRIES = 40
PAUSE = 0.25


def render_table(order: Mapping[str, Any]) -> str:
    """The script for sfdisk(8)."""
    if order["firmware"] == "uefi":
        boot = f'start=1MiB, size={int(order["esp_mib"])}MiB, type={ESP_TYPE}, uuid={order["esp_guid"]}, name="esp"'
    else:
        boot = f'start=1MiB, size=1MiB, type={BIOS_BOOT_TYPE}, uuid={order["esp_guid"]}, name="bios-boot"'
    root = f'type={ROOT_TYPE}, uuid={order["root_guid"]}, name="root"'
    return f"label: gpt\nlabel-id: {order['disk_guid']}\n\n{boot}\n{root}\n"


def do_storage(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """Wipe the disk's signatures and partition it anew.

    :returns: the devices. :raises OrderFailed: in use, too small, or the kernel does not show the partitions.
    """
    disk = disk_path(str(order["disk"]))
    if not host.exists(disk):
        raise OrderFailed(f"there is no disk {disk}")
    unmount_all(host, disk)
    _wipe(host, disk)
    host.say(f"{disk}: partitions are written")
    argv = ["sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "always", disk]
    run_checked(host, argv, f"{disk} cannot be partitioned", stdin=render_table(order))
    boot, root = _wait_for_partitions(host, disk, str(order["esp_guid"]), str(order["root_guid"]))
    size = {partition.path: partition.size for partition in read_partitions(host, disk)}[root]
    if size < int(order["root_min"]):
        raise OrderFailed(
            f"{disk} is too small for the image", f"the root partition has {size} bytes, {order['root_min']} are needed"
        )
    if order["firmware"] == "uefi":
        argv = ["mkfs.fat", "-F", "32", boot]
        run_checked(host, argv, f"no file system can be made on {boot}", limit=300)
    return {"disk": disk, "root": root, "root_bytes": size}


def _wipe(host: Host, disk: str) -> None:
    """Clear signatures of the old partitions, then of the disk, then both places of a GPT."""
    name = disk.removeprefix("/dev/")
    parts = [f"/dev/{entry}" for entry in host.names(f"/sys/block/{name}") if entry.startswith(name)]
    host.say(f"{disk}: old signatures are wiped")
    for device in [*parts, disk]:
        run_checked(host, ["wipefs", "--all", "--force", device], f"{device} cannot be wiped")
    try:
        blocks = host.open_block(disk)
        try:
            size = int(host.read_text(f"/sys/block/{name}/size") or 0) * 512
            blocks.zero(0, MIB)
            if size > 2 * MIB:
                blocks.zero(size - MIB, MIB)
            blocks.flush()
        finally:
            blocks.close()
    except OSError as error:
        raise OrderFailed(f"{disk} cannot be written", str(error)) from error


def _wait_for_partitions(host: Host, disk: str, *guids: str) -> list[str]:
    """Their devices, once the kernel shows them; after some time it is asked to read the table again."""
    by_guid = {partition.uuid: partition.path for partition in read_partitions(host, disk)}
    try:
        paths = [by_guid[guid.lower()] for guid in guids]
    except KeyError as error:
        raise OrderFailed(f"{disk} does not keep its partition table", f"no partition {error} on it") from error
    for attempt in range(TRIES):
        if all(host.exists(path) for path in paths):
            return paths
        if attempt % 8 == 4:
            host.run(["blockdev", "--rereadpt", disk])
        host.sleep(PAUSE)
    raise OrderFailed(f"the kernel does not show the partitions of {disk}", ", ".join(paths))
