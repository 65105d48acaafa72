"""The order ``storage``: partitions, then what is stacked on them, then file systems; what is kept stays as it is.

Its parts, each a list in the order (see :mod:`provisioner_agent.protocol.messages`), refer to each other by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from provisioner_agent.ramdisk.disks import Partition, device_size, disk_path, opened, read_partitions, unmount_all
from provisioner_agent.ramdisk.host import Host, run_checked
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.stack import close_stacks, make_groups, make_logicals, make_raids

TYPES = {
    "esp": ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "ef"),
    "bios": ("21686148-6449-6E6F-744E-656564454649", ""),
    "root": ("4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "83"),
    "linux": ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83"),
    "swap": ("0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", "82"),
    "raid": ("A19D880F-05FC-4D3B-A006-743F0F84911E", "fd"),
    "lvm": ("E6D6D379-F507-44C2-A23C-238F2A3DF928", "8e"),
}
"""Partition types for GPT and MBR: UEFI 2.10 table 5.7; GNU GRUB; Discoverable Partitions Specification; fdisk(8)."""
MIB = 1 << 20
ENDS_MIB = 1
"""At the beginning and at the end of a disk, for the tables; with an MBR the loader lies at the beginning too."""
FAT32_CLUSTERS = 66_600
"""The least that a FAT32 has, 65525, and what its own tables take of them."""
TRIES = 26
FIRST_PAUSE, LAST_PAUSE = 0.01, 0.5
MAKE_SECONDS = 1800.0


def do_storage(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out the disks.

    :returns: ``devices`` by name, ``made``: names of file systems that are new, ``root_bytes``, ``gone``: GUIDs of
        partitions that were there before.
    :raises OrderFailed: in use, too small, or what is to be kept lies elsewhere.
    """
    close_stacks(host)
    paths: dict[str, str] = {}
    before = set[str]()
    for disk in order["disks"]:
        devices, old = partition_disk(host, disk, str(order["table"]))
        paths |= devices
        before |= {partition.uuid for partition in old if partition.uuid}
    gone = before - {str(item["guid"]).lower() for disk in order["disks"] for item in disk["partitions"]}
    paths |= make_raids(host, order["raids"], paths)
    make_groups(host, order["groups"], paths)
    paths |= make_logicals(host, order["logicals"])
    size = device_size(host, paths[order["root"]])
    if size < int(order["root_min"]):
        root = paths[order["root"]]
        raise OrderFailed(f"{root} is too small for the image", f"it has {size} bytes, {order['root_min']} are needed")
    made = [str(item["volume"]) for item in order["filesystems"] if _make_filesystem(host, item, paths)]
    return {"devices": paths, "made": made, "root_bytes": size, "gone": sorted(gone)}


def old_partitions(host: Host, path: str) -> list[Partition]:
    """What a disk that nothing may use has before it is written; nothing when it has no table.

    :raises OrderFailed: it is not there, or in use.
    """
    if not host.exists(path):
        raise OrderFailed(f"there is no disk {path}")
    unmount_all(host, path)
    return read_partitions(host, path) if host.run(["sfdisk", "--json", path]).code == 0 else []


def partition_disk(host: Host, disk: Mapping[str, Any], table: str) -> tuple[dict[str, str], list[Partition]]:
    """Write one disk's table. :returns: the partitions' devices by name, and what was there before."""
    path, wanted = disk_path(str(disk["disk"])), disk["partitions"]
    old = old_partitions(host, path)
    name = path.removeprefix("/dev/")
    size = int(host.read_text(f"/sys/block/{name}/size") or 0) * 512 // MIB
    places = lay_out(wanted, size, path)
    kept = find_kept(path, old, wanted, places)
    wipe_disk(host, path, {partition.path for partition in kept})
    host.say(f"{path}: partitions are written" + (f", {len(kept)} are kept" if kept else ""))
    argv = ["sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "never", path]
    script = render_table(disk, table, places)
    run_checked(host, argv, f"{path} cannot be partitioned", stdin=script)
    devices = _wait_for_partitions(host, path, disk, table)
    keeping = {partition.uuid for partition in kept}
    wipe_signatures(host, [devices[item["name"]] for item in wanted if item["guid"].lower() not in keeping])
    return devices, old


def lay_out(wanted: Sequence[Mapping[str, Any]], size: int, path: str) -> list[tuple[int, int]]:
    """(start, size) of each partition. :param size: of the disk; all in MiB. :raises OrderFailed: it is too small."""
    places, at = [], ENDS_MIB
    for item in wanted:
        left = size - ENDS_MIB - at
        length = left if item["size_mib"] is None else int(item["size_mib"])
        if length <= 0 or length > left:
            raise OrderFailed(f"{path} is too small", f"{max(left, 0)} MiB are left for {item['name']}")
        places.append((at, length))
        at += length
    return places


def render_table(disk: Mapping[str, Any], table: str, places: Sequence[tuple[int, int]]) -> str:
    """The script for sfdisk(8)."""
    mbr = table == "mbr"
    lines = [f"label: {'dos' if mbr else 'gpt'}", f"label-id: {'0x' if mbr else ''}{disk['guid']}", ""]
    for item, (start, size) in zip(disk["partitions"], places, strict=True):
        gpt, old = TYPES[item["type"]]
        line = f"start={start}MiB, size={size}MiB, type={old if mbr else gpt}"
        if mbr:
            line += ", bootable" if item["type"] == "root" else ""
        else:
            line += f', uuid={item["guid"]}, name="{item["name"].replace("_", "-")}"'
        lines.append(line)
    return "\n".join(lines) + "\n"


def find_kept(
    path: str, old: Sequence[Partition], wanted: Sequence[Mapping[str, Any]], places: Sequence[tuple[int, int]]
) -> list[Partition]:
    """What is to be kept and is there. :raises OrderFailed: its place has changed."""
    by_guid = {item["guid"].lower(): (item, place) for item, place in zip(wanted, places, strict=True) if item["keep"]}
    kept = []
    for partition in old:
        item, place = by_guid.get(partition.uuid, (None, (0, 0)))
        if item is None:
            continue
        there = (partition.start // MIB, partition.size // MIB)
        if there != place:
            raise OrderFailed(
                f"{item['name']} on {path} is to be kept, and the role gives it another place",
                f"it begins at {there[0]} MiB and has {there[1]}; the role says {place[0]} and {place[1]}",
            )
        kept.append(partition)
    return kept


def wipe_disk(host: Host, disk: str, kept: set[str]) -> None:
    """Clear signatures of the old partitions, then of the disk, then both places of a table."""
    name = disk.removeprefix("/dev/")
    parts = [f"/dev/{entry}" for entry in host.names(f"/sys/block/{name}") if entry.startswith(name)]
    host.say(f"{disk}: old signatures are wiped")
    wipe_signatures(host, [*(part for part in parts if part not in kept), disk])
    with opened(host, disk, f"{disk} cannot be written") as blocks:
        size = int(host.read_text(f"/sys/block/{name}/size") or 0) * 512
        blocks.zero(0, MIB)
        if size > 2 * MIB:
            blocks.zero(size - MIB, MIB)
        blocks.flush()


def wipe_signatures(host: Host, devices: Sequence[str]) -> None:
    """Whatever lay there before is not found any more. :raises OrderFailed:"""
    if devices:
        names = ", ".join(devices)
        run_checked(host, ["wipefs", "--all", "--force", *devices], f"{names} cannot be wiped")


def _wait_for_partitions(host: Host, disk: str, wanted: Mapping[str, Any], table: str) -> dict[str, str]:
    """Devices by name, once the kernel shows them."""
    by_guid = {partition.uuid: partition.path for partition in read_partitions(host, disk)}
    paths = {}
    for number, item in enumerate(wanted["partitions"]):
        guid = f"{wanted['guid']}-{number + 1:02x}" if table == "mbr" else item["guid"].lower()
        if guid not in by_guid:
            raise OrderFailed(f"{disk} does not keep its partition table", f"no partition {guid} on it")
        paths[str(item["name"])] = by_guid[guid]
    wait_for_devices(host, disk, list(paths.values()))
    return paths


def wait_for_devices(host: Host, disk: str, paths: Sequence[str]) -> None:
    """Until the kernel shows them; after some time it is asked to read the table again. :raises OrderFailed:"""
    pause = FIRST_PAUSE
    for attempt in range(TRIES):
        if all(host.exists(path) for path in paths):
            return
        if attempt % 8 == 7:
            host.run(["blockdev", "--rereadpt", disk])
        host.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)
    raise OrderFailed(f"the kernel does not show the partitions of {disk}", ", ".join(paths))


def _make_filesystem(host: Host, item: Mapping[str, Any], paths: Mapping[str, str]) -> bool:
    """:returns: whether it is new; one that is kept and there is left alone."""
    device, kind, uuid = paths[item["volume"]], str(item["type"]), str(item["uuid"])
    if item["keep"]:
        said = host.run(["blkid", "-p", "-s", "UUID", "-o", "value", device]).output.strip()
        if said == uuid:
            host.say(f"{device}: {item['volume']} is kept")
            return False
    label = str(item["label"])
    argv = {
        "vfat": ["mkfs.fat", "-F", _fat_bits(host, device), "-i", uuid.replace("-", ""), "-n", label or "ESP", device],
        "ext4": ["mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-L", label, device],
        "xfs": ["mkfs.xfs", "-q", "-f", "-m", f"uuid={uuid}", *(["-L", label] if label else []), device],
        "swap": ["mkswap", "--uuid", uuid, *(["--label", label] if label else []), device],
    }[kind]
    host.say(f"{device}: {kind} for {item['volume']}")
    run_checked(host, argv, f"no {kind} can be made on {device}", limit=MAKE_SECONDS)
    return True


def _fat_bits(host: Host, device: str) -> str:
    """A FAT with so few clusters that its number says 16 is read as one, whatever else is written in it.

    With sectors of 4096 bytes that is so below 260 MiB (Microsoft, FAT32 File System Specification 1.03, "FAT Type").
    """
    size, sector = host.measure(device)
    return "32" if size // sector > FAT32_CLUSTERS else "16"
