"""The storage of a role: every volume has one place, every part is used once, and the root can be booted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from provisioner.errors import Problem
from provisioner.manifest.check import suggest
from provisioner.manifest.layer import Layer, Path
from provisioner.model.role import Role
from provisioner.model.storage import ROOT_DISK, Storage, Volume

ELEMENT = "storage"
"""The element that brings the programs for what a plain image has not."""
GROUP = re.compile(r"^[a-z][a-z0-9_]{0,14}$")
LEAST = {0: 2, 1: 2, 5: 3, 6: 4, 10: 2}
"""Members that each RAID level needs (md(4))."""
MBR_PARTITIONS = 4
OWN = ("/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/usr", "/bin", "/sbin", "/lib", "/lib64")
"""Folders that must be part of the root file system."""
RESERVED = frozenset({"esp", "bios_boot", "efi"})


def check_storage(role: Role, layer: Layer) -> Iterator[Problem]:
    storage = role.storage
    if not storage.volumes:
        return
    yield from _check_names(storage, layer)
    places = list(_check_places(storage, layer))
    yield from places
    if places:
        return  # what follows walks from volume to volume
    yield from _check_mounts(storage, layer)
    yield from _check_rest(storage, layer)
    needs = {volume.filesystem for volume in storage.volumes} & {"xfs"} or any(
        volume.raid or volume.group for volume in storage.volumes
    )
    if needs and not role.image.disk and ELEMENT not in role.image.elements:
        what = f"image.elements: xfs, RAID and volume groups need the element {ELEMENT}"
        yield Problem(layer.where(("image", "elements")), what, f"add {ELEMENT}")


def _at(number: int, key: str = "") -> Path:
    return ("storage", "volumes", number, key) if key else ("storage", "volumes", number)


def _check_names(storage: Storage, layer: Layer) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for number, volume in enumerate(storage.volumes):
        where = layer.where(_at(number, "name"))
        if volume.name in seen:
            yield Problem(where, f"storage: the volume {volume.name} exists already", f"see {seen[volume.name]}")
        elif volume.name in RESERVED or volume.name.startswith(("esp_", "bios_boot_")):
            yield Problem(where, f"storage: {volume.name} is made by itself", "give the volume another name")
        seen.setdefault(volume.name, where)
    if ROOT_DISK in storage.disks:
        where = layer.where(("storage", "disks", ROOT_DISK))
        yield Problem(
            where, f"storage.disks.{ROOT_DISK}: the node's own hints choose it", "write them in its hardware file"
        )


def _check_places(storage: Storage, layer: Layer) -> Iterator[Problem]:
    known = {volume.name for volume in storage.volumes}
    disks = {ROOT_DISK, *storage.disks}
    used: dict[str, str] = {}
    for number, volume in enumerate(storage.volumes):
        what = f"storage.volumes: {volume.name}"
        if [volume.disk is not None, bool(volume.raid), volume.group is not None].count(True) != 1:
            yield Problem(layer.where(_at(number)), f"{what} is on nothing, or on several", "write disk, raid or group")
        if volume.disk is not None and volume.disk not in disks:
            problem = f"{what} is on an unknown disk {volume.disk!r}"
            yield Problem(layer.where(_at(number, "disk")), problem, suggest(volume.disk, disks))
        if volume.group is not None and volume.group not in storage.groups:
            problem = f"{what} is in an unknown group {volume.group!r}"
            yield Problem(layer.where(_at(number, "group")), problem, suggest(volume.group, storage.groups))
        if volume.raid and len(volume.raid) < LEAST[volume.level]:
            problem = f"{what}: a RAID {volume.level} has {LEAST[volume.level]} members or more"
            yield Problem(layer.where(_at(number, "raid")), problem)
        for member in volume.raid:
            if member in known and next(v for v in storage.volumes if v.name == member).disk is None:
                yield Problem(layer.where(_at(number, "raid")), f"{what}: {member} is no partition")
        if volume.raid and volume.size:
            problem = f"{what}: a RAID is as large as its members allow"
            yield Problem(layer.where(_at(number, "size")), problem, "take size out")
        yield from _check_members(volume.raid, _at(number, "raid"), what, known, used, layer)
    for name, members in storage.groups.items():
        path: Path = ("storage", "groups", name)
        if not GROUP.match(name):
            what = f"storage.groups: {name!r} is not a name"
            yield Problem(layer.where(path), what, "write one such as vg0, small letters, digits and _")
        yield from _check_members(members, path, f"storage.groups: {name}", known, used, layer)
    if _circle(storage):
        yield Problem(layer.where(("storage", "volumes")), "storage.volumes: a volume lies on itself")


def _check_members(
    members: tuple[str, ...], path: Path, what: str, known: set[str], used: dict[str, str], layer: Layer
) -> Iterator[Problem]:
    for member in members:
        if member not in known:
            yield Problem(layer.where(path), f"{what}: there is no volume {member!r}", suggest(member, known))
        elif member in used:
            yield Problem(layer.where(path), f"{what}: {member} is used already", f"see {used[member]}")
        used.setdefault(member, layer.where(path))


def _circle(storage: Storage) -> set[str]:
    """Names of volumes that lie on themselves."""
    below = {
        volume.name: set(volume.raid or (storage.groups.get(volume.group, ()) if volume.group else ()))
        for volume in storage.volumes
    }
    found = set()
    for name in below:
        todo, seen = list(below[name]), set[str]()
        while todo:
            member = todo.pop()
            if member not in seen:
                seen.add(member)
                todo += below.get(member, ())
        if name in seen:
            found.add(name)
    return found


def _check_mounts(storage: Storage, layer: Layer) -> Iterator[Problem]:
    roots = [volume for volume in storage.volumes if volume.is_root]
    if len(roots) != 1:
        what = f"storage.volumes: {len(roots)} volumes are mounted on /, one must be"
        yield Problem(layer.where(("storage", "volumes")), what, "write mount: / at one of them")
    below = {member.name for volume in storage.volumes for member in storage.members(volume)}
    mounts = Counter(volume.mount for volume in storage.volumes if volume.mount)
    for number, volume in enumerate(storage.volumes):
        what, where = f"storage.volumes: {volume.name}", layer.where(_at(number))
        if volume.name in below and (volume.filesystem or volume.mount):
            yield Problem(where, f"{what} is part of something and holds no file system itself", "take filesystem out")
            continue
        if volume.mount and mounts[volume.mount] > 1:
            yield Problem(where, f"{what}: {volume.mount} is mounted more than once")
        if volume.is_root:
            yield from _check_root(volume, what, where)
        elif volume.mount:
            yield from _check_mount(volume, volume.mount, what, where)
        elif volume.filesystem not in (None, "swap"):
            yield Problem(where, f"{what} is mounted nowhere", "write mount: /srv or the like")
        if volume.keep and volume.filesystem is None:
            yield Problem(where, f"{what}: only a file system can be kept", "write keep where the file system is")


def _check_root(volume: Volume, what: str, where: str) -> Iterator[Problem]:
    if volume.filesystem is not None:
        yield Problem(where, f"{what}: the root's file system is the image's", "take filesystem out")
    if volume.raid and volume.level != 1:
        yield Problem(where, f"{what}: the root can lie on a RAID 1 only", "write level: 1")
    if volume.keep:
        yield Problem(where, f"{what}: the root is written with each deployment", "keep another volume")


def _check_mount(volume: Volume, mount: str, what: str, where: str) -> Iterator[Problem]:
    parts = mount.split("/")
    if not mount.startswith("/") or mount.endswith("/") or any(part in ("", ".", "..") for part in parts[1:]):
        yield Problem(where, f"{what}: {mount!r} is not a folder's path", "write it as /var/lib/mysql")
    elif any(mount == folder or mount.startswith(f"{folder}/") for folder in OWN):
        yield Problem(where, f"{what}: {mount} must be part of the root")
    if volume.filesystem not in ("ext4", "xfs"):
        yield Problem(where, f"{what} has no file system to mount", "write filesystem: ext4 or xfs")


def _check_rest(storage: Storage, layer: Layer) -> Iterator[Problem]:
    """What takes all that is left comes last, on its disk or in its group."""
    open_ended: dict[tuple[str, str], str] = {}
    for number, volume in enumerate(storage.volumes):
        place = ("disk", volume.disk) if volume.disk else ("group", volume.group or "")
        if volume.raid:
            continue
        if place in open_ended:
            what = f"storage.volumes: nothing is left for {volume.name}: {open_ended[place]} takes all of {place[1]}"
            yield Problem(layer.where(_at(number)), what, f"give {open_ended[place]} a size")
        if volume.size is None:
            open_ended.setdefault(place, volume.name)
    if storage.table == "mbr":
        for disk, count in Counter(volume.disk for volume in storage.volumes if volume.disk).items():
            if count > MBR_PARTITIONS:
                what = f"storage.table: mbr has {MBR_PARTITIONS} partitions at most, {disk} is to have {count}"
                yield Problem(layer.where(("storage", "table")), what, "write table: gpt, or use a volume group")
        if any(volume.keep for volume in storage.volumes):
            what = "storage.table: volumes are kept on disks with table: gpt only"
            yield Problem(layer.where(("storage", "table")), what, "write table: gpt")
