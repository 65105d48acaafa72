"""How the disks of a role's nodes are laid out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from provisioner.model.value import Value

UNITS = {"MiB": 1, "GiB": 1 << 10, "TiB": 1 << 20}
"""Units of sizes, in MiB."""
ROOT_DISK = "root"
"""The disk that the node's own hints choose."""


class Volume(Value):
    """A partition (``disk``), a software RAID (``raid``, ``level``) or a logical volume (``group``).

    ``size``: such as ``20GiB``; without it, all that is left. ``options``: for mounting (fstab(5)). ``keep``: what it
    holds stays when the same member of the cloud is deployed on the same disks again.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,14}$")
    disk: str | None = None
    raid: tuple[str, ...] = ()
    level: Literal[0, 1, 5, 6, 10] = 1
    group: str | None = None
    size: str | None = Field(default=None, pattern=r"^[1-9]\d{0,8}(MiB|GiB|TiB)$")
    filesystem: Literal["ext4", "xfs", "swap"] | None = None
    mount: str | None = None
    options: str = Field(default="defaults", pattern=r"^[!-~]+$")
    label: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,12}$")
    keep: bool = False

    @property
    def size_mib(self) -> int | None:
        return None if self.size is None else int(self.size[:-3]) * UNITS[self.size[-3:]]

    @property
    def is_root(self) -> bool:
        return self.mount == "/"


class Storage(Value):
    """Sizes in MiB. ``filesystem``: the image's own, ``grow``: it fills its volume. ``wipe`` lets disks that hold
    something be overwritten.

    ``disks``: further disks by name, each chosen by hints as the root disk is. ``groups``: LVM volume groups, each with
    the partitions or RAIDs that it is made of. ``volumes``: without any, one partition that fills the root disk.
    """

    filesystem: str = "ext4"
    table: Literal["gpt", "mbr"] = "gpt"
    esp_mib: int = Field(default=128, ge=32)
    grow: bool = True
    wipe: bool = False
    disks: dict[str, dict[str, Any]] = Field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()

    @property
    def layout(self) -> tuple[Volume, ...]:
        return self.volumes or (Volume(name="root", disk=ROOT_DISK, mount="/"),)

    @property
    def root(self) -> Volume:
        return next(volume for volume in self.layout if volume.is_root)

    def volume(self, name: str) -> Volume:
        return next(volume for volume in self.layout if volume.name == name)

    def members(self, volume: Volume) -> tuple[Volume, ...]:
        """What a volume lies on directly: nothing for a partition."""
        names = volume.raid or (self.groups[volume.group] if volume.group else ())
        return tuple(self.volume(name) for name in names)

    def disks_of(self, volume: Volume) -> tuple[str, ...]:
        """The names of the disks that a volume lies on in the end."""
        if volume.disk:
            return (volume.disk,)
        below = (disk for member in self.members(volume) for disk in self.disks_of(member))
        return tuple(dict.fromkeys(below))

    def is_kept(self, volume: Volume) -> bool:
        """Whether it, or anything that lies on it, is kept."""
        above = [other for other in self.layout if volume in self.members(other)]
        return volume.keep or any(self.is_kept(other) for other in above)
