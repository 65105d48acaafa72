"""From a role's storage to the order for the ramdisk and the instance's fstab."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from provisioner.conductor.disk import choose_disks, needed_bytes
from provisioner.conductor.layout import Layout
from provisioner.errors import DeployError
from provisioner.model.deployment import Placement
from provisioner.model.hardware import Disk, Firmware, HardwareReport
from provisioner.model.storage import Storage

GIB, MIB = 1 << 30, 1 << 20
STACK = """
disks: {mirror: {serial: m}, data: {size: '>= 50'}}
groups: {vg0: [pv]}
volumes:
  - {name: r1, disk: root, size: 4GiB}
  - {name: swap, disk: root, size: 256MiB, filesystem: swap}
  - {name: r2, disk: mirror, size: 4GiB}
  - {name: root, raid: [r1, r2], mount: /}
  - {name: pv, disk: data}
  - {name: log, group: vg0, size: 1GiB, filesystem: ext4, mount: /var/log, label: logs}
  - {name: srv, group: vg0, filesystem: xfs, mount: /srv/data, options: noatime, keep: true}
"""
PLAIN = "{}"


def layout(text: str, firmware: Firmware = Firmware.UEFI, deployment: str = "d1", hostname: str = "db-0") -> Layout:
    storage = Storage.model_validate(yaml.safe_load(text))
    place = Placement(cloud="c", role="db", index=0, hostname=hostname, node="n1", image="db-1", addresses=())
    disks = {"root": "vda", "mirror": "sda", "data": "nvme0n1"}
    return Layout(storage, disks, deployment, place, firmware)


def partitions(order: dict[str, Any]) -> dict[str, list[tuple[str, str, int | None, bool]]]:
    return {
        disk["disk"]: [(p["name"], p["type"], p["size_mib"], p["keep"]) for p in disk["partitions"]]
        for disk in order["disks"]
    }


def test_a_role_that_says_nothing_has_one_partition() -> None:
    order = layout(PLAIN).order(2 * GIB)
    assert partitions(order) == {"vda": [("esp", "esp", 128, False), ("root", "root", None, False)]}
    assert (order["raids"], order["groups"], order["logicals"], order["root"]) == ([], [], [], "root")
    assert layout(PLAIN).grub_partition() == "gpt2" and not layout(PLAIN).stacked()
    guid = order["disks"][0]["partitions"][1]["guid"]
    lines = layout(PLAIN).fstab().splitlines()
    assert lines[0] == f"PARTUUID={guid} / ext4 errors=remount-ro 0 1"
    assert lines[1] == f"UUID={order['filesystems'][0]['uuid']} /boot/efi vfat umask=0077,nofail 0 2"


def test_on_bios_the_loader_has_a_partition_of_its_own() -> None:
    order = layout(PLAIN, Firmware.BIOS).order(2 * GIB)
    assert partitions(order)["vda"][0] == ("bios_boot", "bios", 1, False)
    assert order["filesystems"] == [] and len(layout(PLAIN, Firmware.BIOS).fstab().splitlines()) == 1


def test_an_mbr_has_neither() -> None:
    found = layout("{table: mbr, filesystem: xfs}", Firmware.BIOS)
    order = found.order(GIB)
    assert partitions(order)["vda"] == [("root", "root", None, False)]
    assert found.grub_partition() == "msdos1"
    assert found.root_device() == f"PARTUUID={order['disks'][0]['guid']}-01"
    assert found.fstab() == f"{found.root_device()} / xfs defaults 0 1\n"


def test_mirrored_disks_groups_and_what_is_kept() -> None:
    found = layout(STACK)
    order = found.order(2 * GIB)
    assert partitions(order) == {
        "vda": [("esp", "esp", 128, False), ("r1", "raid", 4096, False), ("swap", "swap", 256, False)],
        "sda": [("esp_mirror", "esp", 128, False), ("r2", "raid", 4096, False)],
        "nvme0n1": [("pv", "lvm", None, True)],
    }
    raids = [(raid["name"], raid["level"], raid["members"], raid["metadata"]) for raid in order["raids"]]
    assert raids == [("efi", 1, ["esp", "esp_mirror"], "1.0"), ("root", 1, ["r1", "r2"], "1.2")]
    assert order["groups"] == [{"name": "vg0", "members": ["pv"], "keep": True}]
    assert [(v["name"], v["size_mib"], v["keep"]) for v in order["logicals"]] == [
        ("log", 1024, False),
        ("srv", None, True),
    ]
    made = [(f["volume"], f["type"], f["keep"]) for f in order["filesystems"]]
    assert made == [("efi", "vfat", False), ("swap", "swap", False), ("log", "ext4", False), ("srv", "xfs", True)]
    assert (found.root_device(), found.grub_partition(), found.stacked()) == ("/dev/md/root", "", True)
    uuid = {item["volume"]: item["uuid"] for item in order["filesystems"]}
    assert found.fstab().splitlines() == [
        "/dev/md/root / ext4 errors=remount-ro 0 1",
        f"UUID={uuid['efi']} /boot/efi vfat umask=0077,nofail 0 2",
        f"UUID={uuid['log']} /var/log ext4 defaults 0 2",
        f"UUID={uuid['srv']} /srv/data xfs noatime 0 2",
        f"UUID={uuid['swap']} none swap sw 0 0",
    ]
    assert [mount["volume"] for mount in found.mounts()] == ["log", "srv"]


def identities(order: dict[str, Any]) -> dict[str, str]:
    found = {p["name"]: p["guid"] for disk in order["disks"] for p in disk["partitions"]}
    found |= {f"disk {disk['disk']}": disk["guid"] for disk in order["disks"]}
    found |= {f"raid {raid['name']}": raid["uuid"] for raid in order["raids"]}
    return found | {f"content {item['volume']}": item["uuid"] for item in order["filesystems"]}


def test_only_what_is_kept_is_the_same_in_the_next_deployment() -> None:
    first, again = (identities(layout(STACK).order(GIB)) for _ in range(2))
    assert first == again and len(set(first.values())) == len(first)
    second = identities(layout(STACK, deployment="d2").order(GIB))
    assert {name for name in first if first[name] == second[name]} == {"pv", "content srv"}
    other = identities(layout(STACK, hostname="db-1").order(GIB))
    assert {name for name in first if first[name] == other[name]} & {"pv", "content srv"} == set()


def disk(name: str, gib: float, **more: Any) -> Disk:
    return Disk(name=name, size=int(gib * GIB), **more)


def choose(storage: Storage, *disks: Disk, wipe: bool = False) -> dict[str, str]:
    hardware = HardwareReport(cpus=1, memory_mib=1024, firmware=Firmware.UEFI, disks=disks)
    found = choose_disks("n1", hardware, {}, storage, root_min=2 * GIB, wipe=wipe, own_tables=())
    return {name: disk.name for name, disk in found.items()}


def test_every_disk_of_a_role_is_another_one() -> None:
    storage = Storage.model_validate(yaml.safe_load(STACK))
    disks = (disk("vda", 8), disk("sda", 8, serial="m"), disk("sdb", 100), disk("sdc", 60))
    assert choose(storage, *disks) == choose(storage, *disks[::-1]) == {"root": "vda", "mirror": "sda", "data": "sdc"}
    with pytest.raises(DeployError, match="no disk matches the hints for mirror") as caught:
        choose(storage, disks[0], disks[2])
    assert "storage.disks.mirror in the role" in str(caught.value.hint)


def test_a_further_disk_that_holds_something_is_refused_too() -> None:
    storage = Storage.model_validate(yaml.safe_load(STACK))
    disks = (disk("vda", 7), disk("sda", 8, serial="m"), disk("sdb", 100, signatures=("LVM2_member",)))
    with pytest.raises(DeployError, match="sdb holds something"):
        choose(storage, *disks)
    assert choose(storage, *disks, wipe=True)["data"] == "sdb"


def test_a_disk_must_have_room_for_all_of_its_volumes() -> None:
    storage = Storage.model_validate(yaml.safe_load(STACK))
    assert needed_bytes(storage, "root", 2 * GIB) == (4096 + 256 + 128 + 8) * MIB
    assert needed_bytes(storage, "mirror", 2 * GIB) == (4096 + 128 + 8) * MIB
    assert needed_bytes(storage, "data", 2 * GIB) == 8 * MIB
    assert needed_bytes(Storage(), "root", 2 * GIB) == 2 * GIB + (128 + 8) * MIB
