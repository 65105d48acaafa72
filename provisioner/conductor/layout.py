"""From a role's storage and the disks that were chosen to the order for the ramdisk, and to the instance's fstab. Pure.

Every identity is made from the deployment's id, so that a step that is begun again writes the same ones; what is kept
has its own from its place in the cloud, so that the next deployment of that place finds it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from provisioner.conductor.disk import IDS, esp_guid, guid_of_disk, mbr_of_disk, root_guid
from provisioner.model.deployment import Placement
from provisioner.model.hardware import Firmware
from provisioner.model.storage import Storage, Volume

ESP, BIOS_BOOT = "esp", "bios_boot"
NO_TABLE_MIB = 1
"""Before the first partition: the table, and with an MBR the loader too."""


class Layout:
    """One role's storage on one node's disks.

    :param disks: kernel names by the role's names, ``root`` among them.
    """

    def __init__(
        self, storage: Storage, disks: Mapping[str, str], deployment: str, placement: Placement, firmware: Firmware
    ) -> None:
        self._storage, self._disks, self._deployment = storage, disks, deployment
        self._placement, self._firmware = placement, firmware
        self._boot_disks = storage.disks_of(storage.root)

    def order(self, root_min: int) -> dict[str, Any]:
        """:param root_min: bytes of the image's file system."""
        storage = self._storage
        return {
            "firmware": str(self._firmware),
            "table": storage.table,
            "disks": [self._disk(name) for name in self._used()],
            "raids": list(self._raids()),
            "groups": [
                {"name": name, "members": list(members), "keep": any(map(self._kept, members))}
                for name, members in storage.groups.items()
            ],
            "logicals": [
                {"name": v.name, "group": v.group, "size_mib": v.size_mib, "keep": storage.is_kept(v)}
                for v in storage.layout
                if v.group
            ],
            "filesystems": list(self._filesystems()),
            "root": storage.root.name,
            "root_min": root_min,
        }

    def mounts(self) -> list[dict[str, str]]:
        """``[{"volume", "path", "filesystem"}]``, outer folders first, without the root."""
        found = [volume for volume in self._storage.layout if volume.mount and not volume.is_root]
        return [
            {"volume": v.name, "path": str(v.mount), "filesystem": str(v.filesystem)}
            for v in sorted(found, key=lambda v: str(v.mount).count("/"))
        ]

    def fstab(self) -> str:
        """fstab(5) of the instance."""
        root = self._storage.filesystem
        options = "errors=remount-ro" if root.startswith("ext") else "defaults"
        if self._storage.root.options != "defaults":
            options = self._storage.root.options
        lines = [f"{self.root_device()} / {root} {options} 0 1"]
        if self._firmware is Firmware.UEFI:
            lines.append(f"UUID={self._esp_serial()} /boot/efi vfat umask=0077,nofail 0 2")
        for mount in self.mounts():
            volume = self._storage.volume(mount["volume"])
            lines.append(f"UUID={self.uuid(volume.name)} {volume.mount} {volume.filesystem} {volume.options} 0 2")
        swaps = [volume for volume in self._storage.layout if volume.filesystem == "swap"]
        lines += [f"UUID={self.uuid(volume.name)} none swap {swap_options(volume)} 0 0" for volume in swaps]
        return "\n".join(lines) + "\n"

    def root_device(self) -> str:
        """How kernel and fstab name the root."""
        root = self._storage.root
        if root.raid:
            return f"/dev/md/{root.name}"
        if root.group:
            return f"/dev/mapper/{root.group}-{root.name}"
        if self._storage.table == "mbr":
            position = [v.name for v in self._storage.layout if v.disk == root.disk].index(root.name)
            return f"PARTUUID={mbr_of_disk(self._deployment, str(root.disk))}-{position + 1:02x}"
        return f"PARTUUID={self.guid(root.name)}"

    def grub_partition(self) -> str:
        """The root's partition as GRUB calls it, ``gpt2``; empty when it lies on a RAID or in a group."""
        root = self._storage.root
        if root.disk is None:
            return ""
        names = [partition["name"] for partition in self._disk(root.disk)["partitions"]]
        return f"{'msdos' if self._storage.table == 'mbr' else 'gpt'}{names.index(root.name) + 1}"

    def stacked(self) -> bool:
        """Whether there are RAIDs or volume groups."""
        return bool(self._storage.groups) or any(True for _ in self._raids())

    def raids(self) -> dict[str, str]:
        """UUIDs of RAIDs by name."""
        return {raid["name"]: raid["uuid"] for raid in self._raids()}

    def uuid(self, name: str) -> str:
        """Of the file system on a volume, or of a RAID."""
        return str(uuid.uuid5(IDS, f"{self._owner(name)}/{name}/content"))

    def guid(self, name: str) -> str:
        """Of a partition."""
        if name == self._storage.root.name:
            return root_guid(self._deployment)
        return str(uuid.uuid5(IDS, f"{self._owner(name)}/{name}"))

    def _owner(self, name: str) -> str:
        volume = next((volume for volume in self._storage.layout if volume.name == name), None)
        if volume is not None and self._storage.is_kept(volume):
            return f"{self._placement.cloud}/{self._placement.hostname}"
        return self._deployment

    def _kept(self, name: str) -> bool:
        return self._storage.is_kept(self._storage.volume(name))

    def _used(self) -> list[str]:
        """Disks that get a table: those of the root first, whatever else is named after."""
        volumes = [volume.disk for volume in self._storage.layout if volume.disk]
        return list(dict.fromkeys([*self._boot_disks, *volumes]))

    def _disk(self, name: str) -> dict[str, Any]:
        own = [volume for volume in self._storage.layout if volume.disk == name]
        partitions = [*self._boot_partition(name), *(self._partition(volume) for volume in own)]
        ident = mbr_of_disk if self._storage.table == "mbr" else guid_of_disk
        return {"disk": self._disks[name], "guid": ident(self._deployment, name), "partitions": partitions}

    def _guid_of(self, what: str) -> str:
        return str(uuid.uuid5(IDS, f"{self._deployment}/{what}"))

    def _boot_partition(self, disk: str) -> Iterator[dict[str, Any]]:
        if disk not in self._boot_disks or self._storage.table == "mbr":
            return
        first = disk == self._boot_disks[0]
        uefi = self._firmware is Firmware.UEFI
        name = (ESP if uefi else BIOS_BOOT) + ("" if first else f"_{disk}")
        yield {
            "name": name,
            "guid": esp_guid(self._deployment) if first else self._guid_of(name),
            "type": "esp" if uefi else "bios",
            "size_mib": self._storage.esp_mib if uefi else 1,
            "keep": False,
        }

    def _partition(self, volume: Volume) -> dict[str, Any]:
        above = [other for other in self._storage.layout if volume.name in other.raid]
        kind = "raid" if above else "lvm" if any(volume.name in m for m in self._storage.groups.values()) else "linux"
        if volume.is_root:
            kind = "root"
        elif volume.filesystem == "swap":
            kind = "swap"
        return {
            "name": volume.name,
            "guid": self.guid(volume.name),
            "type": kind,
            "size_mib": volume.size_mib,
            "keep": self._storage.is_kept(volume),
        }

    def _mirrored_esp(self) -> bool:
        return self._firmware is Firmware.UEFI and len(self._boot_disks) > 1 and self._storage.table == "gpt"

    def _raids(self) -> Iterator[dict[str, Any]]:
        if self._mirrored_esp():
            # Its superblock at the end (md(4), 1.0): firmware reads each member as the FAT file system that it is.
            members = [ESP, *(f"{ESP}_{disk}" for disk in self._boot_disks[1:])]
            efi = {"name": "efi", "level": 1, "members": members, "metadata": "1.0"}
            yield efi | {"uuid": self.uuid("efi"), "keep": False}
        for v in (volume for volume in self._storage.layout if volume.raid):
            yield {
                "name": v.name,
                "level": v.level,
                "members": list(v.raid),
                "metadata": "1.2",
                "uuid": self.uuid(v.name),
                "keep": self._storage.is_kept(v),
            }

    def _filesystems(self) -> Iterator[dict[str, Any]]:
        if self._firmware is Firmware.UEFI and self._storage.table == "gpt":
            name = "efi" if self._mirrored_esp() else ESP
            yield {"volume": name, "type": "vfat", "uuid": self._esp_serial(), "label": "ESP", "keep": False}
        for v in (volume for volume in self._storage.layout if volume.filesystem):
            yield {
                "volume": v.name,
                "type": str(v.filesystem),
                "uuid": self.uuid(v.name),
                "label": v.label,
                "keep": v.keep,
            }

    def _esp_serial(self) -> str:
        """A FAT volume's serial number, as Linux writes it."""
        digits = self._guid_of("esp-serial")[:8].upper()
        return f"{digits[:4]}-{digits[4:]}"


def swap_options(volume: Volume) -> str:
    return "sw" if volume.options == "defaults" else volume.options
